"""``python -m lieaudit_server.worker PARENT``: the fork server, which starts every worker.

It imports what all workers need, once, and forks a copy of itself for each job: that takes hundredths of a second,
where a new interpreter with onnxruntime takes most of a second of a core. It never reads a job or a client's file
itself, holds no secret (its environment is a clean one) and has one thread, so that a fork is a whole process.

Commands come on standard input, a socket that keeps messages apart: ``{"start": ID}`` with three descriptors, the new
worker's standard input, output and error; ``{"kill": ID}``; ``{"give_way": ID}``, to lower its priority; and
``{"ask": true}``, which it answers with ``{"alive": true}``. For each worker that has ended it answers
``{"ended": ID, "status": STATUS}``, the status negative for a signal. A worker that somebody stops (SIGSTOP) would hold
its place for ever, and is killed. The fork server ends, and all workers with it, when the server closes the socket or
dies.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque

from lieaudit_server.worker.sandbox import die_with

_COMMAND_BYTES = 4096
_MORE_NICENESS = 10


def preload() -> None:
    """Import what workers use. What cannot be imported is said by the worker that needs it."""
    try:
        import onnxruntime  # noqa: F401

        import lieaudit.api
        import lieaudit.data
        import lieaudit.gate
        import lieaudit.graph.read
        import lieaudit.inspection  # noqa: F401
        import lieaudit_server.conversions
        import lieaudit_server.worker.graph_limits
        import lieaudit_server.worker.job
        import lieaudit_server.worker.tasks  # noqa: F401
    except Exception:  # noqa: BLE001 - whatever it is, each worker meets it too and fails with it
        traceback.print_exc()
    gc.collect()
    gc.freeze()  # pages that hold these objects stay shared with the workers


class ForkServer:
    """Starts, kills and reaps workers."""

    def __init__(self, commands: socket.socket) -> None:
        self._commands = commands
        self._answers: deque[bytes] = deque()
        self._workers: dict[int, int] = {}  # process id -> id of the job
        self._wake, self._wakened = socket.socketpair()  # one byte for each signal
        self._wake.settimeout(0)
        self._wakened.settimeout(0)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakened.fileno(), warn_on_full_buffer=False)

    def serve(self) -> int:
        """Serve until the commands end."""
        while True:
            # Answers never block: a server that is busy sending would wait for us as we for it.
            ready, writable, _ = select.select(
                [self._commands, self._wake], [self._commands] if self._answers else [], []
            )
            if self._wake in ready:
                self._wake.recv(_COMMAND_BYTES)
                self._reap()
            if writable:
                with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                    self._commands.send(self._answers[0], socket.MSG_DONTWAIT)
                    self._answers.popleft()
            if self._commands in ready and not self._obey():
                return 0

    def _obey(self) -> bool:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._commands, _COMMAND_BYTES, 3)
        except ConnectionResetError:
            return False
        if not message:
            return False
        command = json.loads(message)
        if "start" in command:
            self._start(command["start"], descriptors)
        elif "ask" in command:
            self._answers.append(b'{"alive": true}')
        elif "give_way" in command:
            self._give_way(command["give_way"])
        else:
            self._kill(command["kill"])
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _start(self, job: int, descriptors: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no process or memory left
            traceback.print_exc()
            self._answers.append(json.dumps({"ended": job, "status": -signal.SIGKILL}).encode())
            return
        if pid == 0:
            status = 1
            try:
                status = self._become_worker(parent, descriptors)
            except BaseException:  # noqa: BLE001 - the worker ends here, and never goes on as a second fork server
                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.flush()
                os._exit(
                    status
                )  # teardown of native libraries has nothing left to do; a crash in it would hide the result
        self._workers[pid] = job

    def _become_worker(self, parent: int, descriptors: list[int]) -> int:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)  # the first takes the place of the commands
        for descriptor in (*descriptors, self._wake.fileno(), self._wakened.fileno(), self._commands.fileno()):
            if descriptor > 2:
                os.close(descriptor)
        from lieaudit_server.worker.job import run

        return run(parent)

    def _kill(self, job: int) -> None:
        for pid, running in self._workers.items():
            if running == job:
                self._kill_session(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # where it has no session of its own yet

    def _give_way(self, job: int) -> None:
        for pid, running in self._workers.items():
            if running == job:
                with contextlib.suppress(OSError):
                    nicer = os.getpriority(os.PRIO_PROCESS, pid) + _MORE_NICENESS
                    os.setpriority(os.PRIO_PGRP, pid, nicer)  # with all its threads

    def _kill_session(self, pid: int) -> None:
        # What the worker may have started goes with it. Before it is reaped, so that its number is still its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._workers:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            self._kill_session(ended.si_pid)
            if ended.si_code == os.CLD_STOPPED:
                os.waitid(os.P_PID, ended.si_pid, os.WSTOPPED | os.WNOHANG)
                continue
            _, status = os.waitpid(ended.si_pid, 0)
            job = self._workers.pop(ended.si_pid)
            answer = {"ended": job, "status": os.waitstatus_to_exitcode(status)}
            self._answers.append(json.dumps(answer).encode())


def main() -> int:
    """Serve the process whose id is the only argument."""
    die_with(int(sys.argv[1]))
    commands = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    preload()
    return ForkServer(commands).serve()


if __name__ == "__main__":
    sys.exit(main())
