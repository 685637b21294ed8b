"""Where the service is, and how the client proves who it is."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from lieaudit_client.exceptions import InvalidInputError

_MIB = 1024 * 1024
_COMMON_ARGUMENTS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 64 * _MIB),  # the inspection of a model with very many layers
    ("grpc.max_send_message_length", 64 * _MIB),  # reports by value in Evaluate
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_NETWORK_ARGUMENTS: tuple[tuple[str, int], ...] = (
    # A watch may be silent for long; without pings a connection that died on the way is never noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Address and credentials.

    Attributes
    ----------
    target
        ``host:port`` or ``unix:/path``.
    token
        Bearer token.
    ca_file, cert_file, key_file
        PEM files: the authority that signed the service's certificate (None: the system's), and the client's
        own certificate and key for mutual TLS.
    insecure
        Speak plain text to a host that is not this one. On this machine (loopback, unix socket) plain text is the
        rule and TLS is used where ``ca_file``, ``cert_file`` or ``tls_name`` is given; elsewhere TLS is the rule.
    tls_name
        The name in the service's certificate, where it is not the host of ``target``.
    """

    target: str
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure: bool = False
    tls_name: str | None = None

    def __post_init__(self) -> None:
        if not self.target:
            raise InvalidInputError(
                "no address of the service",
                reason="NO_SERVER",
                subject="target",
                hint="host:port, or set LIEAUDIT_SERVER",
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise InvalidInputError(
                "the token contains characters that tokens never contain",
                reason="INVALID_TOKEN",
                subject="token",
                hint="give the token alone, as `lieaudit-server token add` printed it",
            )
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidInputError(
                "mutual TLS needs the certificate and its key", reason="INCOMPLETE_TLS", subject="cert_file, key_file"
            )
        if self.insecure and self._tls_given:
            raise InvalidInputError(
                "insecure contradicts the certificates given", reason="CONTRADICTORY_TLS", subject="insecure"
            )

    @classmethod
    def create(
        cls,
        target: str | None,
        *,
        token: str | None,
        ca_file: str | Path | None,
        cert_file: str | Path | None,
        key_file: str | Path | None,
        insecure: bool | None,
        tls_name: str | None,
    ) -> Connection:
        """Fill what is None from the environment: ``LIEAUDIT_SERVER``, ``_TOKEN``, ``_CA_FILE`` and so on."""
        said = os.environ.get

        def path(given: str | Path | None, variable: str) -> Path | None:
            text = given if given is not None else said(variable)
            return Path(text) if text else None

        return cls(
            target=target if target is not None else said("LIEAUDIT_SERVER", ""),
            token=(token if token is not None else said("LIEAUDIT_TOKEN", "")).strip() or None,
            ca_file=path(ca_file, "LIEAUDIT_CA_FILE"),
            cert_file=path(cert_file, "LIEAUDIT_CERT_FILE"),
            key_file=path(key_file, "LIEAUDIT_KEY_FILE"),
            insecure=insecure if insecure is not None else said("LIEAUDIT_INSECURE", "") in {"1", "true", "yes"},
            tls_name=(tls_name if tls_name is not None else said("LIEAUDIT_TLS_NAME")) or None,
        )

    @property
    def _tls_given(self) -> bool:
        return bool(self.ca_file or self.cert_file or self.tls_name)

    @property
    def local(self) -> bool:
        """Whether the service is on this machine."""
        if self.target.startswith("unix:"):
            return True
        host = (
            self.target.removeprefix("dns:///")
            .removeprefix("ipv4:")
            .removeprefix("ipv6:")
            .rpartition(":")[0]
            .strip("[]")
        )
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return the TLS credentials, or None for plain text. Raises `InvalidInputError` on an unreadable file."""
        if self.insecure or (self.local and not self._tls_given):
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file, "ca_file"),
            private_key=_read(self.key_file, "key_file"),
            certificate_chain=_read(self.cert_file, "cert_file"),
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that goes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def arguments(self) -> list[tuple[str, int | str]]:
        """Return the channel's arguments."""
        found: list[tuple[str, int | str]] = [*_COMMON_ARGUMENTS]
        if self.local:
            found.append(("grpc.enable_http_proxy", 0))
        if self.target.startswith("unix:"):  # it has no way on which a connection could die unnoticed: no pings
            found.append(("grpc.default_authority", "localhost"))
        else:
            found += _NETWORK_ARGUMENTS
        if self.tls_name:
            found.append(("grpc.ssl_target_name_override", self.tls_name))
        return found


def _read(path: Path | None, name: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InvalidInputError(
            f"{name}: cannot read {path}: {problem.strerror}", reason="UNREADABLE_FILE", subject=str(path)
        ) from problem
