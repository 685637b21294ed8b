"""Who calls, and what they may do."""

from __future__ import annotations

import contextvars
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lieaudit_server.errors import ConfigError, ServiceError

_log = logging.getLogger(__name__)

SCOPES = ("read", "audit", "admin")
"""Each includes the ones before it. ``read``: look at one's own; ``audit``: upload, audit, delete one's own;
``admin``: all of it for everybody's."""

_NEEDS_AUDIT = frozenset(
    {
        "UploadModel",
        "UploadDataset",
        "AbortUpload",
        "DeleteModel",
        "DeleteDataset",
        "InspectModel",
        "CreateAudit",
        "CancelAudit",
        "DeleteAudit",
    }
)
_PUBLIC_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")
_BYTES = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller: ``owner`` is whose models and audits they make and see."""

    owner: str
    scope: str

    @property
    def visible(self) -> str | None:
        """Whose things the caller may see; None: everybody's."""
        return None if self.scope == "admin" else self.owner


LOCAL = Identity("local", "admin")
"""The caller where no tokens and no client certificates are set up."""

current: contextvars.ContextVar[Identity] = contextvars.ContextVar("identity", default=LOCAL)
"""The caller of the call being served."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token as the file keeps it: only the SHA-256 of its 256 random bits, which gives none of them away."""

    id: str
    owner: str
    scope: str
    sha256: str
    expires: float | None = None


def new_token(owner: str, scope: str, expires: float | None) -> tuple[str, Token]:
    """Make a token: the secret to hand out, and what to keep. Raises `ConfigError` on an unknown scope."""
    if scope not in SCOPES:
        raise ConfigError(f"scope: {scope!r} is not one of {', '.join(SCOPES)}")
    if not owner or owner == LOCAL.owner:
        raise ConfigError(f"owner: {owner!r} cannot own a token")
    secret = f"lieaudit_{secrets.token_urlsafe(_BYTES)}"
    return secret, Token(secrets.token_hex(4), owner, scope, _digest(secret), expires)


def read_tokens(path: Path) -> list[Token]:
    """Read a token file. Raises `ConfigError` where it is not one, or others may read or write it."""
    try:
        if path.stat().st_mode & 0o022:
            raise ConfigError(f"tokens_file: {path} may be written by others; chmod 600 it")
        values = json.loads(path.read_text(encoding="utf-8"))
        tokens = [Token(**value) for value in values["tokens"]]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"tokens_file: {path} is not a token file: {problem}") from problem
    for token in tokens:
        if token.scope not in SCOPES or len(token.sha256) != 64:
            raise ConfigError(f"tokens_file: token {token.id} is malformed")
    return tokens


def write_tokens(path: Path, tokens: list[Token]) -> None:
    """Write a token file that only its owner can read; a running server takes it up."""
    aside = path.with_name(path.name + ".part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"tokens": [asdict(token) for token in tokens]}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def is_public(method: str) -> bool:
    """Whether anybody may call ``/package.Service/Method``: health checks and reflection, which tell nothing."""
    return method.startswith(_PUBLIC_PREFIXES)


class Authority:
    """Finds out who calls: by bearer token, by client certificate, or the local user where neither is set up."""

    def __init__(self, tokens_file: Path | None, *, client_certificates: bool) -> None:
        self._path = tokens_file
        self._certificates = client_certificates
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: list[Token] = []
        if tokens_file is not None:
            self._tokens = read_tokens(tokens_file)
            self._stamp = _stamp(tokens_file)

    def identify(self, metadata: Mapping[str, Any], auth_context: Mapping[str, Any]) -> Identity:
        """Return the caller of these request headers and TLS properties. Raises `ServiceError` UNAUTHENTICATED."""
        if self._path is not None:
            return self._by_token(str(metadata.get("authorization", "")))
        if self._certificates:
            names = auth_context.get("x509_common_name") or ()
            name = names[0].decode("utf-8", "replace") if names else ""
            if not name:
                raise unauthenticated("the client certificate has no common name")
            return Identity(name, "audit")
        return LOCAL

    def authorize(self, method: str, metadata: Mapping[str, Any], auth_context: Mapping[str, Any]) -> Identity:
        """Identify the caller of ``/package.Service/Method`` and check the scope. Raises `ServiceError`."""
        identity = self.identify(metadata, auth_context)
        name = method.rpartition("/")[2]
        if name in _NEEDS_AUDIT and SCOPES.index(identity.scope) < SCOPES.index("audit"):
            raise ServiceError(
                "PERMISSION_DENIED",
                f"{name} needs a token of scope audit; this one has scope {identity.scope}",
                reason="SCOPE_MISSING",
                subject="authorization",
                hint="ask the operator for a token of scope audit",
            )
        return identity

    def _by_token(self, header: str) -> Identity:
        self._reload()
        kind, _, secret = header.partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise unauthenticated("a bearer token is needed")
        digest = _digest(secret.strip())
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                if token.expires is not None and token.expires <= time.time():
                    raise unauthenticated("the token has expired", "TOKEN_EXPIRED")
                return Identity(token.owner, token.scope)
        raise unauthenticated("the token is not known to this server")

    def _reload(self) -> None:
        assert self._path is not None  # noqa: S101 - called with a file
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._tokens = read_tokens(self._path)
                self._stamp = stamp
                _log.info("tokens read again: %d", len(self._tokens))
        except (OSError, ConfigError):
            _log.exception("the token file cannot be read; the tokens read before stay valid")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def unauthenticated(message: str, reason: str = "UNAUTHENTICATED") -> ServiceError:
    """Make the error for a caller who is not known."""
    return ServiceError(
        "UNAUTHENTICATED",
        message,
        reason=reason,
        subject="authorization",
        hint="send the header 'authorization: Bearer TOKEN'; the operator makes tokens",
    )
