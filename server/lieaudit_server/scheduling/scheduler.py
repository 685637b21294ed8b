"""The queue: accepts audits, runs them in their processes, and says how each one ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lieaudit_server.config import Config
from lieaudit_server.errors import ServiceError, is_disk_full, is_scarce
from lieaudit_server.identity import LOCAL
from lieaudit_server.metrics import Metrics
from lieaudit_server.scheduling import jobs, oom
from lieaudit_server.scheduling.confinement import Confinement
from lieaudit_server.scheduling.fairness import order, within_share
from lieaudit_server.scheduling.forkserver import ForkServer
from lieaudit_server.scheduling.journal import Journal
from lieaudit_server.scheduling.process import OUT_OF_MEMORY, Outcome, Worker
from lieaudit_server.scheduling.room import Room
from lieaudit_server.scheduling.slots import Slot, Slots
from lieaudit_server.status import scrubbed
from lieaudit_server.store import audits, damage, reports, resources
from lieaudit_server.store.audits import Audit, Failure, Kept
from lieaudit_server.store.database import Database
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 5.0
_COUNT_SECONDS = 5.0
_SCARCE_SECONDS = 1.0
T = TypeVar("T")


@dataclass(slots=True)
class _Running:
    owner: str
    threads: int
    gpus: int
    task: asyncio.Task[None] | None = None
    worker: Worker | None = None
    stopped: Failure | None = None

    def stop(self, failure: Failure) -> None:
        self.stopped = failure
        if self.worker is not None:
            self.worker.stop(failure)


class Scheduler:
    """Runs queued audits on free slots, fairly between owners."""

    def __init__(
        self,
        config: Config,
        folder: Folder,
        database: Database,
        journal: Journal,
        metrics: Metrics,
        fork_server: ForkServer,
        confinement: Confinement,
        room: Room,
    ) -> None:
        self._config = config
        self._folder = folder
        self._database = database
        self._journal = journal
        self._metrics = metrics
        self._fork_server = fork_server
        self._confinement = confinement
        self._room = room
        cpus = sorted(os.sched_getaffinity(0))[: config.total_threads]
        self.slots = Slots(cpus, config.gpus)
        self._running: dict[str, _Running] = {}
        self._last_start: dict[str, int] = {}
        self._starts = 0
        self._wake = asyncio.Event()
        self._draining = False
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Put back into the queue what a killed server left running, and begin."""
        rose = functools.partial(oom.rose, now=oom.mark())
        count = await self._database.run(lambda db: audits.requeue_all(db, "resumed after the server restarted", rose))
        if count:
            _log.info("%d interrupted audits resume", count)
        self._loop = asyncio.create_task(self._run(), name="scheduler")
        self._wake.set()

    async def submit(self, audit: Audit) -> Audit:
        """Accept an audit durably, or give the one that its idempotency key already made.

        Raises `ServiceError` RESOURCE_EXHAUSTED with a retry delay where the queue is full.
        """

        def accept(db: sqlite3.Connection) -> Audit:
            if audit.idempotency_key is not None:
                known = audits.find_by_key(db, audit.owner, audit.idempotency_key)
                if known is not None:
                    return _same(known, audit)
            self._check_room(db, audit.owner)
            resources.touch(db, tuple(blob["sha256"] for blob in audit.blobs.values()))
            return audits.insert(db, audit)

        if self._draining:
            raise ServiceError(
                "UNAVAILABLE", "the server is shutting down", reason="DRAINING", retry_seconds=_RETRY_SECONDS
            )
        try:
            return await self._database.run(accept)
        finally:
            self._wake.set()  # also where the caller was cancelled: the audit may have been accepted all the same

    def _check_room(self, db: sqlite3.Connection, owner: str) -> None:
        for counted, limit in ((None, self._config.max_queued), (owner, self._config.max_queued_per_owner)):
            if audits.counts(db, counted).get("queued", 0) >= limit:
                whose = "the queue" if counted is None else "your queue"
                raise ServiceError(
                    "RESOURCE_EXHAUSTED",
                    f"{whose} is full: {limit} audits wait",
                    reason="QUEUE_FULL",
                    hint="try again after the delay",
                    retry_seconds=_RETRY_SECONDS,
                )

    async def cancel(self, audit_id: str) -> None:
        """Cancel an audit durably, then kill its worker; an audit that has ended stays as it is."""
        cancelled = await self._database.run(lambda db: audits.finish(db, audit_id, "cancelled"))
        if cancelled is None:
            return
        self._ended(cancelled)
        running = self._running.get(audit_id)
        if running is not None:
            running.stop(Failure("CANCELLED", "cancelled"))
        else:
            await self._clean(audit_id)

    def drain(self) -> None:
        """Accept and start nothing more; what runs goes on."""
        self._draining = True
        self._wake.set()

    async def wait_idle(self) -> None:
        """Wait until no audit runs."""
        while tasks := [running.task for running in self._running.values() if running.task is not None]:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Drain and kill the workers; their audits go back into the queue and resume at the next start."""
        self.drain()
        self._stopping = True
        for running in self._running.values():
            running.stop(Failure("SHUTDOWN", "interrupted: the server is shutting down"))
        await self.wait_idle()
        if self._loop is not None:
            await self._loop

    @property
    def running(self) -> int:
        """Number of running audits."""
        return len(self._running)

    async def _run(self) -> None:
        await self._confinement.established.wait()
        while not self._draining:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._start_waiting()
            except sqlite3.Error:  # a full disk: audits wait until there is room again
                _log.exception("the queue could not be read; trying again")
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake.set)

    async def _start_waiting(self) -> None:
        waiting = await self._database.run(audits.queued)
        self._metrics.queued.set(len(waiting))
        busy = Counter(running.owner for running in self._running.values())
        blocked = False
        for audit in order(waiting, busy, self._last_start):
            if self._draining:
                return
            if audit.id in self._running or (blocked and audit.device is None) or not self._has_share(audit):
                continue
            slot = self.slots.take(audit.threads, audit.device)
            if slot is None:
                # The first that does not fit keeps later, smaller ones from passing it for ever.
                blocked = blocked or audit.device is None
                continue
            self._starts += 1
            self._last_start[audit.owner] = self._starts
            on_gpu = slot.device is not None
            running = _Running(audit.owner, threads=0 if on_gpu else len(slot.cpus), gpus=int(on_gpu))
            self._running[audit.id] = running
            running.task = asyncio.create_task(self._execute(audit.id, slot, running), name=f"audit-{audit.id}")
            self._metrics.running.set(len(self._running))

    def _has_share(self, audit: Audit) -> bool:
        """Whether an owner's share has room for an audit: audits run to their end, so nobody's may take everything."""
        if audit.owner == LOCAL.owner:
            return True
        mine = [running for running in self._running.values() if running.owner == audit.owner]
        held = sum(running.threads for running in mine), sum(running.gpus for running in mine)
        total = self._config.total_threads, len(self.slots.gpus)
        return within_share(audit, held, total, self._config.owner_share)

    async def _execute(self, audit_id: str, slot: Slot, running: _Running) -> None:
        try:
            mark = oom.mark()
            audit = await self._insist(lambda db: audits.start(db, audit_id, mark))
            if audit is not None:
                self._journal.notify(audit_id)
                await self._attempt(audit, slot, running)
        except Exception as problem:  # noqa: BLE001 - one audit's failure is not the service's
            _log.exception("audit failed inside the service", extra={"audit_id": audit_id})
            if is_scarce(problem):
                await self._put_back(audit_id)
            else:
                await self._give_up(audit_id, full=is_disk_full(problem))
        finally:
            await self._clean(audit_id)
            self.slots.give_back(slot)
            del self._running[audit_id]
            self._metrics.running.set(len(self._running))
            self._wake.set()

    async def _put_back(self, audit_id: str) -> None:
        """Let an audit wait again that could not be started or settled for want of descriptors: no try of its own."""
        await asyncio.sleep(_SCARCE_SECONDS)
        message = "the server had no descriptors, processes or memory left"
        await self._insist(lambda db: audits.requeue(db, audit_id, message, counts=False))
        self._journal.notify(audit_id)

    async def _give_up(self, audit_id: str, *, full: bool) -> None:
        failure = Failure("INTERNAL", "the service failed; its log has the cause")
        if full:
            failure = Failure("DISK_FULL", "the server's disk is full")
        try:
            await self._finish(audit_id, "failed", failure)
        except sqlite3.Error:  # not even that could be written: the next start finds it running and resumes it
            _log.exception("the end of an audit could not be written", extra={"audit_id": audit_id})

    async def _insist(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out an operation on the state, again and again while the disk is full; not beyond the shutdown."""
        while True:
            try:
                return await self._database.run(operation)
            except sqlite3.Error:
                if self._stopping:
                    raise
                _log.exception("the state could not be written; trying again")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _attempt(self, audit: Audit, slot: Slot, running: _Running) -> None:
        if audit.attempts > self._config.max_attempts:
            failure = Failure(
                "INTERRUPTED_TOO_OFTEN",
                f"interrupted {self._config.max_attempts} times: its worker or the server was killed each time",
            )
            await self._finish(audit.id, "failed", failure)
            return
        if audit.memory_kills >= self._config.max_memory_attempts:
            message = f"the system had no memory left {audit.memory_kills} times while it ran"
            await self._finish(audit.id, "failed", Failure(OUT_OF_MEMORY, message))
            return
        scratch = self._folder.scratch / audit.id
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        (self._folder.audit(audit.id) / "shards").mkdir(mode=0o700, parents=True, exist_ok=True)

        async def progress(message: Mapping[str, Any]) -> None:
            values = (str(message["stage"]), int(message["done"]), int(message["total"]), float(message["rate"]))
            try:
                await self._database.run(lambda db: audits.progress(db, audit.id, *values))
            except sqlite3.Error:  # a full disk: the watchers see less; how the audit ends is up to its worker
                _log.exception("progress could not be written", extra={"audit_id": audit.id})
            self._journal.notify(audit.id)

        job = await self._confinement.confine(jobs.audit(self._config, self._folder, audit, slot.cpus))
        running.worker = Worker(job, self._fork_server, max_log_bytes=self._config.max_log_bytes, on_progress=progress)
        if running.stopped is not None:
            running.worker.stop(running.stopped)
        started = time.monotonic()
        counting = asyncio.create_task(self._count(audit, started), name=f"time-{audit.id}")
        try:
            with self._room.watching(scratch, running.worker):
                outcome = await running.worker.run(audit.deadline, already=audit.spent)
        finally:
            counting.cancel()
        seconds = time.monotonic() - started
        await self._insist(lambda db: audits.spend(db, audit.id, audit.spent + seconds))
        self._metrics.audit_seconds.observe(seconds)
        await self._settle(audit, outcome)

    async def _count(self, audit: Audit, started: float) -> None:
        """Write down every few seconds for how long the audit has run, so that its deadline outlives the server."""
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            seconds = audit.spent + time.monotonic() - started
            with contextlib.suppress(sqlite3.Error):  # a full disk: the next time
                await self._database.run(functools.partial(audits.spend, audit_id=audit.id, seconds=seconds))

    async def _settle(self, audit: Audit, outcome: Outcome) -> None:
        if outcome.result is not None:
            outcome = await self._keep_report(audit, outcome.result, outcome)
            if outcome.failure is None:
                return
        failure = outcome.failure
        assert failure is not None  # noqa: S101 - an outcome without a result has one
        if failure.reason == "CANCELLED":
            return
        again = outcome.interrupted and audit.attempts < self._config.max_attempts
        if failure.reason == OUT_OF_MEMORY:
            killed = await self._insist(lambda db: audits.count_memory_kill(db, audit.id))
            again = killed < self._config.max_memory_attempts and audit.attempts < self._config.max_attempts
        if again or failure.reason == "SHUTDOWN":
            await self._insist(lambda db: audits.requeue(db, audit.id, failure.message))
            self._journal.notify(audit.id)
            return
        extra = {"audit_id": audit.id, "reason": failure.reason, "worker_log": outcome.log}
        _log.warning("worker failed: %s", failure.message, extra=extra)
        self._metrics.worker_failures.labels(failure.reason).inc()
        if failure.reason == "BLOB_DAMAGED":
            for sha256 in {blob["sha256"] for blob in audit.blobs.values()}:
                await damage.verify(self._database, self._folder, sha256)
        hidden = (self._folder.root,)
        clean = Failure(
            failure.reason,
            scrubbed(failure.message, hidden)[:1000],
            scrubbed(failure.subject, hidden)[:200],
            scrubbed(failure.hint, hidden)[:500],
        )
        await self._finish(audit.id, "failed", clean)

    async def _keep_report(self, audit: Audit, result: Mapping[str, Any], outcome: Outcome) -> Outcome:
        """Take the report that the worker wrote and end the audit; where it cannot be taken, say why."""
        written, sha256 = self._folder.scratch / audit.id / "report.pb", str(result.get("report_sha256"))
        try:
            kept = await asyncio.to_thread(
                reports.keep, self._folder, audit, written, sha256, self._config.max_report_bytes
            )
        except reports.WorkerLiedError as problem:
            return Outcome(failure=Failure("WORKER_PROTOCOL", str(problem)), log=outcome.log)
        rate = result.get("rows_per_second")
        if isinstance(rate, int | float):
            self._metrics.rows_per_second.observe(rate)
        await self._finish(audit.id, "succeeded", None, kept)
        return outcome

    async def _finish(self, audit_id: str, state: str, failure: Failure | None, report: Kept | None = None) -> None:
        ended = await self._insist(lambda db: audits.finish(db, audit_id, state, failure, report))
        if ended is not None:
            self._ended(ended)

    def _ended(self, audit: Audit) -> None:
        self._metrics.audits.labels(audit.state).inc()
        self._journal.notify(audit.id)
        _log.info("audit %s", audit.state, extra={"audit_id": audit.id, "owner": audit.owner})

    async def _clean(self, audit_id: str) -> None:
        try:
            audit = await self._database.run(lambda db: audits.find(db, audit_id, None))
        except sqlite3.Error:
            return  # the next start cleans up
        await asyncio.to_thread(clean_audit, self._folder, audit_id, audit)


def clean_audit(folder: Folder, audit_id: str, audit: Audit | None) -> None:
    """Delete what an audit no longer needs: its scratch folder; its shards once it has ended; all without a report."""
    shutil.rmtree(folder.scratch / audit_id, ignore_errors=True)
    if audit is None or (audit.is_finished and audit.state != "succeeded"):
        shutil.rmtree(folder.audit(audit_id), ignore_errors=True)
    elif audit.is_finished:
        shutil.rmtree(folder.audit(audit_id) / "shards", ignore_errors=True)


def _same(known: Audit, asked: Audit) -> Audit:
    if known.request_sha256 != asked.request_sha256:
        raise ServiceError(
            "ALREADY_EXISTS",
            "this idempotency key was used for another request",
            reason="IDEMPOTENCY_KEY_REUSED",
            subject="idempotency_key",
            hint="make a new key for a new request",
        )
    return known
