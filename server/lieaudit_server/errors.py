"""What the service refuses, and settings it does not start with. Nothing of the numerics is imported here.

::

    ConfigError          a setting of the server
    └── DamagedFolderError   the data folder
    ServiceError         a refusal by the service itself, with its gRPC code
"""

from __future__ import annotations

import errno
import sqlite3

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a write that finds no space."""

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})


class ConfigError(Exception):
    """A setting of the server is invalid; the server does not start."""


class DamagedFolderError(ConfigError):
    """The data folder is damaged, or its state is not its own; `lieaudit-server doctor` puts it right."""


class ServiceError(Exception):
    """A refusal by the service.

    Parameters
    ----------
    code
        Name of the gRPC status code, e.g. ``NOT_FOUND``.
    message, reason, subject, hint
        As in `lieaudit.errors.LieauditError`.
    retry_seconds
        When to try again; None where trying again would not help.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str,
        subject: str = "",
        hint: str = "",
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.subject = subject
        self.hint = hint
        self.retry_seconds = retry_seconds


def not_found(kind: str, name: str) -> ServiceError:
    """Make the error for something that is not there, or that belongs to somebody else."""
    return ServiceError(
        "NOT_FOUND", f"no such {kind}: {name[:80]}", reason=f"{kind.upper().replace(' ', '_')}_NOT_FOUND", subject=name
    )


def invalid(subject: str, message: str, *, reason: str = "INVALID_REQUEST", hint: str = "") -> ServiceError:
    """Make the error for a field of a request."""
    return ServiceError("INVALID_ARGUMENT", message, reason=reason, subject=subject, hint=hint)


def disk_full() -> ServiceError:
    """Make the error for a full disk."""
    return ServiceError(
        "RESOURCE_EXHAUSTED",
        "the server's disk is full",
        reason="DISK_FULL",
        hint="delete models and data sets that are not needed, or ask the operator",
        retry_seconds=60.0,
    )


def scarce() -> ServiceError:
    """Make the error for a server that has no descriptor, process or memory left for a moment."""
    return ServiceError(
        "UNAVAILABLE",
        "the server has no descriptors, processes or memory left",
        reason="SERVER_BUSY",
        hint="try again after the delay",
        retry_seconds=5.0,
    )


def is_scarce(problem: BaseException) -> bool:
    """Whether an exception says that descriptors, processes or memory are used up; others may give some back."""
    return isinstance(problem, OSError) and problem.errno in _SCARCE


def is_disk_full(problem: BaseException) -> bool:
    """Whether an exception says that no space is left (disk, quota, or the largest file that may be written)."""
    if isinstance(problem, sqlite3.Error):
        return getattr(problem, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(problem, OSError) and problem.errno in NO_ROOM
