"""Asks a running server whether it serves, with the server's own settings."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lieaudit_server.config import Config

_SECONDS = 5.0


def check(config: Config) -> str:
    """Return ``SERVING``, ``NOT_SERVING`` or why the server could not be asked.

    Under TLS the server's own certificate is what is trusted, whatever name it is for; under mutual TLS it must also
    be valid for a client.
    """
    host, _, port = config.listen.rpartition(":")
    wildcard = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104
    target = config.listen if config.listen.startswith("unix:") else f"{wildcard.get(host, host)}:{port}"
    try:
        with _channel(config, target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
    except grpc.RpcError as problem:
        return f"{problem.code().name}: {problem.details()}"
    except OSError as problem:
        return f"UNAVAILABLE: {problem.strerror or problem}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(config: Config, target: str) -> grpc.Channel:
    if config.tls_cert is None or config.tls_key is None:
        return grpc.insecure_channel(target)
    chain, key = config.tls_cert.read_bytes(), config.tls_key.read_bytes()
    mutual = config.tls_client_ca is not None
    credentials = grpc.ssl_channel_credentials(chain, key if mutual else None, chain if mutual else None)
    return grpc.secure_channel(target, credentials, options=(("grpc.ssl_target_name_override", _name(config, target)),))


def _name(config: Config, target: str) -> str:
    """Return a name that the server's certificate is for, so that the check by address passes."""
    context = ssl.create_default_context(cafile=config.tls_cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted, not its authority
    context.set_alpn_protocols(["h2"])
    if config.tls_cert is not None and config.tls_client_ca is not None:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as plain,
        context.wrap_socket(plain) as secured,
    ):
        names: Any = (secured.getpeercert() or {}).get("subjectAltName", ())
    return next((str(value) for kind, value in names if kind in {"DNS", "IP Address"}), "localhost")
