"""Tokens, ownership, TLS, and addresses that others can reach, on real servers."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lieaudit_api.v1 import audit_pb2, dataset_pb2, model_pb2, upload_pb2
from lieaudit_server import identity
from lieaudit_server.config import Config, is_loopback
from lieaudit_server.errors import ConfigError


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lieaudit_server", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


class Bearer:
    """Calls of one token's bearer."""

    def __init__(self, service, token):
        self._service = service
        self._metadata = {"metadata": (("authorization", f"Bearer {token}"),)}

    def __call__(self, method, request):
        stub = getattr(self._service, method[0])
        answer = getattr(stub, method[1])(request, timeout=60, **self._metadata)
        return list(answer) if hasattr(answer, "__next__") else answer

    def upload(self, kind, data, format_):
        return self._service.upload(kind, data, format_, **self._metadata)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A token file, and a secret for each of its bearers."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    wanted = {"alice": "audit", "bob": "audit", "carol": "read", "root": "admin"}
    secrets = {}
    kept = []
    for owner, scope in wanted.items():
        secrets[owner], token = identity.new_token(owner, scope, None)
        kept.append(token)
    secrets["late"], token = identity.new_token("late", "admin", time.time() - 1)
    identity.write_tokens(path, [*kept, token])
    return path, secrets


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, service_class, tokens):
    """A server with tokens."""
    server = service_class(tmp_path_factory.mktemp("guarded") / "data", tokens_file=str(tokens[0])).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def alices(guarded, tokens, kit):
    """What Alice has: a model, a data set and an audit."""
    alice = Bearer(guarded, tokens[1]["alice"])
    model = alice.upload("model", kit.tiny_model(), "onnx")
    dataset = alice.upload("dataset", kit.tiny_dataset(), "npz")
    request = audit_pb2.CreateAuditRequest(model_sha256=model.sha256, dataset_sha256=dataset.sha256, spec=kit.FAST)
    audit = alice(("audits", "CreateAudit"), request)
    alice(("audits", "WatchAudit"), audit_pb2.WatchAuditRequest(id=audit.id))
    return model, dataset, audit


INFO = ("audits", "GetServerInfo"), audit_pb2.GetServerInfoRequest()


def refused(kit, call, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert (caught.value.code().name, kit.reason_of(caught.value).reason) == (code, reason)


@pytest.mark.parametrize("token", ["", "wrong", "lieaudit_" + "A" * 43, "ü" * 20])
def test_without_a_known_token_nothing_is_served(guarded, kit, token):
    metadata = (("authorization", f"Bearer {token}".encode().decode("latin-1")),) if token else ()
    if not token.isascii():
        metadata = (("authorization-bin", token.encode()),)
    call = lambda: guarded.audits.GetServerInfo(audit_pb2.GetServerInfoRequest(), metadata=metadata)  # noqa: E731
    refused(kit, call, "UNAUTHENTICATED", "UNAUTHENTICATED")


def test_an_expired_token_is_refused(guarded, kit, tokens):
    refused(kit, lambda: Bearer(guarded, tokens[1]["late"])(*INFO), "UNAUTHENTICATED", "TOKEN_EXPIRED")


def test_health_and_reflection_need_no_token(guarded):
    stub = health_pb2_grpc.HealthStub(guarded.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_a_read_token_reads_and_changes_nothing(guarded, kit, tokens, alices):
    carol = Bearer(guarded, tokens[1]["carol"])
    assert carol(*INFO).api_version == "lieaudit.v1"
    model, dataset, audit = alices
    create = audit_pb2.CreateAuditRequest(model_sha256=model.sha256, dataset_sha256=dataset.sha256)
    for method, request in (
        (("audits", "CreateAudit"), create),
        (("audits", "CancelAudit"), audit_pb2.CancelAuditRequest(id=audit.id)),
        (("models", "DeleteModel"), model_pb2.DeleteModelRequest(sha256=model.sha256)),
        (("datasets", "DeleteDataset"), dataset_pb2.DeleteDatasetRequest(sha256=dataset.sha256)),
        (("models", "InspectModel"), model_pb2.InspectModelRequest(sha256=model.sha256)),
        (("models", "UploadModel"), iter(())),
        (("datasets", "UploadDataset"), iter(())),
    ):
        refused(kit, lambda m=method, r=request: carol(m, r), "PERMISSION_DENIED", "SCOPE_MISSING")


def test_nobody_sees_what_belongs_to_somebody_else(guarded, kit, tokens, alices):
    bob = Bearer(guarded, tokens[1]["bob"])
    model, dataset, audit = alices
    assert list(bob(("models", "ListModels"), model_pb2.ListModelsRequest()).models) == []
    assert list(bob(("datasets", "ListDatasets"), dataset_pb2.ListDatasetsRequest()).datasets) == []
    assert list(bob(("audits", "ListAudits"), audit_pb2.ListAuditsRequest()).audits) == []
    for method, request in (
        (("models", "GetModel"), model_pb2.GetModelRequest(sha256=model.sha256)),
        (("models", "DeleteModel"), model_pb2.DeleteModelRequest(sha256=model.sha256)),
        (("models", "InspectModel"), model_pb2.InspectModelRequest(sha256=model.sha256)),
        (("datasets", "GetDataset"), dataset_pb2.GetDatasetRequest(sha256=dataset.sha256)),
        (("datasets", "DeleteDataset"), dataset_pb2.DeleteDatasetRequest(sha256=dataset.sha256)),
        (("audits", "GetAudit"), audit_pb2.GetAuditRequest(id=audit.id)),
        (("audits", "CancelAudit"), audit_pb2.CancelAuditRequest(id=audit.id)),
        (("audits", "WatchAudit"), audit_pb2.WatchAuditRequest(id=audit.id)),
        (("audits", "GetReport"), audit_pb2.GetReportRequest(id=audit.id)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            bob(method, request)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND, method


def test_knowing_a_checksum_does_not_give_the_file(guarded, kit, tokens, alices):
    bob = Bearer(guarded, tokens[1]["bob"])
    digest = alices[0].sha256
    known = bob(("models", "GetUploadStatus"), upload_pb2.UploadStatusRequest(sha256=digest))
    assert (known.complete, known.committed_bytes) == (False, 0)
    only_header = iter([next(kit.messages(kit.tiny_model(), "onnx"))])
    refused(kit, lambda: bob(("models", "UploadModel"), only_header), "ABORTED", "UPLOAD_INCOMPLETE")
    mine = bob.upload("model", kit.tiny_model(), "onnx")
    assert (mine.sha256, mine.owner) == (digest, "bob")
    bob(("models", "DeleteModel"), model_pb2.DeleteModelRequest(sha256=digest))
    alice = Bearer(guarded, tokens[1]["alice"])
    assert alice(("models", "GetModel"), model_pb2.GetModelRequest(sha256=digest)).owner == "alice"


def test_nobody_is_answered_from_another_s_audit(guarded, kit, tokens):
    """`reuse` finds one's own audits only, an admin's too, who may see the others'."""
    model, images = kit.tiny_model(seed=77), kit.tiny_dataset(count=3)
    made = {}
    for name in ("alice", "bob", "root"):
        call = Bearer(guarded, tokens[1][name])
        request = audit_pb2.CreateAuditRequest(
            model_sha256=call.upload("model", model, "onnx").sha256,
            dataset_sha256=call.upload("dataset", images, "npz").sha256,
            spec=kit.FAST,
            reuse=True,
        )
        made[name] = call(("audits", "CreateAudit"), request)
        call(("audits", "WatchAudit"), audit_pb2.WatchAuditRequest(id=made[name].id))
        assert call(("audits", "CreateAudit"), request).id == made[name].id, "one's own is the answer"
    assert len({audit.id for audit in made.values()}) == 3
    assert [audit.owner for audit in made.values()] == ["alice", "bob", "root"]


def test_an_admin_sees_everything(guarded, tokens, alices):
    root = Bearer(guarded, tokens[1]["root"])
    assert alices[2].id in [a.id for a in root(("audits", "ListAudits"), audit_pb2.ListAuditsRequest()).audits]
    assert root(("models", "GetModel"), model_pb2.GetModelRequest(sha256=alices[0].sha256)).owner == "alice"


def test_tokens_are_made_and_revoked_while_the_server_runs(guarded, kit, tokens):
    path = str(tokens[0])
    made = command("token", "add", "--tokens-file", path, "--owner", "dave", "--scope", "read", "--days", "1")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret not in tokens[0].read_text()
    dave = Bearer(guarded, secret)
    assert dave(*INFO).api_version == "lieaudit.v1"
    line = next(line for line in command("token", "list", "--tokens-file", path).stdout.splitlines() if "dave" in line)
    assert command("token", "revoke", "--tokens-file", path, line.split()[0]).returncode == 0
    refused(kit, lambda: dave(*INFO), "UNAUTHENTICATED", "UNAUTHENTICATED")


def test_a_broken_token_file_locks_nobody_out(guarded, tokens):
    good = tokens[0].read_text()
    tokens[0].write_text("{ not json")
    try:
        assert Bearer(guarded, tokens[1]["alice"])(*INFO).api_version == "lieaudit.v1"
    finally:
        tokens[0].write_text(good)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"tokens": [{"id": "a"}]}', '{"tokens": [{"id":"a","owner":"o","scope":"god","sha256":"x"}]}'],
)
def test_a_malformed_token_file_is_refused_at_the_start(tmp_path, content):
    path = tmp_path / "tokens.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="token"):
        identity.read_tokens(path)


def test_a_token_file_that_others_may_write_is_refused(tmp_path):
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": []}))
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod"):
        identity.read_tokens(path)


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
        (":1", False),
    ],
)
def test_only_loopback_goes_without_tls_and_tokens(tmp_path, listen, loopback):
    assert is_loopback(listen) is loopback
    if not loopback:
        with pytest.raises(ConfigError, match="insecure"):
            Config(listen=listen)
        with pytest.raises(ConfigError, match="insecure"):
            Config(listen=listen, tokens_file=tmp_path / "t")
        with pytest.raises(ConfigError, match="insecure"):
            Config(listen=listen, tls_cert=tmp_path / "c", tls_key=tmp_path / "k")
        Config(listen=listen, tls_cert=tmp_path / "c", tls_key=tmp_path / "k", tokens_file=tmp_path / "t")
    Config(listen=listen, insecure=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority with a server and a client certificate, as files."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    server = ca.issue_cert("localhost")
    client = ca.issue_cert("alice@example.org", common_name="alice")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return folder, ca, client


def credentials(authority, *, with_client=False):
    folder, _, client = authority
    root = (folder / "ca.pem").read_bytes()
    if not with_client:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes())


def tls_settings(authority):
    folder = authority[0]
    return {"tls_cert": str(folder / "cert.pem"), "tls_key": str(folder / "key.pem")}


def test_tls_serves_who_trusts_the_authority_and_takes_up_a_new_certificate(start, kit, authority, tokens):
    # The first connection of `start` is plaintext and is refused.
    server = start(**tls_settings(authority), tokens_file=str(tokens[0]), listen="localhost:0")
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.GetServerInfo(audit_pb2.GetServerInfoRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    server.connect(credentials(authority))
    assert Bearer(server, tokens[1]["alice"])(*INFO).api_version == "lieaudit.v1"
    health = command("health", "--listen", server.target, *flags(tls_settings(authority)))
    assert (health.returncode, health.stdout.strip()) == (0, "SERVING"), health

    other = trustme.CA()
    renewed = other.issue_cert("localhost")
    folder = authority[0]
    old = {name: (folder / name).read_bytes() for name in ("cert.pem", "key.pem")}
    try:
        renewed.private_key_pem.write_to_path(folder / "key.pem")
        renewed.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        server.connect(grpc.ssl_channel_credentials(other.cert_pem.bytes()))
        assert Bearer(server, tokens[1]["alice"])(*INFO).api_version == "lieaudit.v1"
    finally:
        for name, content in old.items():
            (folder / name).write_bytes(content)


def test_whoever_speaks_no_tls_writes_nothing_into_the_log(start, authority, tokens):
    """gRPC would write a line of its own for each, as many as anybody likes, past the log and its form."""
    server = start(**tls_settings(authority), tokens_file=str(tokens[0]), listen="localhost:0")
    host, _, port = server.target.rpartition(":")
    for greeting in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05hello", bytes(100)) * 20:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(greeting)
            connection.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1024):
                    pass
    server.connect(credentials(authority))
    assert Bearer(server, tokens[1]["alice"])(*INFO).api_version == "lieaudit.v1"
    lines = server.log().splitlines()
    assert len(lines) < 30
    assert all(json.loads(line) for line in lines)


def flags(settings):
    return [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), value)]


def test_mutual_tls_takes_the_owner_from_the_certificate(start, kit, authority):
    settings = {**tls_settings(authority), "tls_client_ca": str(authority[0] / "ca.pem")}
    server = start(**settings, listen="localhost:0")
    server.connect(credentials(authority))
    with pytest.raises(grpc.RpcError) as caught:
        server.audits.GetServerInfo(audit_pb2.GetServerInfoRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    server.connect(credentials(authority, with_client=True))
    assert server.upload_dataset(kit.tiny_dataset(count=2)).owner == "alice"
