"""A tenant who means harm, against a live server: others are served all the same."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lieaudit_api.v1 import audit_pb2, gate_pb2
from lieaudit_server.admission import Places

MIB = 2**20
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def tenants(start, tmp_path):
    """Start a server with an abusive and another tenant; gives it and their headers."""

    def make(**settings):
        tokens = tmp_path / "tokens.json"
        headers = []
        for owner, scope in (("abusive", "audit"), ("other", "audit"), ("reader", "read")):
            run = [sys.executable, "-m", "lieaudit_server", "token", "add", "--tokens-file", str(tokens)]
            made = subprocess.run(
                [*run, "--owner", owner, "--scope", scope], capture_output=True, text=True, check=True
            )
            headers.append((("authorization", f"Bearer {made.stdout.strip()}"),))
        return start(tokens_file=str(tokens), **settings), *headers

    return make


@contextlib.contextmanager
def connections(server, count):
    """Channels with a connection each."""
    channels = [grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            channel.close()


def goes_on(server, kit, headers):
    """The other tenant's calls answer, and its audit ends."""
    model = server.upload_model(kit.tiny_model(), metadata=headers).sha256
    images = server.upload_dataset(kit.tiny_dataset(), metadata=headers).sha256
    request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images, spec=kit.FAST)
    audit = server.audits.CreateAudit(request, metadata=headers, timeout=kit.SECONDS)
    watch = audit_pb2.WatchAuditRequest(id=audit.id)
    assert [event.state for event in server.audits.WatchAudit(watch, metadata=headers, timeout=kit.SECONDS)][
        -1
    ] == "succeeded"
    assert server.audits.ListAudits(audit_pb2.ListAuditsRequest(), metadata=headers, timeout=kit.SECONDS).audits


def healthy(server):
    with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING


def memory(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def test_anonymous_health_watches_keep_nobody_out(tenants, kit):
    server, _, other, _ = tenants(max_rpcs="100", max_rpcs_per_peer="20")
    with connections(server, 10) as channels:
        calls = [
            health_pb2_grpc.HealthStub(c).Watch(health_pb2.HealthCheckRequest()) for c in channels for _ in range(30)
        ]
        served, codes = 0, set()
        for call in calls:
            try:
                served += next(call).status == SERVING
            except grpc.RpcError as error:
                codes.add(error.code())
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert served == 20
        assert healthy(server)
        goes_on(server, kit, other)
        for call in calls:
            call.cancel()


def test_watches_and_streams_of_one_tenant_leave_room_for_others_and_to_cancel(tenants, kit):
    server, mine, other, _ = tenants(max_rpcs="60", max_rpcs_per_owner="40", threads_per_audit="1")
    model = server.upload_model(kit.tiny_model(3, size=16), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(3, count=20_000, size=16), metadata=mine).sha256
    request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images)
    audit = server.audits.CreateAudit(request, metadata=mine)
    with connections(server, 5) as channels:
        stubs = [type(server.audits)(channel) for channel in channels for _ in range(20)]
        watches = [stub.WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id), metadata=mine) for stub in stubs]
        errors = []
        for watch in watches:
            try:
                next(watch)
            except grpc.RpcError as error:
                errors.append(error)
        assert len(errors) == len(watches) - 32
        assert {kit.reason_of(error).reason for error in errors} == {"TOO_MANY_CALLS"}
        assert all(kit.retry_seconds(error) > 0 for error in errors)
        goes_on(server, kit, other)
        server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit.id), metadata=mine)


def test_a_caller_is_known_before_the_request_is_read(tenants, kit):
    server, _, other, _ = tenants()
    request = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
    before = memory(server.pid)
    with connections(server, 20) as channels:
        calls = [type(server.audits)(channel).Evaluate.future(request, timeout=kit.SECONDS) for channel in channels]
        codes = {call.exception().code() for call in calls}
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert memory(server.pid) - before < 150 * MIB
    goes_on(server, kit, other)


def test_large_requests_are_held_a_few_at_a_time_and_given_back(tenants, kit):
    server, mine, other, _ = tenants()
    request = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
    before = memory(server.pid)
    with connections(server, 20) as channels:
        stubs = [type(server.audits)(channel) for channel in channels]
        calls = [stub.Evaluate.future(request, metadata=mine, timeout=kit.SECONDS) for stub in stubs]
        goes_on(server, kit, other)
        reasons = {kit.reason_of(call.exception()).reason for call in calls}
    assert reasons == {"POLICY_TOO_LARGE"}
    assert memory(server.pid) - before < 500 * MIB


def test_compressed_requests_are_refused_before_they_are_unpacked(tenants, kit):
    server, mine, other, _ = tenants()
    request = gate_pb2.EvaluateRequest(policy_yaml="x" * 31 * MIB)
    before = memory(server.pid)
    for headers in (mine, ()):
        with pytest.raises(grpc.RpcError) as caught:
            server.audits.Evaluate(request, metadata=headers, compression=grpc.Compression.Gzip)
        assert caught.value.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED}
    assert memory(server.pid) - before < 30 * MIB
    goes_on(server, kit, other)


def test_slow_requests_keep_neither_health_nor_others_waiting(tenants, kit):
    """Bodies that never come, of anybody and of a tenant, over raw streams."""
    server, mine, other, _ = tenants()

    def never():
        time.sleep(kit.SECONDS)
        yield b""

    with connections(server, 20) as channels:
        calls = []
        for channel in channels:
            call = channel.stream_unary("/grpc.health.v1.Health/Check")
            calls.append(call.future(never(), timeout=kit.SECONDS))
            call = channel.stream_unary("/lieaudit.v1.AuditService/GetAudit")
            calls.append(call.future(never(), timeout=kit.SECONDS, metadata=mine))
        time.sleep(0.5)
        assert healthy(server)
        goes_on(server, kit, other)
        for call in calls:
            call.cancel()


def test_checks_that_take_for_ever_leave_places_to_others(tenants, kit):
    server, mine, other, reader = tenants(probe_seconds="60")
    policy = "version: 1\nrules: &a\n" + "  - [" * 8000 + "\n"
    with connections(server, 8) as channels:
        stubs = [type(server.audits)(channel) for channel in channels]
        request = gate_pb2.CheckPolicyRequest(policy_yaml=policy)
        calls = [
            stub.CheckPolicy.future(request, metadata=who, timeout=kit.SECONDS)
            for who in (reader, mine)
            for stub in stubs
        ]
        goes_on(server, kit, other)
        for call in calls:
            call.cancel()
    brackets = gate_pb2.CheckPolicyRequest(policy_yaml="[" * 100_000)
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.CheckPolicy(brackets, metadata=reader)
    assert kit.reason_of(caught.value).reason == "POLICY_TOO_LARGE"


def test_idle_connections_leave_descriptors(tenants, kit):
    server, _, other, _ = tenants()
    host, _, port = server.target.rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(800)]
    try:
        goes_on(server, kit, other)
    finally:
        for connection in idle:
            connection.close()


def test_reflection_can_be_turned_off(start):
    server = start(no_reflection="true")
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([request])))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_places_go_round_between_callers():
    async def run():
        places = Places(2, 1)
        order = []

        async def work(caller, gate):
            async with places.hold(caller):
                order.append(caller)
                await gate.wait()

        gates = [asyncio.Event() for _ in range(6)]
        tasks = []
        for caller, gate in zip("aaabbc", gates, strict=True):
            tasks.append(asyncio.create_task(work(caller, gate)))
            await asyncio.sleep(0)
        assert order == ["a", "b"]
        tasks[1].cancel()  # one that waits
        for gate in gates:
            gate.set()
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(order) == ["a", "a", "b", "b", "c"]
        assert order.index("c") < 4
        async with places.hold("x"), places.hold("y"):
            return places._free

    assert asyncio.run(run()) == 0
