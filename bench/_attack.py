"""Everything a tenant who means harm can do, at once, in a process of its own: ``python -m bench._attack TARGET``.

Its token comes on standard input; what became of its calls is one line of JSON on standard output, after SIGTERM. It
runs at the lowest priority on the last CPU: attackers have machines of their own, and here only what the server leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import onnx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lieaudit_api.v1 import audit_pb2, audit_pb2_grpc, gate_pb2, model_pb2, model_pb2_grpc, spec_pb2, upload_pb2

from bench.abuse import Headers, Tenant
from bench.load import images

MIB = 2**20


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
            (50, lambda i: stubs[i % 10].GetAudit(audit_pb2.GetAuditRequest(id=audit.id), **signed)),
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
                # grpc.aio loses the status of a stream that the server ends while it writes (grpc/grpc #36066).
                lost = error.details() == "Internal error from Core"
                self.ends["ended while it wrote" if lost else error.code().name] += 1
            await asyncio.sleep(0.01)


def own_cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


async def attack(target: str, headers: Headers) -> None:
    """Attack until SIGTERM, then say what became of the calls."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    attacker = Attack(target, headers)
    attacking = asyncio.create_task(attacker.run())
    await asyncio.wait({attacking, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if attacking.done():
        attacking.result()
    print(json.dumps({"ends": attacker.ends, "cpu_seconds": own_cpu_seconds()}), flush=True)
    attacking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attacking


def main() -> None:
    os.nice(19)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asyncio.run(attack(sys.argv[1], (("authorization", sys.stdin.readline().strip()),)))


if __name__ == "__main__":
    main()
