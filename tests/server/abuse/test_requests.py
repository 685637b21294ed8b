"""Requests and files that are small to send and long to work on, against a live server."""

from __future__ import annotations

import itertools

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2
from lieaudit_api.v1 import audit_pb2, gate_pb2, spec_pb2
from lieaudit_server import bounds
from lieaudit_server.errors import ServiceError

MIB = 2**20
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_checks_that_take_for_ever_leave_places_to_others(tenants, kit, goes_on, connections):
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
        goes_on(server, other)
        for call in calls:
            call.cancel()
    brackets = gate_pb2.CheckPolicyRequest(policy_yaml="[" * 100_000)
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.CheckPolicy(brackets, metadata=reader)
    assert kit.reason_of(caught.value).reason == "POLICY_TOO_LARGE"


def test_every_list_and_text_of_a_request_is_bounded(tenants, kit, goes_on):
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
    goes_on(server, other)


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


def test_lists_of_large_specs_come_in_pages_by_size(tenants, kit, goes_on):
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
    goes_on(server, other)


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
