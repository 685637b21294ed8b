"""Seeded fuzzing: raw protobuf on a live server, and the parsers of models, archives, data sets and policies.

``LIEAUDIT_FUZZ`` multiplies the number of inputs (default 1).
"""

from __future__ import annotations

import io
import os
import random
import signal
import tarfile
import warnings
import zipfile
from collections import Counter

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lieaudit_api.v1 import audit_pb2, dataset_pb2, model_pb2
from lieaudit_server.worker.graph_limits import GraphLimits, check
from lieaudit_server.worker.sources import unpack
from PIL import Image

from lieaudit.data import Limits, open_dataset
from lieaudit.errors import LieauditError
from lieaudit.gate import parse as parse_policy
from lieaudit.graph.read import read_model

EFFORT = int(os.environ.get("LIEAUDIT_FUZZ", "1"))
HANG_SECONDS = 20
SERVICES = (
    model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    dataset_pb2.DESCRIPTOR.services_by_name["DatasetService"],
    audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
)
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"}


def mutated(data, rng):
    """Damage bytes: flips, cuts, repeats, foreign bytes, extreme numbers."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = out[at : at + rng.randrange(1, 64)]
            case 3:
                out[at : at + rng.randrange(8)] = rng.randbytes(rng.randrange(1, 16))
            case 4:
                out[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7, b"\x80" * 9 + b"\x01"))
            case _:
                del out[at : at + rng.randrange(1, 200)]
    return bytes(out)


def raw_message(descriptor, rng, depth=0):
    """Write fields of a message by their real numbers and types, with values nobody expects."""
    out = bytearray()
    for field in descriptor.fields:
        if rng.random() < 0.5:
            continue
        for _ in range(rng.choice((1, 1, 1, 3))):
            text = rng.choice((b"", b"x" * 300, b"../../etc/passwd", b"\xff\xfe", rng.randbytes(20), b"0" * 64))
            if field.message_type is not None and depth < 4 and rng.random() < 0.8:
                text = raw_message(field.message_type, rng, depth + 1)
            kind = {field.CPPTYPE_DOUBLE: 1, field.CPPTYPE_FLOAT: 5}.get(
                field.cpp_type, 2 if field.cpp_type in {field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE} else 0
            )
            if rng.random() < 0.05:
                kind = rng.choice((0, 1, 2, 5, 7))  # the wrong wire type
            out += varint(field.number << 3 | kind)
            if kind == 2:
                out += varint(len(text)) + text
            else:
                sizes = {1: 8, 5: 4}
                number = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))
                out += rng.randbytes(sizes[kind]) if kind in sizes else varint(number)
    return bytes(out)


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def call(service, descriptor, method, payloads):
    """Send raw bytes to a method; give the status code's name and everything the client saw."""
    path = f"/{descriptor.full_name}/{method.name}"
    plain = {"request_serializer": None, "response_deserializer": None}
    make = {
        (False, False): service.channel.unary_unary,
        (False, True): service.channel.unary_stream,
        (True, False): service.channel.stream_unary,
    }[method.client_streaming, method.server_streaming]
    stub = make(path, **plain)
    try:
        answer = stub(iter(payloads) if method.client_streaming else payloads[0], timeout=60)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code().name, error
    return "OK", None


def test_raw_protobuf_never_breaks_the_server(service, kit, say_counts):
    rng = random.Random(1)  # noqa: S311
    seen, calls = Counter(), 0
    for _ in range(15 * EFFORT):
        for descriptor in SERVICES:
            for method in descriptor.methods:
                if method.name in {"Evaluate", "CheckPolicy", "InspectModel"} and rng.random() < 0.9:
                    continue  # each of these costs a process
                payloads = [
                    raw_message(method.input_type, rng) if rng.random() < 0.7 else rng.randbytes(rng.randrange(40))
                    for _ in range(rng.choice((1, 2, 5)))
                ]
                code, error = call(service, descriptor, method, payloads)
                calls += 1
                if error is None:
                    seen["OK"] += 1
                    continue
                assert code in REFUSALS, (method.name, code, error.details())
                seen[kit.reason_of(error).reason] += 1
    health = health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert "Traceback" not in "".join(line for line in service.log().splitlines() if '"level": "error"' in line)
    say_counts(f"{calls} raw calls: {dict(seen)}")


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


POLICY = b"""version: 1
rules:
  - id: small
    kind: limit
    generators: [rotation, "*"]
    max: 1.0
  - {id: same, kind: noninferiority, generators: [scale], margin: 0.1, statistic: median}
waivers:
  - {rule: small, generators: [rotation], owner: me, reason: "because", expires: 2030-01-01}
"""


def model(path):
    check(path, GraphLimits(1000, 2**20, 8))
    read_model(path)


def archive(path):
    target = path.with_suffix(".d")
    target.mkdir()
    unpack(path, target, 2**20, 100)
    inside = [p for p in target.rglob("*") if p.is_symlink() or not p.resolve().is_relative_to(target.resolve())]
    assert not inside


def images(path):
    dataset = open_dataset(path, path.suffix[1:], limits=Limits(members=100, unpacked_bytes=2**20, pixels=2**16))
    for index in range(min(dataset.count, 3)):
        dataset.raw(index)


def policy(path):
    parse_policy(path.read_bytes().decode("utf-8", "replace"))


def seeds(kit):
    weights = kit.tiny_model(5)
    return {
        "model.onnx": (model, weights, 300),
        "archive.tar": (archive, tar_of({"m.onnx": weights, "sub/w.bin": b"w" * 700}), 200),
        "images.npz": (images, kit.tiny_dataset(count=3), 200),
        "images.tar": (images, tar_of({"a/1.png": png(), "b/2.png": png()}), 150),
        "images.zip": (images, zip_of({"a/1.png": png(), "b/2.png": png()}), 150),
        "policy.yaml": (policy, POLICY, 300),
    }


@pytest.mark.parametrize("name", ["model.onnx", "archive.tar", "images.npz", "images.tar", "images.zip", "policy.yaml"])
def test_parsers_refuse_damaged_files_with_typed_errors_only(kit, tmp_path, name, say_counts):
    parse, seed, count = seeds(kit)[name]
    rng = random.Random(name)  # noqa: S311
    seen = Counter()

    def hang(_number, _frame):
        raise AssertionError("a parser hangs")

    signal.signal(signal.SIGALRM, hang)
    try:
        for number in range(count * EFFORT):
            path = tmp_path / f"{number}-{name}"
            path.write_bytes(mutated(seed, rng))
            signal.alarm(HANG_SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    parse(path)
                seen["accepted"] += 1
            except LieauditError as refused:
                seen[refused.reason] += 1
            finally:
                signal.alarm(0)
            path.unlink()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert "" not in seen
    say_counts(f"{name}: {sum(seen.values())} inputs: {dict(seen)}")


def test_damaged_uploads_end_in_a_refusal_or_a_stored_file(service, kit):
    rng = random.Random(7)  # noqa: S311
    whole = (("model", "onnx", kit.tiny_model(6)), ("dataset", "npz", kit.tiny_dataset(count=3)))
    ends = set()
    for _ in range(4 * EFFORT):
        for kind, format_, seed in whole:
            if data := mutated(seed, rng):
                ends.add(upload(service, kit, kind, data, format_))
    assert ends - {("OK", "")}
    assert {code for code, _ in ends} <= {"OK", "INVALID_ARGUMENT"}, ends


def upload(service, kit, kind, data, format_):
    try:
        service.upload(kind, data, format_)
    except grpc.RpcError as error:
        return error.code().name, kit.reason_of(error).reason
    return "OK", ""
