"""Keeping the data folder in order: at each start, once an hour, and by `lieaudit-server doctor`."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import time

from lieaudit_server.config import Config
from lieaudit_server.metrics import Metrics
from lieaudit_server.scheduling.scheduler import clean_audit
from lieaudit_server.store import audits, resources
from lieaudit_server.store.database import Database
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)
_INTERVAL = 3600.0


def tidy(db: sqlite3.Connection, folder: Folder) -> list[str]:
    """Remove what a killed server left half-way, and say what; runs before anything else uses the folder.

    Half-way are: scratch folders, partial files that nobody knows, uploads whose file is gone, blobs without an owner,
    and folders of audits that are not there or need them no more. `discard_orphans` comes after the commit.
    """
    done = []
    for path in folder.scratch.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    known = {row["file"] for row in db.execute("SELECT file FROM uploads")}
    for path in folder.partial.iterdir():
        if path.name not in known:
            path.unlink()
            done.append(f"partial file {path.name}: belongs to no upload")
    for file in known - {path.name for path in folder.partial.iterdir()}:
        resources.drop_upload(db, file)
        done.append(f"upload {file}: its file is gone")
    collected = resources.collect(db)
    if collected:
        done.append(f"{len(collected)} blobs that nobody owns")
    for path in folder.audits.iterdir():
        audit = audits.find(db, path.name, None)
        if audit is None:
            done.append(f"folder of audit {path.name}: no such audit")
        clean_audit(folder, path.name, audit)
    return done


def discard_orphans(db: sqlite3.Connection, folder: Folder) -> list[str]:
    """Delete the blob files that the committed state does not hold, and say which."""
    names = [path.name for path in folder.blobs.glob("*/*")]
    return [f"blob {name[:16]}…: not in the state" for name in resources.discard(db, folder, names)]


class Maintenance:
    """Retention, stale uploads and the storage metrics, once an hour."""

    def __init__(self, config: Config, folder: Folder, database: Database, metrics: Metrics) -> None:
        self._config = config
        self._folder = folder
        self._database = database
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tidy, then go on once an hour."""
        done = await self._database.run(lambda db: tidy(db, self._folder))
        done += await self._database.run(lambda db: discard_orphans(db, self._folder))
        for line in done:
            _log.info("tidied: %s", line)
        await self.run_once(time.time())
        self._task = asyncio.create_task(self._run(), name="maintenance")

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self, now: float) -> None:
        """Delete what retention says is old at time ``now``, and measure."""
        stale = await self._database.run(
            lambda db: self._drop_stale(db, now - 3600 * self._config.partial_retention_hours)
        )
        for file in stale:
            (self._folder.partial / file).unlink(missing_ok=True)
        if self._config.retention_days:
            old = await self._database.run(lambda db: self._retire(db, now - 86400 * self._config.retention_days))
            await self._database.run(lambda db: discard_orphans(db, self._folder))
            for audit_id in old:
                await asyncio.to_thread(shutil.rmtree, self._folder.audit(audit_id), ignore_errors=True)
        stored = await self._database.run(
            lambda db: db.execute("SELECT coalesce(sum(size), 0) FROM blobs").fetchone()[0]
        )
        self._metrics.stored.set(stored)
        self._metrics.free.set(self._folder.free_bytes())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self.run_once(time.time())
            except (sqlite3.Error, OSError):
                _log.exception("maintenance failed; trying again in an hour")

    def _drop_stale(self, db: sqlite3.Connection, before: float) -> list[str]:
        stale = [upload.file for upload in resources.stale_uploads(db, before)]
        for file in stale:
            resources.drop_upload(db, file)
        return stale

    def _retire(self, db: sqlite3.Connection, before: float) -> list[str]:
        old = audits.finished_before(db, before)
        for audit_id in old:
            audits.delete(db, audit_id)
        db.execute("DELETE FROM resources WHERE used < ? AND sha256 NOT IN (SELECT sha256 FROM audit_blobs)", (before,))
        resources.collect(db)
        return old
