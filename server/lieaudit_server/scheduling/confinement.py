"""What each worker is confined to, as far as this machine can: part of its job description, and rights on files."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lieaudit_server.config import Config
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)


class Confinement:
    """Adds to job descriptions what `worker.sandbox` needs.

    Attributes
    ----------
    user
        The user (and group) that workers take; None: the server's own.
    missing
        What a worker could not be confined by here, one line each.
    """

    def __init__(self, config: Config, folder: Folder) -> None:
        self._config = config
        self._folder = folder
        secret = (folder.root, config.tokens_file, config.tls_key, config.tls_cert, config.tls_client_ca)
        self._hidden = [os.path.realpath(path) for path in secret if path is not None]
        self.user = config.worker_user or None if os.geteuid() == 0 else None
        self.missing: list[str] = []
        self.established = asyncio.Event()

    def without_user(self, reason: str) -> None:
        """Go without a user of the workers' own."""
        self.user = None
        self.missing.append(f"own user: {reason}")

    def settle(self, missing: list[str]) -> None:
        """Take what a first worker could not do as what none can."""
        self.missing += missing
        self.established.set()
        for line in self.missing:
            _log.warning("the sandbox of workers lacks here: %s", line)

    async def confine(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return the description of a job with all that confines it. Raises `OSError` where rights cannot be given."""
        return await asyncio.to_thread(self._confine, job)

    def _confine(self, job: Mapping[str, Any]) -> dict[str, Any]:
        readable = [value["path"] for value in job.values() if isinstance(value, dict) and "path" in value]
        writable = [job["scratch"], *([job["shards"]] if "shards" in job else [])]
        if self.user is not None:
            for path in readable:
                self._let_through(Path(path))
                os.chown(path, -1, self.user)
                Path(path).chmod(0o440)
            for path in writable:
                self._let_through(Path(path))
                for owned in (Path(path), *Path(path).rglob("*")):
                    os.chown(owned, self.user, self.user, follow_symlinks=False)
        return {
            **job,
            "gpu": job.get("device") is not None,
            "readable": readable,
            "writable": writable,
            "hidden": self._hidden,
            "user": self.user,
            "file_bytes": max(self._config.max_unpacked_bytes, self._config.max_model_bytes),
            "require_sandbox": self._config.require_sandbox,
        }

    def _let_through(self, path: Path) -> None:
        """Let the workers' group pass, and no more, through the folders above a path."""
        for folder in path.parents:
            os.chown(folder, -1, self.user or -1)
            folder.chmod(0o710)
            if folder == self._folder.root:
                return
