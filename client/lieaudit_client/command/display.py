"""Progress on standard error: bars on a terminal, plain lines in CI and files."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from lieaudit_client.command import streams
from lieaudit_client.printable import printable
from lieaudit_client.progress import Progress

_LABELS = {
    "upload": "upload",
    "waiting": "the service is busy, waiting",
    "queued": "waiting in the queue",
    "load": "loading the model",
    "calibrate": "choosing the step",
    "audit": "auditing",
    "layerwise": "attributing to layers",
    "crosscheck": "cross-checking",
    "statistics": "statistics",
}
_NAMED = {"upload", "waiting"}
_LINE_SECONDS = 5.0
_MOMENT = 2.0
"""Seconds that may pass in silence."""


class Display:
    """Shows the steps of audits; use as a context manager."""

    def __init__(self) -> None:
        interactive = sys.stderr.isatty() and not os.environ.get("CI")
        self._bars = _bars() if interactive else None
        self._stage = ("", "")
        self._task: TaskID | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextlib.contextmanager
    def working(self, label: str) -> Iterator[None]:
        """Say what goes on while it does: at once on a terminal, elsewhere where it takes longer than a moment."""
        if self._bars is not None:
            self._finish()
            self._task = self._bars.add_task(label, total=None, amount="")
            yield
            self._finish()
            return
        timer = threading.Timer(_MOMENT, streams.say, [label])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def show(self, step: Progress) -> None:
        """Show one step."""
        if step.stage == "reused":
            self._finish()
            streams.say(printable(f"measured before, {step.message} UTC, audit {step.audit_id}; --again measures anew"))
        stage = (step.stage, step.message if step.stage == "upload" else "")
        changed, self._stage = stage != self._stage, stage
        if step.stage not in _LABELS:
            return  # succeeded, failed, cancelled: the command says so
        label = _label(step)
        if self._bars is None:
            self._print_line(step, label, changed=changed)
            return
        if changed or self._task is None:
            self._finish()
            self._task = self._bars.add_task(label, total=step.total or None, amount="")
        self._bars.update(self._task, completed=step.done, total=step.total or None, amount=_amount(step))

    def _print_line(self, step: Progress, label: str, *, changed: bool) -> None:
        finished = step.total > 1 and step.done >= step.total
        now = time.monotonic()
        if changed and not finished:
            self._last = now
            if step.stage == "upload":
                return  # most files are sent before a line about it would be read
        elif not finished and now - self._last < _LINE_SECONDS:
            return
        self._last = now
        amount = _amount(step)
        streams.say(f"{label}: {amount}" if amount else label)

    def _finish(self) -> None:
        if self._bars is None or self._task is None:
            return
        total = self._bars.tasks[self._task].total
        self._bars.update(self._task, total=total or 1, completed=total or 1)
        self._bars.stop_task(self._task)


def _bars() -> Bars:
    return Bars(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _label(step: Progress) -> str:
    label = _LABELS[step.stage]
    return printable(f"{label} {step.message}") if step.stage in _NAMED and step.message else label


def _amount(step: Progress) -> str:
    if step.total <= 1:
        return ""
    if step.stage == "upload":
        unit, size = ("MiB", 2**20) if step.total >= 2**20 else ("KiB", 2**10)
        return f"{step.done / size:.1f}/{step.total / size:.1f} {unit}"
    rate = f", {step.rate:.3g}/s" if step.rate else ""
    return f"{step.done}/{step.total} images{rate}"
