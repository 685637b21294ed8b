"""Checks of uploads and inspections of models, each in a short-lived process: hostile files cannot hurt the server."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import lieaudit.errors
from lieaudit.errors import LieauditError
from lieaudit_server import identity
from lieaudit_server.admission import Places
from lieaudit_server.config import Config
from lieaudit_server.errors import ServiceError, disk_full
from lieaudit_server.scheduling import jobs
from lieaudit_server.scheduling.confinement import Confinement
from lieaudit_server.scheduling.forkserver import ForkServer
from lieaudit_server.scheduling.process import Outcome, Worker
from lieaudit_server.scheduling.room import Room
from lieaudit_server.store.audits import Failure
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 5.0
_PATIENCE_SECONDS = 2.0  # checks of most files take a tenth of one


class Probes:
    """Runs checks, a few at a time."""

    def __init__(
        self, config: Config, folder: Folder, fork_server: ForkServer, confinement: Confinement, room: Room
    ) -> None:
        self._config = config
        self._folder = folder
        self._fork_server = fork_server
        self._confinement = confinement
        self._room = room
        # Nobody's checks take all places: two files that take for ever would keep everybody from uploading.
        self._places = Places(max(1, config.probes), max(1, config.probes - 1))

    async def run(
        self, task: str, parts: Mapping[str, Any], files: Mapping[str, bytes] | None = None
    ) -> Mapping[str, Any]:
        """Run one task, with ``files`` in its scratch folder, and give its result.

        Raises `LieauditError` with the worker's reason, or `ServiceError` where the worker did not survive the file.
        """
        await self._confinement.established.wait()
        async with self._places.hold(identity.current.get().owner):
            outcome = await self._attempt(task, parts, files or {})
            if outcome.interrupted:  # somebody else's signal says nothing about the file
                outcome = await self._attempt(task, parts, files or {})
        if outcome.result is None:
            raise _error(task, outcome)
        return outcome.result

    async def establish(self) -> tuple[str, ...]:
        """Run a first worker, which says how it could be confined; give onnxruntime's execution providers.

        Raises `ServiceError` where not even that can be run.
        """
        outcome = await self._first()
        if outcome.result is None and self._confinement.user is not None:
            self._confinement.without_user(f"user {self._confinement.user} cannot run what is installed here")
            outcome = await self._first()
        if outcome.result is None:
            self._confinement.settle(["everything: a first worker could not be run; the log says why"])
            raise _error("providers", outcome)
        self._confinement.settle([str(line) for line in outcome.result["missing"]])
        return tuple(outcome.result["providers"])

    async def _first(self) -> Outcome:
        try:
            return await self._attempt("providers", {}, {})
        except OSError as problem:
            return Outcome(failure=Failure("INTERNAL", str(problem)))

    async def _attempt(self, task: str, parts: Mapping[str, Any], files: Mapping[str, bytes]) -> Outcome:
        scratch = self._folder.scratch / f"probe-{secrets.token_hex(8)}"
        scratch.mkdir(mode=0o700)
        try:
            for name, data in files.items():
                await asyncio.to_thread((scratch / name).write_bytes, data)
            job = await self._confinement.confine({**jobs.check(self._config, task), **parts, "scratch": str(scratch)})
            worker = Worker(
                job, self._fork_server, max_log_bytes=self._config.max_log_bytes, patience=_PATIENCE_SECONDS
            )
            with self._room.watching(scratch, worker):
                return await worker.run(self._config.probe_seconds)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def _error(task: str, outcome: Outcome) -> Exception:
    failure = outcome.failure
    assert failure is not None  # noqa: S101 - an outcome without a result has one
    _log.warning("%s failed: %s", task, failure.reason, extra={"worker_log": outcome.log})
    kind = getattr(lieaudit.errors, outcome.kind, None)
    if isinstance(kind, type) and issubclass(kind, LieauditError):
        return kind(failure.message, reason=failure.reason, subject=failure.subject, hint=failure.hint)
    if outcome.interrupted:
        return ServiceError(
            "UNAVAILABLE",
            f"the file could not be checked: {failure.message}",
            reason=failure.reason,
            hint="try again; what was uploaded is kept",
            retry_seconds=_RETRY_SECONDS,
        )
    if failure.reason == "BLOB_DAMAGED":
        return ServiceError(
            "DATA_LOSS", failure.message, reason=failure.reason, subject=failure.subject, hint=failure.hint
        )
    if failure.reason == "DISK_FULL":
        return disk_full()
    return ServiceError(
        "INVALID_ARGUMENT",
        f"the file could not be checked: {failure.message}",
        reason=failure.reason,
        subject=failure.subject,
        hint=failure.hint,
    )
