"""Watches the room on the data volume while workers run, and stops the one that takes it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lieaudit_server.config import Config
from lieaudit_server.scheduling.process import Worker
from lieaudit_server.store.audits import Failure
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)
_SECONDS = 0.1
_LARGE = 16 * 2**20


class Room:
    """Stops the worker with the largest folder where less than ``min_free_bytes`` is left.

    Limits on single files and archives come first; this is for what they cannot see: many files, holes, the sum of many
    workers.
    """

    def __init__(self, config: Config, folder: Folder) -> None:
        self._least = config.min_free_bytes
        self._folder = folder
        self._workers: dict[Path, Worker] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, scratch: Path, worker: Worker) -> Iterator[None]:
        """Watch a worker and its folder."""
        self._workers[scratch] = worker
        if self._task is None and self._least:
            self._task = asyncio.create_task(self._watch(), name="room")
        try:
            yield
        finally:
            del self._workers[scratch]

    def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            if self._workers and self._folder.free_bytes() < self._least:
                await self._stop_largest()

    async def _stop_largest(self) -> None:
        workers = dict(self._workers)
        sizes = {scratch: await asyncio.to_thread(_size, scratch) for scratch in workers}
        largest = max(sizes, key=lambda scratch: sizes[scratch])
        if sizes[largest] >= _LARGE and self._workers.get(largest) is workers[largest]:
            _log.warning("%s holds %d bytes and the disk is filling up; its worker is stopped", largest, sizes[largest])
            workers[largest].stop(Failure("DISK_FULL", "it filled the server's disk with temporary files"))


def _size(folder: Path) -> int:
    """Return the bytes on disk below a folder; links are not followed."""
    total, pending = 0, [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    total += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:
            continue  # the worker removed it meanwhile
    return total
