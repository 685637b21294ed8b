"""What an operator sees: metrics, logs, draining, health, the embedded server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lieaudit_api.v1 import audit_pb2
from lieaudit_server.conversions import parse_report
from lieaudit_server.embedded import EmbeddedServer, sweep
from lieaudit_server.errors import ConfigError
from lieaudit_server.tracing import Tracer
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_metrics_count_what_happened(start, kit):
    port = free_port()
    server = start(metrics_listen=f"127.0.0.1:{port}")
    model, images = kit.tiny_model(), kit.tiny_dataset()
    digests = server.upload_model(model).sha256, server.upload_dataset(images).sha256
    server.finish(server.create(*digests, kit.FAST).id)
    with pytest.raises(grpc.RpcError):
        server.get("nothing")

    def scraped():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    kit.wait_for(lambda: scraped()["lieaudit_running_audits"] == "0.0")  # the slot is free once the worker is reaped
    values = scraped()
    assert float(values['lieaudit_uploaded_bytes_total{kind="model"}']) == len(model)
    assert float(values['lieaudit_uploaded_bytes_total{kind="dataset"}']) == len(images)
    assert float(values['lieaudit_audits_total{state="succeeded"}']) == 1
    assert float(values["lieaudit_audit_seconds_count"]) == 1
    assert float(values["lieaudit_rows_per_second_count"]) == 1
    assert float(values['lieaudit_rpcs_total{code="NOT_FOUND",method="GetAudit"}']) == 1


def test_logs_are_json_lines_with_the_request_id_that_the_client_sees(start, kit):
    server = start()
    request = audit_pb2.GetAuditRequest(id="nothing")
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.GetAudit(request, metadata=(("x-request-id", "my-request-0001"),))
    assert kit.reason_of(caught.value).metadata["request_id"] == "my-request-0001"

    def logged():  # the line is written after the answer
        lines = [json.loads(line) for line in server.log().splitlines()]
        return [line for line in lines if line.get("request_id") == "my-request-0001" and line["message"] == "call"]

    (call,) = kit.wait_for(logged)
    assert (call["code"], call["owner"], call["method"]) == ("NOT_FOUND", "local", "/lieaudit.v1.AuditService/GetAudit")
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.GetAudit(request, metadata=(("x-request-id", '"}, {"forged": "line'),))
    assert "forged" not in kit.reason_of(caught.value).metadata["request_id"]


def test_sigterm_drains_and_what_was_interrupted_resumes(start, kit):
    server = start(drain_seconds="1")
    slow = server.create(*kit.slow_pair(server), kit.SLOW)
    watcher = server.watch(slow.id)
    last = next(event for event in watcher if event.done)
    health = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    server.signal(signal.SIGTERM)
    assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        server.create(slow.model_sha256, slow.dataset_sha256, kit.FAST)
    assert (caught.value.code().name, kit.reason_of(caught.value).reason) == ("UNAVAILABLE", "DRAINING")
    assert kit.retry_seconds(caught.value) > 0
    seen = [last]
    with pytest.raises(grpc.RpcError) as caught:
        seen.extend(watcher)
    last = seen[-1]
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.wait_exit() == 0
    again = start()
    assert again.get(slow.id).state in {"queued", "running"}
    event = next(again.watch(slow.id, after=last.sequence))
    assert event.sequence > last.sequence
    again.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=slow.id))


def test_an_audit_interrupted_between_shards_gives_the_same_bits(start, kit):
    spec = {**kit.FAST, "generators": ["rotation", "scale"]}
    model, images = kit.tiny_model(), kit.tiny_dataset(count=4000)

    def run(server, interrupt):
        digests = server.upload_model(model).sha256, server.upload_dataset(images).sha256
        audit = server.create(*digests, spec)
        if not interrupt:
            return server, server.finish(audit.id).id
        shards = server.data_dir / "audits" / audit.id / "shards"
        kit.wait_for(lambda: shards.exists() and len(list(shards.iterdir())) > 5)
        kept = {path.name: path.stat().st_mtime_ns for path in shards.iterdir() if path.suffix == ".npz"}
        server.kill()
        again = start("interrupted")
        kit.wait_for(lambda: again.get(audit.id).state == "running" or again.get(audit.id).state == "succeeded")
        present = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.npz")} if shards.exists() else kept
        assert {name: present.get(name) for name in kept} == kept or again.get(audit.id).state == "succeeded"
        return again, again.finish(audit.id).id

    undisturbed = run(start("undisturbed"), interrupt=False)
    interrupted = run(start("interrupted"), interrupt=True)
    results = [parse_report(server.report(audit_id)).results for server, audit_id in (undisturbed, interrupted)]
    assert results[0] == results[1]


def test_health_command_says_what_it_found(service):
    command = [sys.executable, "-m", "lieaudit_server", "health", "--listen"]
    up = subprocess.run([*command, service.target], capture_output=True, text=True, timeout=60, check=False)
    assert (up.returncode, up.stdout) == (0, "SERVING\n")
    port = free_port()
    down = subprocess.run([*command, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=60, check=False)
    assert down.returncode == 4
    assert down.stdout.startswith("UNAVAILABLE")


def test_the_embedded_server_lives_as_long_as_its_context(kit):
    embedded = EmbeddedServer()
    with embedded as target:
        assert target.startswith("unix:")
        with grpc.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True).status == 1
        socket_file = target.removeprefix("unix:")
    assert not Path(socket_file).parent.exists()


def test_the_embedded_server_takes_pings_however_often_they_come(kit):
    """A busy machine delivers them in bunches; a server that minds closes the connection with too_many_pings."""
    pings = [("grpc.keepalive_time_ms", 50), ("grpc.http2.max_pings_without_data", 0)]
    with EmbeddedServer() as target, grpc.insecure_channel(target, pings) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=3)
        assert next(watch).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_embedded_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="data_dir"), EmbeddedServer(tmp_path / "file"):
        pass


def test_the_embedded_server_stops_when_its_parent_is_killed(tmp_path, kit):
    code = (
        "import sys, time; from lieaudit_server.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(); server.__enter__(); print(server.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    kit.wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_what_a_killed_embedded_server_leaves_is_swept_by_the_next(tmp_path, kit):
    code = (
        "import sys, time; from lieaudit_server.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(); server.__enter__(); print(server.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    (tmp_path / "lieaudit-of-another-kind").mkdir()

    def folders():
        return {path.name for path in tmp_path.iterdir()} - {"lieaudit-of-another-kind"}

    def begin():
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        return parent, int(parent.stdout.readline())

    killed, server = begin()
    (left,) = folders()
    other, others_server = begin()  # it sweeps, too: and leaves what is in use
    (others,) = folders() - {left}
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(server, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert folders() == {left, others}
    os.kill(other.pid, signal.SIGSTOP)  # stopped is not dead
    kit.wait_for(lambda: sweep(tmp_path) or folders() == {others})  # the killed server takes a moment to die
    for pid in (other.pid, others_server):
        os.kill(pid, signal.SIGKILL)
    other.wait()
    other.stdout.close()
    kit.wait_for(lambda: sweep(tmp_path) or not folders())
    assert (tmp_path / "lieaudit-of-another-kind").exists()


def test_traces_are_refused_where_the_packages_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match="otel"):
        Tracer(enabled=True, version="0")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes OpenTelemetry spans, as a collector does."""

    def __init__(self):
        self.spans = []

    def Export(self, request, context):  # noqa: N802
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


def test_calls_are_spans_of_the_callers_trace(start, kit):
    collector = Collector()
    sink = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, sink)
    port = sink.add_insecure_port("127.0.0.1:0")
    sink.start()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    server = start(environment=environment, otel="true")
    trace = "0123456789abcdef0123456789abcdef"
    with pytest.raises(grpc.RpcError):
        server.audits.GetAudit(
            audit_pb2.GetAuditRequest(id="nothing"), metadata=(("traceparent", f"00-{trace}-0123456789abcdef-01"),)
        )
    span = kit.wait_for(lambda: collector.spans)[0]
    assert span.name == "lieaudit.v1.AuditService/GetAudit"
    assert span.trace_id.hex() == trace
    values = {attribute.key: attribute.value.string_value for attribute in span.attributes}
    assert values["rpc.grpc.status_code"] == "NOT_FOUND"
    sink.stop(0)
