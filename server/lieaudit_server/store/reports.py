"""Reports on disk: written with their checksum and their sidecar, and read back with both eyes open."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from lieaudit_server.errors import ServiceError
from lieaudit_server.store import sidecars
from lieaudit_server.store.audits import Audit, Kept
from lieaudit_server.store.folder import Folder

CHUNK = 512 * 2**10


class WorkerLiedError(Exception):
    """What a worker left as its report is not what it announced."""


def keep(folder: Folder, audit: Audit, written: Path, sha256: str, max_bytes: int) -> Kept:
    """Copy the report that a worker wrote into the audit's folder, durably, with its sidecar; give what it is.

    The worker is not trusted: a link, a special file, too many bytes or other bytes than it announced are refused with
    `WorkerLiedError`.
    """
    try:
        descriptor = os.open(written, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise WorkerLiedError(f"the report cannot be read: {problem.strerror}") from problem
    aside = folder.scratch / f"report-{secrets.token_hex(8)}"
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > max_bytes:
            raise WorkerLiedError("the report is no plain file of allowed size")
        kept = _copy(file, aside, max_bytes)
    if kept.sha256 != sha256:
        aside.unlink()
        raise WorkerLiedError("the report is not the one announced")
    folder.audit(audit.id).mkdir(mode=0o700, exist_ok=True)
    aside.replace(folder.report(audit.id))
    describe(folder, replace(audit, finished=time.time()), kept)  # syncs the names in the folder too
    return kept


def _copy(file: IO[bytes], target: Path, max_bytes: int) -> Kept:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as copy:
        while size <= max_bytes and (data := file.read(CHUNK)):
            digest.update(data)
            size += copy.write(data)
        copy.flush()
        os.fsync(copy.fileno())
    return Kept(digest.hexdigest(), size)


def describe(folder: Folder, audit: Audit, kept: Kept) -> None:
    """Write the sidecar of a report: the audit as it will be in the state."""
    values = {
        name: value
        for name, value in asdict(audit).items()
        if name not in {"number", "state", "failure", "sequence", "report", "memory_kills"}
    }
    sidecars.write(folder, sidecars.report_sidecar(folder, audit.id), {**values, **asdict(kept)})


def digest(path: Path) -> tuple[str, int]:
    """Return the checksum and the size of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


def chunks(folder: Folder, audit: Audit) -> Iterator[bytes]:
    """Return a report in pieces; before the first, the whole of it has been compared with its checksum.

    Raises `ServiceError` DATA_LOSS where the file is gone or has changed.
    """
    expected = None if audit.report is None else audit.report.sha256
    try:
        with folder.report(audit.id).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise _lost(audit, "the stored report is damaged: its checksum has changed", "REPORT_DAMAGED")
            file.seek(0)
            again = hashlib.sha256()
            while data := file.read(CHUNK):
                again.update(data)
                yield data
            if again.hexdigest() != expected:
                raise _lost(audit, "the stored report changed while it was read", "REPORT_DAMAGED")
    except OSError as problem:
        raise _lost(audit, "the report is no longer there", "REPORT_LOST") from problem


def _lost(audit: Audit, message: str, reason: str) -> ServiceError:
    return ServiceError("DATA_LOSS", message, reason=reason, subject=audit.id, hint="audit again")
