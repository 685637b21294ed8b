"""The fork server seen from the server: it is started when it is needed, and starts workers from then on."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_log = logging.getLogger(__name__)

_PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
_PASSED_PREFIXES = ("CUDA_", "NVIDIA_")
_ANSWER_BYTES = 4096
_LINE_BYTES = 16 * 2**20
_ASK_SECONDS = 5.0
_START_SECONDS, _HUNG_SECONDS = 120.0, 20.0  # its imports come first; after them it always answers at once


class Child:
    """One worker process: what it writes, and its end.

    Attributes
    ----------
    stdout
        Its messages.
    stderr
        Its log.
    """

    def __init__(self, number: int, running: _Running) -> None:
        self.stdout = asyncio.StreamReader(limit=_LINE_BYTES)
        self.stderr = asyncio.StreamReader(limit=_LINE_BYTES)
        self._number = number
        self._running = running
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pipes: list[asyncio.BaseTransport] = []

    async def start(self, job: Mapping[str, Any]) -> None:
        """Have the fork server start it on a job. Raises `OSError` where no descriptor can be had."""
        theirs: list[int] = []
        try:
            theirs.append(_description(job))
            for reader in (self.stdout, self.stderr):
                reading, writing = os.pipe()
                theirs.append(writing)
                self._pipes.append(await _connect(os.fdopen(reading, "rb", buffering=0), reader))
            self._running.start(self._number, self._end, theirs)
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    async def wait(self) -> int:
        """Wait for its end; give the exit status, negative for a signal."""
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        """Kill it and what it started. A worker that has ended stays as it is."""
        if not self._end.done():
            self._running.kill(self._number)

    def give_way(self) -> None:
        """Have the kernel run it only where nothing else wants to run. A worker that has ended stays as it is."""
        if not self._end.done():
            self._running.give_way(self._number)

    def close(self) -> None:
        """Read no more of what it wrote."""
        for pipe in self._pipes:
            pipe.close()


class ForkServer:
    """Starts workers; see `lieaudit_server.worker.__main__`.

    Parameters
    ----------
    home
        Home folder and place of temporary files of the fork server, which writes none.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._numbers = itertools.count(1)
        self._running: _Running | None = None
        self._starting = asyncio.Lock()

    async def spawn(self, job: Mapping[str, Any]) -> Child:
        """Start a worker on a job.

        Raises `OSError` where no process or descriptor can be had.
        """
        async with self._starting:
            if self._running is None or self._running.over:
                self._running = await _Running.launch(environment(self._home))
            running = self._running
        child = Child(next(self._numbers), running)
        await child.start(job)
        return child

    async def stop(self) -> None:
        """End the fork server and all workers with it."""
        if self._running is not None:
            await self._running.stop()


class _Running:
    """One life of the fork server process."""

    def __init__(self, process: asyncio.subprocess.Process, commands: socket.socket) -> None:
        self._process = process
        self._commands = commands
        self._ends: dict[int, asyncio.Future[int]] = {}
        self.over = False
        asyncio.get_running_loop().add_reader(commands, self._read)
        self._answered: asyncio.Future[None] | None = None
        self._log_task = asyncio.create_task(self._read_log(), name="fork server's log")
        self._life_task = asyncio.create_task(self._ask_for_life(), name="fork server's life")

    @classmethod
    async def launch(cls, clean: dict[str, str]) -> _Running:
        # Messages stay apart, so that each comes with its own descriptors.
        commands, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # the folder the server was started in is no place for code that workers import
                    "-m",
                    "lieaudit_server.worker",
                    str(os.getpid()),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env=clean,
                    start_new_session=True,
                )
        except BaseException:
            commands.close()
            raise
        return cls(process, commands)

    def start(self, number: int, end: asyncio.Future[int], descriptors: list[int]) -> None:
        self._ends[number] = end
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self._send({"start": number}, rights)

    def kill(self, number: int) -> None:
        self._send({"kill": number}, [])

    def give_way(self, number: int) -> None:
        self._send({"give_way": number}, [])

    def _send(self, command: Mapping[str, Any], ancillary: list[tuple[int, int, array.array[int]]]) -> None:
        try:
            self._commands.sendmsg([json.dumps(command).encode()], ancillary, socket.MSG_DONTWAIT)
        except OSError:  # it died or reads no more: whoever waits for a worker hears of it
            self._died()

    async def _ask_for_life(self) -> None:
        """Ask every few seconds, and kill a fork server that hangs: its workers go back into the queue."""
        patience = _START_SECONDS
        while not self.over:
            self._answered = asyncio.get_running_loop().create_future()
            self._send({"ask": True}, [])
            answered, _ = await asyncio.wait({self._answered}, timeout=patience)
            if not answered and not self.over:
                _log.error("the fork server has not answered for %g seconds; it is killed", patience)
                self._died()
            patience = _HUNG_SECONDS
            await asyncio.sleep(_ASK_SECONDS)

    def _read(self) -> None:
        while not self.over:
            try:
                answer = self._commands.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer:
                self._died()
                return
            message = json.loads(answer)
            if "ended" in message:
                self._ended(message["ended"], message["status"])
            elif self._answered is not None and not self._answered.done():
                self._answered.set_result(None)

    def _ended(self, number: int, status: int) -> None:
        end = self._ends.pop(number)
        if not end.done():
            end.set_result(status)

    def _died(self) -> None:
        if not self.over:
            self.over = True
            asyncio.get_running_loop().remove_reader(self._commands)
            self._commands.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        for number in tuple(self._ends):  # its workers die with it
            self._ended(number, -signal.SIGKILL)

    async def _read_log(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - made with PIPE
        while chunk := await self._process.stderr.read(2**16):
            _log.warning("fork server: %s", chunk.decode("utf-8", "replace").rstrip())

    async def stop(self) -> None:
        self._died()
        await self._process.wait()
        self._life_task.cancel()
        await asyncio.gather(self._log_task, self._life_task, return_exceptions=True)


def environment(home: Path) -> dict[str, str]:
    """Make the workers' environment: what they need to start, nothing that the server was given in confidence."""
    passed = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {
        **passed,
        "HOME": str(home),
        "TMPDIR": str(home),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's; a fork copies one thread only
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic sums on a GPU
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime would send usage data
    }


def _description(job: Mapping[str, Any]) -> int:
    """Return a descriptor of an unnamed file in memory that holds the job description."""
    descriptor = os.memfd_create("job")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(json.dumps(job).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


async def _connect(pipe: IO[bytes], reader: asyncio.StreamReader) -> asyncio.BaseTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return transport
