"""One tenant attacks with everything at once, another one works: the latencies of the latter, quiet and attacked.

``LIEAUDIT_ABUSE_SECONDS`` (default 120) is how long the attack lasts. Everything is on loopback, and both clients share
one process: what the attacker's own calls cost there is part of the latencies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import onnx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lieaudit_api.v1 import audit_pb2, audit_pb2_grpc, gate_pb2, model_pb2, model_pb2_grpc, spec_pb2, upload_pb2

from bench.load import FAST, Load, images, quantile, resident_mib, tiny_model

SECONDS = float(os.environ.get("LIEAUDIT_ABUSE_SECONDS", "120"))
MIB = 2**20
_STOP_SECONDS = 60.0  # 20 s of draining, and what a busy machine adds
Headers = tuple[tuple[str, str], ...]


def endless_model() -> bytes:
    """2^62 turns of a loop, for whoever runs it."""
    make, value = onnx.helper, onnx.helper.make_tensor_value_info
    body = make.make_graph(
        [make.make_node("Identity", ["on"], ["on_out"]), make.make_node("Add", ["carried", "mean"], ["carried_out"])],
        "body",
        [value("i", 7, []), value("on", 9, []), value("carried", 1, [])],
        [value("on_out", 9, []), value("carried_out", 1, [])],
    )
    nodes = [
        make.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        make.make_node("Loop", ["count", "true", "mean"], ["sum"], body=body),
        make.make_node("Flatten", ["x"], ["flat"]),
        make.make_node("Add", ["flat", "sum"], ["y"]),
    ]
    constants = [make.make_tensor("count", 7, [], [2**62]), make.make_tensor("true", 9, [], [True])]
    graph = make.make_graph(nodes, "endless", [value("x", 1, ["N", 1, 8, 8])], [value("y", 1, ["N", 64])], constants)
    opsets = [make.make_opsetid("", 17)]
    return bytes(make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


class Tenant(Load):
    """A client with a token; `Load` times its calls."""

    def __init__(self, channel: grpc.aio.Channel, headers: Headers) -> None:
        super().__init__(channel)
        for name in ("models", "datasets", "audits"):
            setattr(self, name, _Signed(getattr(self, name), headers))

    async def work(self, end: float) -> int:
        """Upload, audit, watch, list and delete until then; give the number of audits that succeeded."""
        dataset = await self.upload("Dataset", images(12))
        done = 0
        while time.monotonic() < end:
            model = await self.upload("Model", tiny_model(done))
            request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=dataset, spec=FAST)
            audit = await self.call("CreateAudit", self.audits, request)
            started = time.perf_counter()
            states = [e.state async for e in self.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id))]
            self.seconds["an audit to its end"].append(time.perf_counter() - started)
            assert states[-1] == "succeeded", states
            for _ in range(5):
                await self.call("GetAudit", self.audits, audit_pb2.GetAuditRequest(id=audit.id))
                await self.call("ListAudits", self.audits, audit_pb2.ListAuditsRequest(page_size=20))
            await self.call("DeleteModel", self.models, model_pb2.DeleteModelRequest(sha256=model))
            done += 1
        return done


class _Signed:
    def __init__(self, stub: Any, headers: Headers) -> None:
        self._stub, self._headers = stub, headers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)
        return lambda request, **options: method(request, metadata=self._headers, **options)


class Attack:
    """Everything at once, over and over, from many connections."""

    def __init__(self, target: str, headers: Headers) -> None:
        self._target, self._headers = target, headers
        self._channels: list[grpc.aio.Channel] = []
        self._sockets: list[socket.socket] = []
        self.ends: Counter[str] = Counter()

    def channel(self) -> grpc.aio.Channel:
        self._channels.append(grpc.aio.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)]))
        return self._channels[-1]

    async def run(self) -> None:
        """Attack until cancelled."""
        host, _, port = self._target.rpartition(":")
        stubs = [audit_pb2_grpc.AuditServiceStub(self.channel()) for _ in range(10)]
        tenant = Tenant(self.channel(), self._headers)
        model, dataset = await tenant.upload("Model", endless_model()), await tenant.upload("Dataset", images(12))
        audit = await self.create(stubs[0], model, dataset, spec_pb2.AuditSpec())
        models = [model_pb2_grpc.ModelServiceStub(self.channel()) for _ in range(5)]
        health = [health_pb2_grpc.HealthStub(self.channel()) for _ in range(10)]
        large = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
        long = spec_pb2.AuditSpec(layouts={f"tensor {i}": "NCHW" for i in range(4999)})
        inspect = model_pb2.InspectModelRequest(sha256=model, dataset_sha256=dataset)
        signed: dict[str, Any] = {"metadata": self._headers}
        kinds: list[tuple[int, Callable[[int], Awaitable[Any]]]] = [
            (300, lambda i: self.drain(health[i % 10].Watch(health_pb2.HealthCheckRequest()))),
            (300, lambda i: self.drain(stubs[i % 10].WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id), **signed))),
            (50, lambda i: models[i % 5].UploadModel(self.trickle(i), **signed)),
            (6, lambda i: stubs[i].Evaluate(large, **signed)),
            (6, lambda i: stubs[i].Evaluate(large)),
            (8, lambda i: self.create(stubs[i], model, dataset, long)),
            (8, lambda i: stubs[i].ListAudits(audit_pb2.ListAuditsRequest(page_size=500), **signed)),
            (8, lambda i: models[i % 5].InspectModel(inspect, **signed)),
            (8, lambda i: stubs[i].CheckPolicy(gate_pb2.CheckPolicyRequest(policy_yaml="[" * 9999), **signed)),
        ]
        try:
            for _ in range(300):
                self._sockets.append(socket.create_connection((host, int(port))))
            await asyncio.gather(*(self.repeat(kind, i) for count, kind in kinds for i in range(count)))
        finally:
            for connection in self._sockets:
                connection.close()
            for channel in self._channels:
                await channel.close()

    async def create(self, stub: Any, model: str, dataset: str, spec: spec_pb2.AuditSpec) -> Any:
        request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=dataset, spec=spec)
        return await stub.CreateAudit(request, metadata=self._headers)

    async def drain(self, stream: Any) -> None:
        async for _ in stream:
            pass

    async def trickle(self, number: int) -> AsyncIterator[upload_pb2.UploadRequest]:
        header = upload_pb2.UploadHeader(sha256=f"{number:064x}", size_bytes=10**6, name="x", format="onnx")
        yield upload_pb2.UploadRequest(header=header)
        while True:
            yield upload_pb2.UploadRequest(chunk=b"x")
            await asyncio.sleep(1)

    async def repeat(self, attack: Callable[[int], Awaitable[Any]], number: int) -> None:
        while True:
            try:
                await attack(number)
                self.ends["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.ends[error.code().name] += 1
            await asyncio.sleep(0.1)


def highest_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def token(path: Path, owner: str) -> Headers:
    command = [sys.executable, "-m", "lieaudit_server", "token", "add", "--tokens-file", str(path), "--owner", owner]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return (("authorization", f"Bearer {made.stdout.strip()}"),)


async def drive(target: str, pid: int, abusive: Headers, other: Headers) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        quiet, attacked = Tenant(channel, other), Tenant(channel, other)
        await quiet.work(time.monotonic() + min(SECONDS, 20))
        attack = Attack(target, abusive)
        attacking = asyncio.create_task(attack.run())
        await asyncio.sleep(2)
        done = await attacked.work(time.monotonic() + SECONDS)
        highest = highest_mib(pid)
        print(f"{SECONDS:g} s of attack: {done} audits of the other tenant succeeded; milliseconds at the client")
        print(f"{'call':24}{'n':>6}{'quiet p50':>12}{'attacked p50':>14}{'p99':>10}")
        for name in sorted(attacked.seconds):
            before, after = quiet.seconds[name], attacked.seconds[name]
            middle = quantile(before, 0.5) if before else "-"
            print(f"{name:24}{len(after):6}{middle:>12}{quantile(after, 0.5):>14}{quantile(after, 0.99):>10}")
        refused, errors = dict(attacked.refusals) or "none", dict(attacked.errors) or "none"
        print(f"refused of the other tenant: {refused}; errors: {errors}")
        print(f"server: {resident_mib(pid):.0f} MiB, at most {highest:.0f}")
        print(f"the attacker's calls: {dict(attack.ends)}")
        attacking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attacking


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        abusive, other = token(folder / "tokens", "abusive"), token(folder / "tokens", "other")
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "lieaudit_server",
            "serve",
            "--data-dir",
            f"{folder}/data",
            "--listen",
        ]
        command += ["127.0.0.1:0", "--threads-per-audit", "1", "--min-free-bytes", "0", "--tokens-file"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([*command, str(folder / "tokens")], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            target = server.stdout.readline().removeprefix("ready ").strip()
            asyncio.run(drive(target, server.pid, abusive, other))
        finally:
            end(server, folder / "log")


def end(server: subprocess.Popen[str], log: Path) -> None:
    """Stop the server; where it does not end, print where its threads are and kill it."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGABRT)
        server.wait()
        print(f"the server had not ended {_STOP_SECONDS:g} s after SIGTERM:\n{log.read_text()[-8000:]}")
