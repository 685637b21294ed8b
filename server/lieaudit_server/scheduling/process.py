"""A worker process seen from the server: start, messages, log, kill, and what its end means."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lieaudit_server.scheduling import oom
from lieaudit_server.scheduling.forkserver import Child, ForkServer
from lieaudit_server.store.audits import Failure

OUT_OF_MEMORY = "WORKER_OUT_OF_MEMORY"
"""Reason of a worker that the kernel killed for want of memory."""
_TAIL_BYTES = 16 * 2**10
_OUT_OF_MEMORY = (b"bad_alloc", b"MemoryError", b"Failed to allocate memory", b"cannot allocate memory")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a worker ended: with a ``result``, with a ``failure``, or ``interrupted`` by somebody else's signal.

    ``kind`` is the class name of the error that the worker reported; ``log`` the end of what it printed.
    """

    result: Mapping[str, Any] | None = None
    failure: Failure | None = None
    kind: str = ""
    interrupted: bool = False
    log: str = ""


class Worker:
    """One job in one process.

    Parameters
    ----------
    job
        Job description for `lieaudit_server.worker.job`; scratch folder, limits and CPUs are in it.
    fork_server
        What starts the process.
    max_log_bytes
        Output after which the worker is stopped.
    on_progress
        Called with each progress message, in order.
    patience
        Seconds after which it gives way to all other workers; None: never.
    """

    def __init__(
        self,
        job: Mapping[str, Any],
        fork_server: ForkServer,
        *,
        max_log_bytes: int,
        on_progress: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None,
        patience: float | None = None,
    ) -> None:
        self._job = job
        self._fork_server = fork_server
        self._max_log_bytes = max_log_bytes
        self._on_progress = on_progress
        self._patience = patience
        self._child: Child | None = None
        self._tail = b""
        self._final: dict[str, Any] | None = None
        self._stopped: Failure | None = None
        self._oom_kills = 0

    async def run(self, deadline_seconds: float, already: float = 0.0) -> Outcome:
        """Run the job to its end; kill it at the deadline or when this coroutine is cancelled.

        ``already`` are the seconds that earlier starts of it have taken from the deadline.
        """
        self._oom_kills = oom.kills()
        self._child = await self._fork_server.spawn(self._job)
        if self._stopped is not None:
            self._kill()
        if self._patience is not None:
            asyncio.get_running_loop().call_later(self._patience, self._child.give_way)
        try:
            async with asyncio.timeout(max(deadline_seconds - already, 0.0)):
                await asyncio.gather(self._read_messages(), self._read_log(), self._child.wait())
        except TimeoutError:
            self.stop(
                Failure(
                    "DEADLINE_EXCEEDED",
                    f"not done after {deadline_seconds:g} seconds",
                    "deadline_seconds",
                    "audit fewer images or generators, or allow more time",
                )
            )
        finally:
            self._kill()
            try:
                status = await self._child.wait()
            finally:
                self._child.close()
        return self._outcome(status)

    def stop(self, failure: Failure) -> None:
        """Kill the worker, or do not let it begin, and give ``failure`` as the outcome."""
        if self._stopped is None:
            self._stopped = failure
        self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    async def _read_messages(self) -> None:
        assert self._child is not None  # noqa: S101 - called by run
        while True:
            try:
                line = await self._child.stdout.readline()
            except ValueError:
                self.stop(Failure("WORKER_PROTOCOL", "the worker sent an oversized message"))
                return
            if not line:
                return
            try:
                message = json.loads(line)
                kind = message["type"]
            except (ValueError, KeyError, TypeError):
                self.stop(Failure("WORKER_PROTOCOL", "the worker sent malformed data"))
                return
            if kind != "progress":
                self._final = message
            elif self._on_progress is not None:
                await self._on_progress(message)

    async def _read_log(self) -> None:
        assert self._child is not None  # noqa: S101 - called by run
        total = 0
        while chunk := await self._child.stderr.read(2**16):
            total += len(chunk)
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
            if total > self._max_log_bytes:
                self.stop(Failure("LOG_FLOOD", f"the worker printed more than {self._max_log_bytes} bytes"))
                return

    def _outcome(self, status: int) -> Outcome:
        log = self._tail.decode("utf-8", "replace")
        final = self._final or {}
        if self._stopped is not None:
            return Outcome(failure=self._stopped, log=log)
        match final.get("type"):
            case "result":
                return Outcome(result=final["value"], log=log)
            case "error":
                failure = Failure(*(str(final[name]) for name in ("reason", "message", "subject", "hint")))
                out_of_memory = any(text.decode() in failure.message for text in _OUT_OF_MEMORY)
                return Outcome(failure=self._memory() if out_of_memory else failure, kind=str(final["kind"]), log=log)
            case "disk":
                return Outcome(failure=Failure("DISK_FULL", "the server's disk is full"), log=log)
            case "memory":
                return Outcome(failure=self._memory(), log=log)
        return self._death(status, log)

    def _death(self, status: int, log: str) -> Outcome:
        if status == -signal.SIGKILL and oom.kills() > self._oom_kills:
            hint = "audit fewer images or a smaller model, or ask the operator for more memory"
            failure = Failure(OUT_OF_MEMORY, "the system had no memory left and killed the worker", "", hint)
            return Outcome(failure=failure, log=log)
        if status in {-signal.SIGKILL, -signal.SIGTERM}:
            name = signal.Signals(-status).name
            message = f"the worker was killed with {name} from outside"
            return Outcome(failure=Failure("WORKER_KILLED", message), interrupted=True, log=log)
        if any(text in self._tail for text in _OUT_OF_MEMORY):
            return Outcome(failure=self._memory(), log=log)
        end = f"crashed with {_signal_name(-status)}" if status < 0 else f"ended with status {status} and no result"
        return Outcome(failure=Failure("WORKER_CRASHED", f"the worker {end}"), log=log)

    def _memory(self) -> Failure:
        return Failure(
            "MEMORY_LIMIT",
            f"the worker needed more than {self._job['memory_mib']} MiB of memory",
            "memory_mib",
            "set budget_mib lower, or ask the operator for a higher limit",
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
