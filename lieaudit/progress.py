"""Progress of a running audit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of progress: ``done`` of ``total`` images (or segments) of a stage, ``rate`` of them per second."""

    stage: str
    done: int
    total: int
    rate: float


ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class StageProgress:
    """Counts one stage and reports it.

    A finished shard read back from an earlier run counts as done but not towards the rate.
    """

    callback: ProgressCallback | None
    stage: str
    total: int
    done: int = 0
    _measured: int = 0
    _start: float = field(default_factory=time.monotonic)

    def advance(self, count: int, *, measured: bool = True) -> None:
        """Report that ``count`` more are done."""
        self.done += count
        self._measured += count if measured else 0
        if self.callback is not None:
            elapsed = time.monotonic() - self._start
            rate = self._measured / elapsed if elapsed > 0 else 0.0
            self.callback(Progress(self.stage, self.done, self.total, rate))
