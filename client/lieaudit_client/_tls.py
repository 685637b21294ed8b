"""Whether an address speaks TLS: gRPC only says of a TLS port that its socket was closed."""

from __future__ import annotations

import socket
import ssl

_SECONDS = 2.0


def speaks_tls(target: str) -> bool:
    """Return whether a TCP address begins a TLS handshake; nothing is sent beyond it, and no certificate is checked."""
    if target.startswith("unix:"):
        return False
    for prefix in ("dns:///", "ipv4:", "ipv6:"):
        target = target.removeprefix(prefix)
    host, _, port = target.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who it is does not matter: it is given no request
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=None),
        ):
            return True
    except ssl.SSLError as problem:
        return "ALERT" in (problem.reason or "")  # it wants another version, or a certificate: in TLS
    except (OSError, ValueError, OverflowError):
        return False
