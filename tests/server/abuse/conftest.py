"""A server with a tenant who means harm and another one."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lieaudit_api.v1 import audit_pb2


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


@pytest.fixture
def connections():
    """Return a context of so many channels to a server, with a connection each."""
    return _connections


@contextlib.contextmanager
def _connections(server, count):
    channels = [grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            channel.close()


@pytest.fixture
def goes_on(kit):
    """Have the other tenant work: its calls answer, and its audit ends."""

    def work(server, headers):
        model = server.upload_model(kit.tiny_model(), metadata=headers).sha256
        images = server.upload_dataset(kit.tiny_dataset(), metadata=headers).sha256
        request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images, spec=kit.FAST)
        audit = server.audits.CreateAudit(request, metadata=headers, timeout=kit.SECONDS)
        watch = audit_pb2.WatchAuditRequest(id=audit.id)
        events = list(server.audits.WatchAudit(watch, metadata=headers, timeout=kit.SECONDS))
        assert events[-1].state == "succeeded"
        assert server.audits.ListAudits(audit_pb2.ListAuditsRequest(), metadata=headers, timeout=kit.SECONDS).audits

    return work


@pytest.fixture
def healthy():
    """Ask for the health on a connection of its own."""

    def ask(server):
        with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            return answer.status == health_pb2.HealthCheckResponse.SERVING

    return ask
