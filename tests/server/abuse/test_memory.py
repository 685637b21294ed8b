"""Large requests, of anybody and of a tenant, against a live server: its memory stays bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lieaudit_api.v1 import gate_pb2, upload_pb2
from lieaudit_server.admission import Places

MIB = 2**20


def memory(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_caller_is_known_before_the_request_is_read(tenants, kit, goes_on, connections):
    server, _, other, _ = tenants()
    request = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
    before = memory(server.pid)
    with connections(server, 20) as channels:
        calls = [type(server.audits)(channel).Evaluate.future(request, timeout=kit.SECONDS) for channel in channels]
        codes = {call.exception().code() for call in calls}
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert memory(server.pid) - before < 150 * MIB
    goes_on(server, other)


def test_large_requests_are_held_a_few_at_a_time_and_given_back(tenants, kit, goes_on, connections):
    server, mine, other, _ = tenants()
    request = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
    before = memory(server.pid)
    with connections(server, 20) as channels:
        stubs = [type(server.audits)(channel) for channel in channels]
        calls = [stub.Evaluate.future(request, metadata=mine, timeout=kit.SECONDS) for stub in stubs]
        goes_on(server, other)
        reasons = {kit.reason_of(call.exception()).reason for call in calls}
    assert reasons == {"POLICY_TOO_LARGE"}
    assert memory(server.pid) - before < 500 * MIB


def test_compressed_requests_are_refused_before_they_are_unpacked(tenants, kit, goes_on):
    server, mine, other, _ = tenants()
    request = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
    before = memory(server.pid)
    for headers in (mine, ()):
        with pytest.raises(grpc.RpcError) as caught:
            server.audits.Evaluate(request, metadata=headers, compression=grpc.Compression.Gzip)
        assert caught.value.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED}
    assert memory(server.pid) - before < 30 * MIB
    goes_on(server, other)


def test_large_messages_of_uploads_are_few_at_a_time(tenants, kit, goes_on, connections):
    server, mine, other, _ = tenants()
    chunk = upload_pb2.UploadRequest(chunk=bytes(31 * MIB))
    before = memory(server.pid)
    with connections(server, 20) as channels:
        stubs = [type(server.models)(channel) for channel in channels]
        calls = [stub.UploadModel.future(iter([chunk]), metadata=mine, timeout=kit.SECONDS) for stub in stubs]
        goes_on(server, other)
        assert {kit.reason_of(call.exception()).reason for call in calls} == {"UPLOAD_HEADER_MISSING"}
    assert memory(server.pid) - before < 500 * MIB


def test_large_messages_of_reflection_are_few_at_a_time(tenants, kit, goes_on, connections):
    """Anybody may ask for it."""
    server, _, other, _ = tenants()
    question = reflection_pb2.ServerReflectionRequest(list_services="x" * 31 * MIB)
    before = memory(server.pid)
    with connections(server, 20) as channels:
        stubs = [reflection_pb2_grpc.ServerReflectionStub(channel) for channel in channels]
        talks = [stub.ServerReflectionInfo(iter([question]), timeout=kit.SECONDS) for stub in stubs]
        goes_on(server, other)
        for talk in talks:
            with pytest.raises(grpc.RpcError) as caught:
                next(talk)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert memory(server.pid) - before < 300 * MIB


def test_a_place_that_cost_much_is_given_back_late():
    async def run():
        places = Places(1, 1)
        await places.take("large")
        places.give("large", after=0.2)
        order = []

        async def small():
            async with places.hold("small"):
                order.append("small")

        waiting = asyncio.create_task(small())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not order
        await waiting
        await places.take("free")  # nothing of it is lost
        places.give("free")
        return places._free

    assert asyncio.run(run()) == 1
