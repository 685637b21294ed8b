"""What one tenant may hold for long: half-done uploads, reports, processors."""

from __future__ import annotations

import time

import grpc
import pytest
from grpc_health.v1 import health_pb2
from lieaudit_api.v1 import audit_pb2, upload_pb2

MIB = 2**20
SERVING = health_pb2.HealthCheckResponse.SERVING


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


def test_audits_of_one_tenant_that_take_for_ever_leave_a_cpu_to_others(tenants, kit, goes_on):
    server, mine, other, _ = tenants(threads_per_audit="1", cpu_threads="2")
    model = server.upload_model(kit.tiny_model(3, size=16), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(3, count=20_000, size=16), metadata=mine).sha256
    request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images)
    made = [server.audits.CreateAudit(request, metadata=mine).id for _ in range(3)]
    watch = server.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=made[0]), metadata=mine, timeout=kit.SECONDS)
    next(event for event in watch if event.done)
    goes_on(server, other)
    states = [server.audits.GetAudit(audit_pb2.GetAuditRequest(id=i), metadata=mine).state for i in made]
    assert states == ["running", "queued", "queued"]
