"""The data folder: where what lies, and the lock that keeps a second server out."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Self

from lieaudit_server.errors import ConfigError


class Folder:
    """Paths inside the data folder.

    ::

        lock           held by the running server
        identity       the folder's id, which the state holds too
        state.sqlite   what is known (plus -wal and -shm)
        blobs/ab/…     models and data sets by sha256; beside each a sidecar for each owner
        partial/…      uploads under way
        audits/ID/     shards/ while it runs, then report.pb and its sidecar report.json
        scratch/…      working folders of checks and workers; emptied at each start
        quarantine/…   what nobody needs any more, kept for a while before it is deleted
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.state = self.root / "state.sqlite"
        self.blobs = self.root / "blobs"
        self.partial = self.root / "partial"
        self.audits = self.root / "audits"
        self.scratch = self.root / "scratch"
        self.quarantine = self.root / "quarantine"
        self.identity = self.root / "identity"
        self._lock: IO[str] | None = None

    def open(self) -> Self:
        """Create what is missing and take the lock.

        Raises `ConfigError` where another server runs on the folder or it cannot be written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.blobs, self.partial, self.audits, self.scratch, self.quarantine):
                path.mkdir(mode=0o700, exist_ok=True)
            lock = (self.root / "lock").open("a+", encoding="utf-8")
        except OSError as problem:
            raise ConfigError(f"data_dir: {self.root} cannot be used: {problem.strerror}") from problem
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigError(f"data_dir: another server (process {holder}) uses {self.root}") from problem
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        return self

    def close(self) -> None:
        """Return the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def blob(self, sha256: str) -> Path:
        """Return the path of a blob."""
        return self.blobs / sha256[:2] / sha256

    def audit(self, audit_id: str) -> Path:
        """Return the folder of an audit."""
        return self.audits / audit_id

    def report(self, audit_id: str) -> Path:
        """Return the path of a finished audit's report, a serialized ``lieaudit.v1.Report``."""
        return self.audits / audit_id / "report.pb"

    def relative(self, path: Path) -> str:
        """Return a path in the folder as the state writes it."""
        return path.relative_to(self.root).as_posix()

    def free_bytes(self) -> int:
        """Return the bytes that may still be written."""
        return shutil.disk_usage(self.root).free


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable (a rename or link is lost in a power cut without it)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, aside: Path) -> None:
    """Write a file aside (on the same volume), sync it and rename it into place: it is there whole or not at all."""
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_directory(path.parent)
