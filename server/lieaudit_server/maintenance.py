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
from lieaudit_server.store import audits, expiry, garbage, meta, resources
from lieaudit_server.store.database import Database
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)
_INTERVAL = 3600.0


def tidy(db: sqlite3.Connection, folder: Folder) -> list[str]:
    """Finish what a killed server left half-way, and say what; runs before anything else uses the folder.

    Half-way are: scratch folders, uploads whose file is gone, blobs that the state says nobody owns, and folders of
    audits that have ended. Files that the state does not know stay where they are. `garbage.sweep` comes after the
    commit.
    """
    done = []
    for path in folder.scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    for row in db.execute("SELECT file FROM uploads").fetchall():
        if not (folder.partial / row["file"]).exists():
            resources.drop_upload(db, folder, row["file"])
            done.append(f"upload {row['file']}: its file is gone")
    collected = resources.collect(db, folder, at_once=False)
    if collected:
        done.append(f"{collected} blobs that nobody owns")
    for path in folder.audits.iterdir():
        audit = audits.find(db, path.name, None)
        if audit is not None:
            clean_audit(folder, audit.id, audit)
    return done


class Maintenance:
    """Retention, stale uploads, the quarantine and the storage metrics, once an hour."""

    def __init__(self, config: Config, folder: Folder, database: Database, metrics: Metrics) -> None:
        self._config = config
        self._folder = folder
        self._database = database
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._measured = time.monotonic()

    async def start(self) -> None:
        """Tidy, then go on once an hour."""
        for line in await self._database.run(lambda db: tidy(db, self._folder)):
            _log.info("tidied: %s", line)
        await self.run_once(time.time())
        self._task = asyncio.create_task(self._run(), name="maintenance")

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._database.run(lambda db: meta.add_uptime(db, self._elapsed()))

    async def run_once(self, now: float) -> None:
        """Delete what has been old for long enough at time ``now``, and measure."""
        seconds = self._elapsed()
        await self._database.run(lambda db: meta.add_uptime(db, seconds))
        await self._database.run(lambda db: self._expire(db, now))
        await self._database.run(lambda db: garbage.sweep(db, self._folder))
        grace = 3600 * self._config.quarantine_hours
        over = await self._database.run(lambda db: garbage.over(db, grace))
        await asyncio.to_thread(garbage.purge, self._folder, over)
        await self._database.run(lambda db: garbage.forget(db, over))
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

    def _elapsed(self) -> float:
        now = time.monotonic()
        seconds, self._measured = now - self._measured, now
        return seconds

    def _expire(self, db: sqlite3.Connection, now: float) -> None:
        days, grace = self._config.retention_days, 3600 * self._config.quarantine_hours
        ages = {"uploads": 3600 * self._config.partial_retention_hours}
        if days:
            ages |= {"audits": 86400 * days, "resources": 86400 * days}
        for table, age in ages.items():
            marked = expiry.mark(db, table, now - age)
            if marked:
                hours = self._config.quarantine_hours
                _log.warning("%d %s are old by the clock; they go after %g more hours of running", marked, table, hours)
            gone = expiry.retire(db, self._folder, table, grace)
            if gone:
                _log.info("%d %s are retired", gone, table)
        resources.collect(db, self._folder, at_once=False)
