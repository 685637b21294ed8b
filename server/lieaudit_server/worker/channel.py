"""What a worker tells the server: one JSON object a line on what was its standard output."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from lieaudit.errors import LieauditError

_PROGRESS_SECONDS = 0.25


class Channel:
    """The line to the server. Whatever prints to standard output afterwards goes to the log with standard error."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._last = 0.0
        self._stage = ""

    def send(self, type_: str, **values: Any) -> None:
        """Send one message."""
        line = (json.dumps({"type": type_, **values}) + "\n").encode()
        while line:
            line = line[os.write(self._descriptor, line) :]

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        """Send progress, at most four times a second, but always the start and the end of a stage."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._last < _PROGRESS_SECONDS:
            return
        self._last, self._stage = now, stage
        self.send("progress", stage=stage, done=done, total=total, rate=rate)

    def error(self, problem: LieauditError) -> None:
        """Send a failure that has a reason for the client."""
        self.send(
            "error",
            kind=type(problem).__name__,
            reason=problem.reason,
            message=problem.message,
            subject=problem.subject,
            hint=problem.hint,
        )
