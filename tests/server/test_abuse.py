"""A tenant who means harm, against a live server: others are served all the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lieaudit_api.v1 import audit_pb2, gate_pb2, spec_pb2, upload_pb2
from lieaudit_server import bounds
from lieaudit_server.admission import Places
from lieaudit_server.errors import ServiceError

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


def test_every_list_and_text_of_a_request_is_bounded(tenants, kit):
    server, mine, other, _ = tenants()
    model = server.upload_model(kit.tiny_model(), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(), metadata=mine).sha256
    for spec in (
        {"layouts": {f"t{i}": "NCHW" for i in range(200_000)}},
        {"generators": ["rotation"] * 5000},
        {"classes": ["c"] * 60_000},
        {"input": "x" * 5000},
        {"layouts": {"t" * 5000: "NCHW"}},
        {"classes": ["c" * 1999] * 5000},
    ):
        request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images, spec=spec)
        with pytest.raises(grpc.RpcError) as caught:
            server.audits.CreateAudit(request, metadata=mine)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert kit.reason_of(caught.value).reason in {"TOO_MANY_ENTRIES", "INVALID_REQUEST"}
    goes_on(server, kit, other)


def test_every_repeated_field_of_every_request_has_a_bound():
    """The bounds are applied to whole messages, so that a new field has one from its first day."""
    small = bounds.ENTRIES + 1
    spec = spec_pb2.AuditSpec
    checked = 0
    for field in spec.DESCRIPTOR.fields:
        message = spec()
        value = getattr(message, field.name)
        if not hasattr(value, "__len__") or isinstance(value, str | bytes):
            continue
        count = max(bounds.MORE_ENTRIES.get(field.name, 0) + 1, small)
        if field.message_type is not None:
            for index in range(count):
                if field.message_type.fields_by_name["value"].message_type is None:
                    value[str(index)] = ""
                else:
                    value[str(index)].SetInParent()
        else:
            value.extend([""] * count if field.cpp_type == field.CPPTYPE_STRING else [0] * count)
        with pytest.raises(ServiceError, match="entries"):
            bounds.check(message)
        checked += 1
    assert checked >= 4


def test_lists_of_large_specs_come_in_pages_by_size(tenants, kit):
    server, mine, other, _ = tenants()
    model = server.upload_model(kit.tiny_model(), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(), metadata=mine).sha256
    spec = {**kit.FAST, "max_images": 2, "classes": [f"{i:01000d}" for i in range(400)]}
    made = [
        server.audits.CreateAudit(
            audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images, spec={**spec, "seed": seed}),
            metadata=mine,
        ).id
        for seed in range(7)
    ]
    found, token, pages = [], "", 0
    while not pages or token:
        request = audit_pb2.ListAuditsRequest(page_size=500, page_token=token)
        answer = server.audits.ListAudits(request, metadata=mine)
        assert answer.ByteSize() < 2 * MIB
        found += [audit.id for audit in answer.audits]
        token, pages = answer.next_page_token, pages + 1
    assert found == made[::-1]
    assert pages > 2
    goes_on(server, kit, other)


def multiplied(levels, calls):
    """Functions that call each other: calls ** levels nodes once they are inlined, from a few bytes."""
    make = onnx.helper
    opsets = [make.make_opsetid("", 17), make.make_opsetid("f", 1)]
    functions = [make.make_function("f", "f0", ["x"], ["y"], [make.make_node("Tanh", ["x"], ["y"])], opsets)]
    for level in range(1, levels):
        names = ["x", *(f"t{i}" for i in range(calls - 1)), "y"]
        nodes = [make.make_node(f"f{level - 1}", [a], [b], domain="f") for a, b in itertools.pairwise(names)]
        functions.append(make.make_function("f", f"f{level}", ["x"], ["y"], nodes, opsets))
    value = make.make_tensor_value_info
    nodes = [make.make_node(f"f{levels - 1}", ["x"], ["z"], domain="f"), make.make_node("Flatten", ["z"], ["y"])]
    graph = make.make_graph(nodes, "g", [value("x", 1, ["N", 1, 8, 8])], [value("y", 1, ["N", 64])])
    return make.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("levels", "calls", "reason"),
    [(8, 10, "GRAPH_TOO_LARGE"), (60, 2, "GRAPH_TOO_LARGE"), (400, 1, "INVALID_MODEL")],  # the last: too deep
)
def test_functions_that_multiply_are_counted_before_they_are_inlined(tenants, kit, levels, calls, reason):
    server, mine, _, _ = tenants()
    with pytest.raises(grpc.RpcError) as caught:
        server.upload_model(multiplied(levels, calls), metadata=mine)
    assert kit.reason_of(caught.value).reason == reason
    assert server.upload_model(multiplied(3, 3), metadata=mine).sha256


def test_half_done_uploads_are_bounded_and_can_be_forgotten(tenants, kit):
    server, mine, other, reader = tenants(max_uploads_per_owner="3")

    def half(seed, headers=mine):
        data = kit.tiny_model(seed, pad=2 * MIB)
        with pytest.raises(grpc.RpcError) as caught:
            server.models.UploadModel(kit.messages(data, "onnx", end=MIB), metadata=headers)
        return kit.sha256(data), kit.reason_of(caught.value).reason

    begun = [half(seed) for seed in range(4)]
    assert [reason for _, reason in begun] == ["UPLOAD_INCOMPLETE"] * 3 + ["TOO_MANY_UPLOADS"]
    assert half(9, other)[1] == "UPLOAD_INCOMPLETE"
    abort = upload_pb2.AbortUploadRequest(sha256=begun[0][0])
    with pytest.raises(grpc.RpcError) as caught:
        server.models.AbortUpload(abort, metadata=reader)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    server.models.AbortUpload(abort, metadata=other)  # not theirs: nothing happens
    assert half(3)[1] == "TOO_MANY_UPLOADS"
    server.models.AbortUpload(abort, metadata=mine)
    assert len(list((server.data_dir / "partial").iterdir())) == 3
    assert half(3)[1] == "UPLOAD_INCOMPLETE"


@pytest.mark.slow
def test_an_upload_of_a_byte_a_second_is_ended(tenants, kit):
    server, mine, _, _ = tenants()
    data = kit.tiny_model(1, pad=MIB)

    def trickle():
        yield next(kit.messages(data, "onnx"))
        for byte in data:
            yield upload_pb2.UploadRequest(chunk=bytes([byte]))
            time.sleep(1)

    with pytest.raises(grpc.RpcError) as caught:
        server.models.UploadModel(trickle(), metadata=mine, timeout=2 * kit.SECONDS)
    assert kit.reason_of(caught.value).reason == "UPLOAD_IDLE"


def test_an_audit_and_its_report_can_be_deleted_and_reports_count_for_the_quota(tenants, kit):
    server, mine, other, _ = tenants(quota_bytes_per_owner="20000")
    model = server.upload_model(kit.tiny_model(), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(), metadata=mine).sha256
    request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images, spec=kit.FAST)
    audit = server.audits.CreateAudit(request, metadata=mine)
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.DeleteAudit(audit_pb2.DeleteAuditRequest(id=audit.id), metadata=other)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    list(server.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id), metadata=mine))
    report = server.data_dir / "audits" / audit.id / "report.pb"
    size = report.stat().st_size
    left = 20_000 - len(kit.tiny_model()) - len(kit.tiny_dataset())  # without the report
    filler = kit.tiny_model(1, pad=left - size // 2 - len(kit.tiny_model()) & ~1)
    assert left - size < len(filler) < left
    with pytest.raises(grpc.RpcError) as caught:
        server.upload_model(filler, metadata=mine)
    assert kit.reason_of(caught.value).reason == "QUOTA_EXCEEDED"
    server.audits.DeleteAudit(audit_pb2.DeleteAuditRequest(id=audit.id), metadata=mine)
    assert not report.parent.exists()
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.GetAudit(audit_pb2.GetAuditRequest(id=audit.id), metadata=mine)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert server.upload_model(filler, metadata=mine).sha256


def test_audits_of_one_tenant_that_take_for_ever_leave_a_cpu_to_others(tenants, kit):
    server, mine, other, _ = tenants(threads_per_audit="1", cpu_threads="2")
    model = server.upload_model(kit.tiny_model(3, size=16), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(3, count=20_000, size=16), metadata=mine).sha256
    request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images)
    made = [server.audits.CreateAudit(request, metadata=mine).id for _ in range(3)]
    watch = server.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=made[0]), metadata=mine, timeout=kit.SECONDS)
    next(event for event in watch if event.done)
    goes_on(server, kit, other)
    states = [server.audits.GetAudit(audit_pb2.GetAuditRequest(id=i), metadata=mine).state for i in made]
    assert states == ["running", "queued", "queued"]
