"""TLS from files that may be replaced while the server runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc

from lieaudit_server.config import Config
from lieaudit_server.errors import ConfigError

_log = logging.getLogger(__name__)


def credentials(config: Config) -> Any:
    """Make server credentials that take up new certificates by themselves; None where TLS is not set up.

    Raises `ConfigError` where a file cannot be read.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    files = [config.tls_cert, config.tls_key]
    if config.tls_client_ca is not None:
        files.append(config.tls_client_ca)
    try:
        loaded = _load(files)
        stamps = _stamps(files)
    except OSError as problem:
        raise ConfigError(f"tls: {problem.filename} cannot be read: {problem.strerror}") from problem

    def renew() -> Any:
        nonlocal stamps
        try:
            now = _stamps(files)
            if now == stamps:
                return None
            renewed = _load(files)
            stamps = now
        except OSError:
            _log.exception("the TLS files cannot be read; the ones read before stay in use")
            return None
        _log.info("TLS certificates read again")
        return renewed

    return grpc.dynamic_ssl_server_credentials(
        loaded, renew, require_client_authentication=config.tls_client_ca is not None
    )


def _load(files: list[Path]) -> Any:
    cert, key, *authority = (file.read_bytes() for file in files)
    return grpc.ssl_server_certificate_configuration([(key, cert)], authority[0] if authority else None)


def _stamps(files: list[Path]) -> list[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in files)]
