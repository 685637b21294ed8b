"""Many clients against one server on loopback while two audits compute: latency of the control plane, errors, memory.

``LIEAUDIT_LOAD_CLIENTS`` (default 200) clients each upload a model, create, watch, list, cancel and delete;
then ``LIEAUDIT_LOAD_AUDITS`` (default 100) audits of a tiny model run, and the resident memory and the descriptors of
the server and of the fork server, which starts the workers, are read twenty times.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from google.rpc import error_details_pb2, status_pb2
from lieaudit_api.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataset_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    spec_pb2,
    upload_pb2,
)

CLIENTS = int(os.environ.get("LIEAUDIT_LOAD_CLIENTS", "200"))
AUDITS = int(os.environ.get("LIEAUDIT_LOAD_AUDITS", "100"))
FAST = spec_pb2.AuditSpec(generators=["rotation"], method="finite_difference", bootstrap=100, relative_images=2)
SLOW = spec_pb2.AuditSpec(method="finite_difference")
CONTROL = {"CreateAudit", "GetAudit", "ListAudits", "CancelAudit", "GetUploadStatus", "DeleteModel", "GetServerInfo"}


def tiny_model(seed: int, size: int = 8) -> bytes:
    weights = np.random.default_rng(seed).normal(size=(size * size, 3)).astype(np.float32) / size
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["x"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["product"]),
            onnx.helper.make_node("Tanh", ["product"], ["y"]),
        ],
        "tiny",
        [value("x", onnx.TensorProto.FLOAT, ["N", 1, size, size])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def images(count: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.random.default_rng(0).normal(size=(count, 1, size, size)).astype(np.float32))
    return buffer.getvalue()


class Load:
    """All clients share one channel: what is measured is the server, not the clients' connections."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.datasets = dataset_pb2_grpc.DatasetServiceStub(channel)
        self.audits = audit_pb2_grpc.AuditServiceStub(channel)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.refusals: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def call(self, name: str, stub: Any, request: Any) -> Any:
        """Call, and call again after the delay that back-pressure asks for."""
        while True:
            started = time.perf_counter()
            try:
                answer = await getattr(stub, name)(request() if callable(request) else request, timeout=600)
            except grpc.aio.AioRpcError as error:
                reason, delay = details(error)
                if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and delay is not None:
                    self.refusals[reason] += 1
                    await asyncio.sleep(delay)
                    continue
                self.errors[f"{name}: {error.code().name} {reason}"] += 1
                raise
            self.seconds[name].append(time.perf_counter() - started)
            return answer

    async def upload(self, kind: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        form = "onnx" if kind == "Model" else "npz"
        header = upload_pb2.UploadHeader(sha256=digest, size_bytes=len(data), name="load", format=form)

        async def stream() -> AsyncIterator[upload_pb2.UploadRequest]:
            yield upload_pb2.UploadRequest(header=header)
            for start in range(0, len(data), 2**20):
                yield upload_pb2.UploadRequest(chunk=data[start : start + 2**20])

        await self.call(f"Upload{kind}", self.models if kind == "Model" else self.datasets, stream)
        return digest

    async def client(self, number: int, dataset: str) -> None:
        status = upload_pb2.UploadStatusRequest(sha256=hashlib.sha256(tiny_model(number)).hexdigest())
        await self.call("GetUploadStatus", self.models, status)
        model = await self.upload("Model", tiny_model(number))
        request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=dataset, spec=FAST)
        audit = await self.call("CreateAudit", self.audits, request)
        started = time.perf_counter()
        watcher = self.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id))
        await watcher.read()
        self.seconds["first event of a watch"].append(time.perf_counter() - started)
        for _ in range(5):
            await self.call("GetAudit", self.audits, audit_pb2.GetAuditRequest(id=audit.id))
            await self.call("ListAudits", self.audits, audit_pb2.ListAuditsRequest(page_size=20))
        await self.call("GetServerInfo", self.audits, audit_pb2.GetServerInfoRequest())
        await self.call("CancelAudit", self.audits, audit_pb2.CancelAuditRequest(id=audit.id))
        while await watcher.read() is not grpc.aio.EOF:
            pass
        await self.call("DeleteModel", self.models, model_pb2.DeleteModelRequest(sha256=model))


def details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    reason, delay = "", None
    for detail in status_pb2.Status.FromString(raw).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, delay


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Sample:
    """The server and its fork server after so many audits."""

    audits: int
    server_mib: float
    fork_server_mib: float
    descriptors: int


def sample(pid: int, audits: int) -> Sample:
    (fork_server,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(audits, resident_mib(pid), resident_mib(int(fork_server)), descriptors)


def print_memory(samples: list[Sample]) -> None:
    print(f"{'audits':>8}{'server MiB':>12}{'fork server MiB':>17}{'descriptors':>13}")
    for s in samples:
        print(f"{s.audits:8}{s.server_mib:12.1f}{s.fork_server_mib:17.1f}{s.descriptors:13}")
    settled = samples[len(samples) // 4 :]  # caches and arenas fill first
    counts = [s.audits / 1000 for s in settled]
    for name, values in (
        ("server", [s.server_mib for s in settled]),
        ("fork server", [s.fork_server_mib for s in settled]),
    ):
        slope = np.polyfit(counts, values, 1)[0]
        ends = f"{values[0]:.1f} MiB after {settled[0].audits} audits, {values[-1]:.1f} at the end"
        print(f"{name}: {ends}; {slope:+.2f} MiB a 1000")


def quantile(values: list[float], q: float) -> str:
    return f"{1000 * sorted(values)[min(len(values) - 1, int(q * len(values)))]:.1f}"


async def drive(target: str, pid: int) -> Load:
    options = [("grpc.max_receive_message_length", 2**26)]
    async with grpc.aio.insecure_channel(target, options) as channel:
        load = Load(channel)
        dataset = await load.upload("Dataset", images(12))
        slow = (
            await load.upload("Model", tiny_model(-1 % 2**32, 16)),
            await load.upload("Dataset", images(20_000, 16)),
        )
        request = audit_pb2.CreateAuditRequest(model_sha256=slow[0], dataset_sha256=slow[1], spec=SLOW)
        computing = [await load.call("CreateAudit", load.audits, request) for _ in range(2)]
        await asyncio.gather(*(load.client(number, dataset) for number in range(CLIENTS)))
        for audit in computing:
            await load.call("CancelAudit", load.audits, audit_pb2.CancelAuditRequest(id=audit.id))

        model = await load.upload("Model", tiny_model(0))
        request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=dataset, spec=FAST)
        samples = []
        pending: set[asyncio.Task[None]] = set()

        async def one() -> None:
            audit = await load.call("CreateAudit", load.audits, request)
            async for _ in load.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id)):
                pass
            ended = await load.call("GetAudit", load.audits, audit_pb2.GetAuditRequest(id=audit.id))
            assert ended.state == "succeeded", ended.failure

        for number in range(AUDITS):
            pending.add(asyncio.create_task(one()))
            while len(pending) >= 8:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            if number % max(1, AUDITS // 20) == 0:
                samples.append(sample(pid, number))
        await asyncio.gather(*pending)
        samples.append(sample(pid, AUDITS))
        print_memory(samples)
        return load


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "lieaudit_server", "serve", "--data-dir", f"{folder}/data"]
        command += ["--listen", "127.0.0.1:0", "--threads-per-audit", "1", "--min-free-bytes", "0"]
        with log.open("w") as file:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        try:
            assert server.stdout is not None
            target = server.stdout.readline().removeprefix("ready ").strip()
            load = asyncio.run(drive(target, server.pid))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
        served: dict[str, list[float]] = defaultdict(list)
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("message") == "call" and entry["code"] == "OK":
                    served[entry["method"].rpartition("/")[2]].append(entry["seconds"])
    print(f"{CLIENTS} clients, two audits computing; milliseconds")
    print(f"{'call':24}{'n':>7}{'server p50':>12}{'p99':>8}{'client p50':>12}{'p99':>8}")
    for name in sorted(load.seconds):
        own, other = served.get(name, []), load.seconds[name]
        inside = f"{quantile(own, 0.5):>12}{quantile(own, 0.99):>8}" if own else f"{'':20}"
        print(f"{name:24}{len(other):7}{inside}{quantile(other, 0.5):>12}{quantile(other, 0.99):>8}")
    control = [s for name in CONTROL for s in served.get(name, [])]
    print(f"control plane, server side: p50 {quantile(control, 0.5)} ms, p99 {quantile(control, 0.99)} ms")
    print(f"back-pressure: {dict(load.refusals) or 'none'}; errors: {dict(load.errors) or 'none'}")
