"""Asks a running server whether it serves, with the server's own settings."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lieaudit_server.config import Config

_SECONDS = 5.0


def check(config: Config) -> str:
    """Give ``SERVING``, ``NOT_SERVING`` or why the server could not be asked.

    Under TLS the server's own certificate is what is trusted, whatever name it is for; under mutual TLS it must also
    be valid for a client.
    """
    host, _, port = config.listen.rpartition(":")
    wildcard = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104
    target = config.listen if config.listen.startswith("unix:") else f"{wildcard.get(host, host)}:{port}"
    with _channel(config, target) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as problem:
            return f"{problem.code().name}: {problem.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(config: Config, target: str) -> grpc.Channel:
    if config.tls_cert is None or config.tls_key is None:
        return grpc.insecure_channel(target)
    chain = config.tls_cert.read_bytes()
    key = config.tls_key.read_bytes() if config.tls_client_ca is not None else None
    credentials = grpc.ssl_channel_credentials(chain, key, chain if key is not None else None)
    return grpc.secure_channel(target, credentials, options=(("grpc.ssl_target_name_override", _name(chain)),))


def _name(chain: bytes) -> str:
    """Give a host name of a certificate (subjectAltName), so that the check by address passes."""
    import ssl
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cert.pem"
        path.write_bytes(chain)
        decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]  # noqa: SLF001
    names = [value for kind, value in decoded.get("subjectAltName", ()) if kind == "DNS"]
    return names[0] if names else "localhost"
