"""Calls, streams and connections without end, against a live server: others are served all the same."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lieaudit_api.v1 import audit_pb2
from lieaudit_server.admission import Places, address
from lieaudit_server.rates import Rates

MIB = 2**20
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_anonymous_health_watches_keep_nobody_out(tenants, kit, goes_on, connections, healthy):
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
        goes_on(server, other)
        for call in calls:
            call.cancel()


def test_watches_and_streams_of_one_tenant_leave_room_for_others_and_to_cancel(tenants, kit, goes_on, connections):
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
        goes_on(server, other)
        server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit.id), metadata=mine)


def test_slow_requests_keep_neither_health_nor_others_waiting(tenants, kit, goes_on, connections, healthy):
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
        goes_on(server, other)
        for call in calls:
            call.cancel()


def test_idle_connections_leave_descriptors(tenants, kit, goes_on):
    server, _, other, _ = tenants(max_connections_per_peer="0")
    host, _, port = server.target.rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(800)]
    try:
        goes_on(server, other)
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


def test_connections_of_one_address_are_bounded_and_the_oldest_stay(tenants, kit, goes_on):
    server, _, other, _ = tenants(max_connections_per_peer="40")
    goes_on(server, other)  # over a connection that is older than the ones below
    host, _, port = server.target.rpartition(":")
    many = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        kit.wait_for(lambda: '"127.0.0.1 has more than 40 connections; ' in server.log())
        gone = kit.wait_for(lambda: (found := sum(map(was_closed, many))) >= 61 and found)
        assert gone == 61  # the other tenant's is the fortieth that stays
        goes_on(server, other)
    finally:
        for connection in many:
            connection.close()
    with socket.create_connection((host, int(port))) as later:
        time.sleep(1.2)
        assert not was_closed(later)


def was_closed(connection):
    """Whether the other end has gone; a greeting of HTTP/2 may lie before the end."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_one_address_is_an_ipv4_address_or_a_network_of_ipv6():
    assert address("ipv4:10.0.0.1:4711") == "peer 10.0.0.1"
    assert address("ipv6:%5B2001:db8::1:2%5D:4711") == address("ipv6:%5B2001:db8::ffff%5D:1") == "peer 2001:db8::/64"
    assert address("ipv6:%5B2001:db8:0:1::1%5D:4711") == "peer 2001:db8:0:1::/64"
    assert address("ipv6:%5B::ffff:10.0.0.1%5D:4711") == "peer 10.0.0.1"
    assert address("unix:") == "peer unix"


def test_calls_beyond_a_rate_wait_and_keep_nobody_else_waiting():
    async def run():
        rates = Rates(rate=100.0, burst=5, waiting=20)
        done = []

        async def call(caller):
            await rates.turn(caller)
            done.append(caller)

        flood = [asyncio.create_task(call("many")) for _ in range(25)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == ["many"] * 5
        await call("few")
        assert done.count("many") < 25
        await asyncio.gather(*flood)
        assert rates._room == 20
        for number in range(2000):  # callers that are no more leave nothing behind
            await rates.turn(f"once {number}")
            if number % 500 == 0:
                await asyncio.sleep(0.06)
        assert len(rates._next) < 2000
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(20):
            rates._next["endless"] = started + 1e9  # nobody waits for longer than five seconds
        turn = asyncio.create_task(rates.turn("endless"))
        await asyncio.sleep(0)
        assert rates._next["endless"] <= loop.time() + 5.1
        turn.cancel()
        return done

    assert asyncio.run(run()).count("many") == 25


def test_a_flood_of_calls_is_slowed_for_its_caller_alone(tenants, kit, goes_on, connections):
    server, mine, other, _ = tenants(max_rate_per_owner="20")
    info = audit_pb2.GetServerInfoRequest()
    with connections(server, 4) as channels:
        stubs = [type(server.audits)(channel) for channel in channels for _ in range(50)]
        started = time.monotonic()
        calls = [stub.GetServerInfo.future(info, metadata=mine, timeout=kit.SECONDS) for stub in stubs]
        goes_on(server, other)
        assert {call.result().api_version for call in calls} == {"lieaudit.v1"}
        assert time.monotonic() - started > 4.9  # 40 at once, then 20 a second, but nobody waits for more than five


def test_anonymous_floods_are_answered_late_and_health_is_answered(tenants, kit, goes_on, healthy, connections):
    server, _, other, _ = tenants()
    with connections(server, 4) as channels:
        stubs = [type(server.audits)(channel) for channel in channels for _ in range(100)]
        calls = [stub.GetServerInfo.future(audit_pb2.GetServerInfoRequest(), timeout=kit.SECONDS) for stub in stubs]
        assert healthy(server)
        goes_on(server, other)
        assert {call.exception().code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}


def test_how_late_the_event_loop_is_can_be_read(start, kit):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start(metrics_listen=f"127.0.0.1:{port}")

    def counted():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        return float(text.partition("lieaudit_event_loop_lag_seconds_count ")[2].split()[0]) > 5

    kit.wait_for(counted)
