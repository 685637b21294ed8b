"""What the interpreter and the allocator are told at the start, and how late the event loop is.

A server has one event loop, and Python runs one thread at a time: what keeps the loop from its turn keeps every caller
waiting. `Lag` measures it.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from lieaudit_server.metrics import Metrics

_SWITCH_SECONDS = 0.0005
_THREADS = 32
_TICK_SECONDS = 0.05
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_MMAP_BYTES, _ARENAS = 2**20, 2


def tune() -> None:
    """Prepare this process to serve; the running event loop gets threads of its own for what blocks.

    A thread that computes gives the interpreter back after half a millisecond instead of five, for the loop asks for it
    many times in each call. Blocks of a MiB and more go back to the system when they are freed; glibc would keep some
    as large as the largest request, for each thread that handled one.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="blocking"))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


class Lag:
    """Measures, twenty times a second, how late the event loop wakes up who is due."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task = asyncio.create_task(self._measure(), name="lag")

    def stop(self) -> None:
        """Measure no more."""
        self._task.cancel()

    async def _measure(self) -> None:
        while True:
            due = time.monotonic() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self._metrics.loop_lag.observe(max(time.monotonic() - due, 0.0))
