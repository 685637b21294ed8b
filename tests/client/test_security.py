"""Tokens and TLS against a real server: who may not, is told so in words, and no secret is ever shown."""

import asyncio
import datetime as dt
import ipaddress
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from lieaudit_client import (
    AsyncClient,
    Client,
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnreachableError,
)
from lieaudit_client._connection import Connection


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A certificate authority that signs certificates into a folder."""

    def __init__(self, folder):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign("authority", self._key, True, None)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, name, key, is_authority, alternative):
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if alternative is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name, alternative=None):
        """Return the paths of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key, False, alternative)
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_file, key_file


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def token(tmp_path):
    """Make tokens as an operator does, with the server's own command."""

    def make(scope, *more):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "lieaudit_server", "token", "add", "--tokens-file", tmp_path / "tokens.json"),
                *("--owner", f"{scope}er", "--scope", scope, *more),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.split()[0]

    return make


def test_tokens(start, tmp_path, token, files, monkeypatch):
    auditor, reader, expired = token("audit"), token("read"), token("audit", "--days", "0.0000001")
    server = start(tokens_file=str(tmp_path / "tokens.json"))
    for wrong, said in ((None, "a bearer token is needed"), ("lieaudit_no", "not known"), (expired, "has expired")):
        with Client(server.target, token=wrong) as client, pytest.raises(UnauthenticatedError) as caught:
            client.upload_model(files[0])
        assert "does not know who you are" in str(caught.value)
        assert said in str(caught.value)
        assert str(wrong) not in str(caught.value)
    with Client(server.target, token=reader) as client:
        assert client.healthy()
        assert list(client.models()) == []
        with pytest.raises(PermissionDeniedError) as caught:
            client.upload_model(files[0])
        assert "does not let you do this" in str(caught.value)
        assert "scope audit" in str(caught.value)
        assert caught.value.request_id
    with Client(server.target, token=auditor) as client:
        assert client.upload_model(files[0]).owner == "auditer"
    monkeypatch.setenv("LIEAUDIT_TOKEN", reader)
    monkeypatch.setenv("LIEAUDIT_SERVER", server.target)
    with Client() as client:
        assert client.server_info().slots


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory, authority, new_server):
    names = [x509.DNSName("audits.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    cert, key = authority.issue("server", names)
    running = new_server(tmp_path_factory.mktemp("tls") / "data", tls_cert=str(cert), tls_key=str(key)).start()
    yield running
    running.kill()


def test_tls(tls_server, authority):
    with Client(tls_server.target, ca_file=authority.file) as client:
        assert client.server_info().slots
    # by another name than the certificate's
    name = tls_server.target.replace("127.0.0.1", "localhost")
    with Client(name, ca_file=authority.file) as client, pytest.raises(UnreachableError) as caught:
        client.server_info()
    assert caught.value.reason == "CERTIFICATE_OF_ANOTHER"
    with Client(name, ca_file=authority.file, tls_name="audits.example") as client:
        assert client.server_info().slots


def test_plain_text_to_a_tls_port_is_said(tls_server, authority, start):
    server, key = authority.issue("mutual", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    mutual = start(tls_cert=str(server), tls_key=str(key), tls_client_ca=str(authority.file))
    for target in (tls_server.target, mutual.target):
        with Client(target) as client:
            for call in (client.server_info, client.healthy):
                with pytest.raises(UnreachableError, match="speaks TLS, and was spoken to in plain text") as caught:
                    call()
                assert (caught.value.reason, caught.value.subject) == ("TLS_THERE", target)

        async def ask(target=target):
            async with AsyncClient(target) as client:
                await client.server_info()

        with pytest.raises(UnreachableError) as caught:
            asyncio.run(ask())
        assert caught.value.reason == "TLS_THERE"


def test_tls_to_a_plain_port(server, authority):
    with Client(server.target, ca_file=authority.file) as client, pytest.raises(UnreachableError) as caught:
        client.server_info()
    assert caught.value.reason == "NO_TLS_THERE"


def test_an_untrusted_certificate_is_said_at_once(tls_server, tmp_path):
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with Client(tls_server.target, ca_file=other.file) as client, pytest.raises(UnreachableError) as caught:
        client.server_info()
    assert caught.value.reason == "CERTIFICATE_NOT_TRUSTED"
    assert "--ca-file" in caught.value.hint


def test_mutual_tls(start, authority, files):
    cert, key = authority.issue("server", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own_cert, own_key = authority.issue("carol")
    server = start(tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(authority.file))
    with Client(server.target, ca_file=authority.file, cert_file=own_cert, key_file=own_key) as client:
        assert client.upload_model(files[0]).owner == "carol"
    with Client(server.target, ca_file=authority.file) as client, pytest.raises(UnreachableError):
        client.server_info(timeout=3.0)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("unix:/tmp/x", True),
        ("dns:///localhost:1", True),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
        ("[fe80::1]:1", False),
    ],
)
def test_plain_text_is_for_this_machine_only(target, local):
    connection = Connection(target)
    assert connection.local is local
    assert (connection.credentials() is None) is local
    assert Connection(target, insecure=True).credentials() is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"target": ""}, "NO_SERVER"),
        ({"target": "a:1", "cert_file": "c"}, "INCOMPLETE_TLS"),
        ({"target": "a:1", "ca_file": "c", "insecure": True}, "CONTRADICTORY_TLS"),
        ({"target": "a:1", "tls_name": "c", "insecure": True}, "CONTRADICTORY_TLS"),
        ({"target": "a:1", "ca_file": "/none/here"}, "UNREADABLE_FILE"),
    ],
)
def test_contradictions_are_said(values, reason):
    with pytest.raises(InvalidInputError) as caught:
        Client(**values)
    assert caught.value.reason == reason


def test_pings_are_for_networks_only():
    for target, expected in (("unix:/run/lieaudit", False), ("127.0.0.1:50151", True), ("audits.example:443", True)):
        assert ("grpc.keepalive_time_ms" in dict(Connection(target).arguments())) == expected


def test_the_token_is_in_no_representation():
    connection = Connection("localhost:1", token="s3cret")
    assert "s3cret" not in repr(connection)


@pytest.mark.parametrize("token", ["two\nlines", "tökén", "\ufffd\x00"])
def test_what_is_no_token_is_said_before_it_is_sent(token):
    with pytest.raises(InvalidInputError, match="tokens never contain") as caught:
        Client("localhost:1", token=token)
    assert caught.value.reason == "INVALID_TOKEN"
    assert token not in str(caught.value)


def test_a_token_of_the_environment_may_end_in_a_newline(monkeypatch):
    monkeypatch.setenv("LIEAUDIT_TOKEN", "s3cret\n")
    unset = dict.fromkeys(("token", "ca_file", "cert_file", "key_file", "insecure", "tls_name"))
    assert Connection.create("localhost:1", **unset).metadata() == (("authorization", "Bearer s3cret"),)
