"""A real server in a real process on a real port, and the generated stubs as its client."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import onnx
import pytest
from google.rpc import error_details_pb2, status_pb2
from lieaudit_api.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    spec_pb2,
    upload_pb2,
)

MIB = 2**20
SECONDS = 60.0
"""Longest wait for anything; never what a test measures."""

FAST = {"generators": ["rotation"], "method": "finite_difference", "bootstrap": 100, "relative_images": 2}
"""A spec whose audit of a tiny model takes a moment."""

SLOW = {"method": "finite_difference"}
"""A spec whose audit of `slow_pair` takes minutes."""


class Service:
    """One server process on one data folder; it can be killed and started again."""

    def __init__(self, data_dir: Path, environment: dict[str, str] | None = None, **settings: str) -> None:
        self.data_dir = data_dir
        self.settings = {"listen": "127.0.0.1:0", "min_free_bytes": "0", "drain_seconds": "5", **settings}
        self._environment = environment or {}
        self._log = data_dir.parent / f"{data_dir.name}.log"
        self._process: subprocess.Popen[str] | None = None
        self.prefix: list[str] = []  # a command that runs the server
        self.target = ""
        self.channel: grpc.Channel | None = None

    def start(self) -> Service:
        command = [*self.prefix, sys.executable, "-m", "lieaudit_server", "serve", "--data-dir", str(self.data_dir)]
        for name, value in self.settings.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value == "true" else [flag, value]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **self._environment}
            )
        line = self._process.stdout.readline()
        assert line.startswith("ready "), self.log()[-4000:]
        self.target = line.removeprefix("ready ").strip()
        self.connect()
        return self

    def connect(self, credentials: grpc.ChannelCredentials | None = None, **options: str) -> None:
        if self.channel is not None:
            self.channel.close()
        # Each channel its own connection: gRPC would share one, and its back-off, between channels to the same port.
        pairs = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
        if credentials is None:
            self.channel = grpc.insecure_channel(self.target, pairs)
        else:
            self.channel = grpc.secure_channel(self.target, credentials, pairs)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.datasets = dataset_pb2_grpc.DatasetServiceStub(self.channel)
        self.audits = audit_pb2_grpc.AuditServiceStub(self.channel)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fork_server(self) -> int:
        """Process id of the one child of the server."""
        (pid,) = wait_for(lambda: children(self.pid))
        return pid

    def workers(self) -> list[int]:
        """Process ids of checks and audits that run now."""
        return children(self.fork_server)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_exit(self) -> int:
        status = self._process.wait(timeout=SECONDS)
        self._process.stdout.close()
        return status

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait_exit()

    def stop(self) -> int:
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait_exit()

    # What clients do.

    def upload(self, kind: str, data: bytes, format_: str, *, name: str = "file", offset: int = 0, **options):
        call = self.models.UploadModel if kind == "model" else self.datasets.UploadDataset
        return call(messages(data, format_, name=name, offset=offset), timeout=SECONDS, **options)

    def upload_model(self, data: bytes, format_: str = "onnx", **options) -> model_pb2.Model:
        return self.upload("model", data, format_, **options)

    def upload_dataset(self, data: bytes, format_: str = "npz", **options) -> dataset_pb2.Dataset:
        return self.upload("dataset", data, format_, **options)

    def create(self, model: str, dataset: str, spec: dict | None = None, **fields) -> audit_pb2.Audit:
        request = audit_pb2.CreateAuditRequest(
            model_sha256=model, dataset_sha256=dataset, spec=spec_pb2.AuditSpec(**(spec or {})), **fields
        )
        return self.audits.CreateAudit(request, timeout=SECONDS)

    def get(self, audit_id: str) -> audit_pb2.Audit:
        return self.audits.GetAudit(audit_pb2.GetAuditRequest(id=audit_id), timeout=SECONDS)

    def watch(self, audit_id: str, after: int = 0) -> Iterator[audit_pb2.AuditEvent]:
        return self.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=audit_id, after_sequence=after), timeout=SECONDS)

    def finish(self, audit_id: str) -> audit_pb2.Audit:
        for _ in self.watch(audit_id):
            pass
        return self.get(audit_id)

    def report(self, audit_id: str) -> bytes:
        chunks = self.audits.GetReport(audit_pb2.GetReportRequest(id=audit_id), timeout=SECONDS)
        return b"".join(chunk.data for chunk in chunks)


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children; none where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def messages(
    data: bytes, format_: str, *, name: str = "file", offset: int = 0, end: int | None = None, announced: str = ""
) -> Iterator[upload_pb2.UploadRequest]:
    header = upload_pb2.UploadHeader(
        sha256=announced or sha256(data), size_bytes=len(data), name=name, format=format_, offset=offset
    )
    yield upload_pb2.UploadRequest(header=header)
    for start in range(offset, len(data) if end is None else end, MIB):
        yield upload_pb2.UploadRequest(chunk=data[start : min(start + MIB, len(data) if end is None else end)])


def reason_of(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Return the ErrorInfo of a failed call, and check the form that every error has."""
    trailers = dict(error.trailing_metadata())
    raw = trailers["grpc-status-details-bin"]
    assert len(raw) < 4096
    status = status_pb2.Status.FromString(raw)
    assert status.code == error.code().value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "lieaudit"
    assert info.metadata["request_id"]
    for text in (raw.decode("utf-8", "replace"), error.details()):
        assert "Traceback" not in text
        assert "site-packages" not in text
        assert "/lieaudit_server/" not in text
        assert "/blobs/" not in text
        assert "/scratch/" not in text
        assert "/partial/" not in text
    return info


def retry_seconds(error: grpc.RpcError) -> float | None:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta().total_seconds()
    return None


def wait_for(condition: Callable[[], object]) -> object:
    """Poll until a condition holds and give its value."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return value


def tiny_model(seed: int = 0, *, size: int = 8, classes: int = 3, name: str = "tiny", pad: int = 0) -> bytes:
    """Return a model of one smooth layer, float32 (N, 1, size, size) to logits (N, classes), as an ONNX file."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(size * size, classes)).astype(np.float32) / size
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["x"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["product"]),
            onnx.helper.make_node("Tanh", ["product"], ["y"]),
        ],
        name,
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, size, size])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", classes])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if pad:  # bytes that make the file long, so that it takes many chunks
        model.doc_string = rng.bytes(pad // 2).hex()
    return model.SerializeToString()


def tiny_dataset(seed: int = 0, *, count: int = 12, size: int = 8) -> bytes:
    """Return float32 images (count, 1, size, size) with labels as an npz file."""
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    x = rng.normal(size=(count, 1, size, size)).astype(np.float32)
    np.savez(buffer, x=x, y=rng.integers(0, 3, count))
    return buffer.getvalue()


def slow_pair(server: Service) -> tuple[str, str]:
    """Upload a model and images that keep a worker busy for longer than any test waits; under SLOW."""
    return (
        server.upload_model(tiny_model(3, size=16)).sha256,
        server.upload_dataset(tiny_dataset(3, count=20_000, size=16)).sha256,
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    """A server with the default settings, shared by the tests of a module."""
    server = Service(tmp_path_factory.mktemp("service") / "data").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def service_class() -> type[Service]:
    """For module-scoped servers with settings of their own."""
    return Service


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Service]]:
    """Start servers of one's own; they are stopped at the end."""
    started: list[Service] = []

    def make(name: str = "data", environment: dict[str, str] | None = None, **settings: str) -> Service:
        started.append(Service(tmp_path / name, environment, **settings).start())
        return started[-1]

    yield make
    for server in started:
        if server._process.poll() is None:
            server.kill()
        if server.channel is not None:
            server.channel.close()


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above, for test modules."""
    return SimpleNamespace(
        children=children,
        sha256=sha256,
        messages=messages,
        reason_of=reason_of,
        retry_seconds=retry_seconds,
        wait_for=wait_for,
        tiny_model=tiny_model,
        tiny_dataset=tiny_dataset,
        slow_pair=slow_pair,
        FAST=FAST,
        SLOW=SLOW,
        SECONDS=SECONDS,
    )
