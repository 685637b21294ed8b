"""Audits through a real server: create, follow, cancel, report, decide."""

from __future__ import annotations

import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lieaudit_api.v1 import audit_pb2, gate_pb2, model_pb2, report_pb2
from lieaudit_server.config import WORKER_MIB
from lieaudit_server.conversions import parse_report

import lieaudit
from lieaudit.data import Dataset


def refused(kit, call, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    info = kit.reason_of(caught.value)
    assert (caught.value.code().name, info.reason) == (code, reason)
    return caught.value


@pytest.fixture(scope="module")
def blobs(service, kit):
    """Sha256 of a stored model and data set."""
    return service.upload_model(kit.tiny_model()).sha256, service.upload_dataset(kit.tiny_dataset()).sha256


@pytest.fixture(scope="module")
def done(service, kit, blobs):
    """A finished audit."""
    return service.finish(service.create(*blobs, kit.FAST).id)


@pytest.fixture(scope="module")
def slow(service, kit):
    """Sha256 of a model and data set that keep a worker busy for longer than any test waits."""
    return kit.slow_pair(service)


def test_the_report_is_the_one_of_the_library(service, kit, done, tmp_path):
    assert done.state == "succeeded"
    report = parse_report(service.report(done.id))
    path = tmp_path / "model.onnx"
    path.write_bytes(kit.tiny_model())
    (tmp_path / "data.npz").write_bytes(kit.tiny_dataset())
    arrays = np.load(tmp_path / "data.npz")
    spec = lieaudit.AuditSpec.from_dict({**kit.FAST, "threads": report.spec["threads"]})
    direct = lieaudit.audit(path, Dataset.from_arrays(arrays["x"], arrays["y"]), spec)
    assert report.results == direct.results  # bit for bit: same graph, same images, same number of threads
    assert report.data.count == 12
    assert report.model.sha256 == kit.sha256(kit.tiny_model())


def test_events_rise_and_end_with_the_final_state(service, kit, blobs):
    events = list(service.watch(service.create(*blobs, kit.FAST).id))
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert [events[0].state, events[-1].state] == ["queued", "succeeded"]
    assert {"load", "audit"} <= {event.stage for event in events}


def test_a_watcher_resumes_and_a_late_one_sees_the_end(service, done):
    events = list(service.watch(done.id))
    assert list(service.watch(done.id, after=events[0].sequence)) == events[1:]
    assert list(service.watch(done.id, after=events[-1].sequence)) == []


def test_a_dropped_watcher_ends_nothing(service, kit, blobs):
    audit = service.create(*blobs, kit.FAST)
    watcher = service.watch(audit.id)
    next(watcher)
    watcher.cancel()
    assert service.finish(audit.id).state == "succeeded"


def test_cancel_stops_the_worker_at_once(service, kit, slow):
    audit = service.create(*slow, kit.SLOW)
    next(event for event in service.watch(audit.id) if event.stage)
    kit.wait_for(service.workers)
    assert service.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit.id)).state == "cancelled"
    asked = time.monotonic()
    kit.wait_for(lambda: not service.workers())
    assert time.monotonic() - asked < 1.0  # the promise of the interface, not a speed: kill and reap
    assert service.get(audit.id).state == "cancelled"
    again = service.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit.id))
    assert again.state == "cancelled"
    refused(kit, lambda: service.report(audit.id), "FAILED_PRECONDITION", "NO_REPORT")
    kit.wait_for(lambda: not (service.data_dir / "audits" / audit.id).exists())


def test_the_same_key_and_request_give_the_same_audit(service, kit, blobs):
    first = service.create(*blobs, kit.FAST, idempotency_key="key-1")
    assert service.create(*blobs, kit.FAST, idempotency_key="key-1").id == first.id
    refused(
        kit,
        lambda: service.create(*blobs, {**kit.FAST, "seed": 7}, idempotency_key="key-1"),
        "ALREADY_EXISTS",
        "IDEMPOTENCY_KEY_REUSED",
    )
    service.finish(first.id)


def test_the_deadline_ends_the_audit_with_its_reason(service, kit, slow):
    audit = service.finish(service.create(*slow, kit.SLOW, deadline_seconds=1.5).id)
    assert (audit.state, audit.failure.reason) == ("failed", "DEADLINE_EXCEEDED")


def test_a_model_deleted_while_its_audit_waits_is_audited_all_the_same(service, kit, slow, blobs):
    blocker = service.create(*slow, kit.SLOW)
    next(event for event in service.watch(blocker.id) if event.stage)
    data = kit.tiny_model(4)
    model = service.upload_model(data).sha256
    audit = service.create(model, blobs[1], kit.FAST)
    assert audit.state == "queued"
    service.models.DeleteModel(model_pb2.DeleteModelRequest(sha256=model))
    assert (service.data_dir / "blobs" / model[:2] / model).exists()
    service.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=blocker.id))
    assert service.finish(audit.id).state == "succeeded"


NAN = float("nan")

BAD_REQUESTS = {
    "unknown generator": ({"generators": ["wiggle"]}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "unknown method": ({"method": "magic"}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "provider that is no provider": ({"provider": "abacus"}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "provider that is not there": ({"provider": "cuda"}, {}, "FAILED_PRECONDITION", "PROVIDER_NOT_AVAILABLE"),
    "too many threads": ({"threads": 1000}, {}, "INVALID_ARGUMENT", "TOO_MANY_THREADS"),
    "too much memory": ({"budget_mib": 1_000_000}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "unknown factory": ({"torch_factory": "os:system"}, {}, "INVALID_ARGUMENT", "UNKNOWN_FACTORY"),
    "unknown torch source": ({"torch_source": "0" * 64}, {}, "NOT_FOUND", "MODEL_NOT_FOUND"),
    "NaN step": ({"step": NAN}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "infinite step": ({"step": -float("inf")}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "NaN secant": ({"secant_px": NAN}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "NaN scale": ({"preprocessing": {"scale": NAN}}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "NaN in mean": ({"preprocessing": {"scale": 255, "mean": [0, NAN]}}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "infinite std": ({"preprocessing": {"scale": 255, "std": [float("inf")]}}, {}, "INVALID_ARGUMENT", "INVALID_SPEC"),
    "NaN deadline": ({}, {"deadline_seconds": float("nan")}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "long key": ({}, {"idempotency_key": "k" * 1000}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_are_refused_before_any_work(service, kit, blobs, case):
    spec, fields, code, reason = BAD_REQUESTS[case]
    refused(kit, lambda: service.create(*blobs, spec, **fields), code, reason)


@pytest.mark.parametrize("field", ["step", "secant_px"])
def test_nan_is_refused_by_inspect_too(service, kit, blobs, field):
    request = model_pb2.InspectModelRequest(sha256=blobs[0], spec={field: NAN})
    refused(kit, lambda: service.models.InspectModel(request), "INVALID_ARGUMENT", "INVALID_SPEC")


def test_a_budget_that_nobody_asked_for_is_cut_to_the_server_s_memory(start, kit):
    server = start(memory_mib="1024", probe_memory_mib="1024")
    blobs = server.upload_model(kit.tiny_model()).sha256, server.upload_dataset(kit.tiny_dataset()).sha256
    audit = server.create(*blobs, kit.FAST)
    assert 256 <= audit.spec.budget_mib <= 1024 - WORKER_MIB  # a share of what is free, cut
    assert server.finish(audit.id).state == "succeeded"
    assert server.create(*blobs, {**kit.FAST, "budget_mib": 900}).spec.budget_mib == 900
    refused(kit, lambda: server.create(*blobs, {"budget_mib": 1025}), "INVALID_ARGUMENT", "INVALID_SPEC")
    assert server.models.InspectModel(model_pb2.InspectModelRequest(sha256=blobs[0])).node_count


def test_unknown_things_are_not_found(service, kit, blobs):
    refused(kit, lambda: service.get("nothing"), "NOT_FOUND", "AUDIT_NOT_FOUND")
    refused(kit, lambda: list(service.watch("nothing")), "NOT_FOUND", "AUDIT_NOT_FOUND")
    refused(kit, lambda: service.report("../../etc/passwd"), "NOT_FOUND", "AUDIT_NOT_FOUND")
    refused(kit, lambda: service.create("f" * 64, blobs[1]), "NOT_FOUND", "MODEL_NOT_FOUND")
    refused(kit, lambda: service.create(blobs[0], "f" * 64), "NOT_FOUND", "DATASET_NOT_FOUND")


def test_lists_filter_by_state(service, kit, done):
    answer = service.audits.ListAudits(audit_pb2.ListAuditsRequest(state="succeeded"))
    assert done.id in [audit.id for audit in answer.audits]
    assert {audit.state for audit in answer.audits} == {"succeeded"}
    request = audit_pb2.ListAuditsRequest(state="asleep")
    refused(kit, lambda: service.audits.ListAudits(request), "INVALID_ARGUMENT", "INVALID_REQUEST")


def test_what_the_library_refuses_is_the_audits_failure(service, kit):
    model = service.upload_model(kit.tiny_model(5, size=6)).sha256
    images = service.upload_dataset(kit.tiny_dataset(5, size=8)).sha256
    audit = service.finish(service.create(model, images, kit.FAST).id)
    assert audit.state == "failed"
    assert audit.failure.reason == "WRONG_SIZE"
    assert str(service.data_dir) not in audit.failure.message


POLICY = """
version: 1
rules:
  - id: small
    kind: limit
    generators: [rotation]
    max: 1000.0
"""


def test_evaluate_decides_by_id_by_message_and_by_json_alike(service, done):
    raw = service.report(done.id)
    sources = (
        gate_pb2.ReportSource(audit_id=done.id),
        gate_pb2.ReportSource(report=report_pb2.Report.FromString(raw)),
        gate_pb2.ReportSource(report_json=parse_report(raw).to_json().encode()),
    )
    answers = [
        service.audits.Evaluate(gate_pb2.EvaluateRequest(candidate=source, policy_yaml=POLICY)) for source in sources
    ]
    assert answers[0] == answers[1] == answers[2]
    assert [rule.id for rule in answers[0].rules] == ["small"]


def test_check_policy_names_what_is_wrong(service):
    good = service.audits.CheckPolicy(gate_pb2.CheckPolicyRequest(policy_yaml=POLICY))
    assert (list(good.problems), list(good.generators), good.rules) == ([], ["rotation"], 1)
    bad = service.audits.CheckPolicy(gate_pb2.CheckPolicyRequest(policy_yaml="version: 1\nrulez: []\n"))
    assert bad.problems


def test_inspect_reads_the_graph_and_measures_accuracy(service, blobs):
    answer = service.models.InspectModel(model_pb2.InspectModelRequest(sha256=blobs[0], dataset_sha256=blobs[1]))
    assert answer.input.name == "x"
    assert answer.image_count == 12
    assert 0 <= answer.top1 <= 1


def test_health_per_service_and_reflection(service):
    health = health_pb2_grpc.HealthStub(service.channel)
    names = ["", "lieaudit.v1.ModelService", "lieaudit.v1.DatasetService", "lieaudit.v1.AuditService"]
    for name in names:
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(reflection.ServerReflectionInfo(iter([request])))
    assert set(names[1:]) <= {found.name for found in answer.list_services_response.service}


def test_server_info(service):
    info = service.audits.GetServerInfo(audit_pb2.GetServerInfoRequest())
    assert info.api_version == "lieaudit.v1"
    assert "CPUExecutionProvider" in info.providers
    assert info.slots >= 1
    assert int(info.limits["chunk_bytes"]) == 2**20
