"""Tables and running text on the command's streams."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, RenderableType

from lieaudit_client.command import streams

_FILE_WIDTH = 200
"""Without a terminal nothing says how wide lines may be; a table row must not wrap."""


def show(view: Iterable[RenderableType], *, to_stderr: bool) -> None:
    """Print a view on standard output, or on standard error where standard output is taken by JSON.

    Raises `OutputError` where standard output takes no more.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    held = _Held(stream)  # on a closed pipe rich itself would end the process, with code 1
    console = Console(file=held, width=None if stream.isatty() else _FILE_WIDTH, highlight=False)
    for part in view:
        console.print(part)
    text = "\n".join(line.rstrip() for line in held.getvalue().splitlines())
    if to_stderr:
        streams.say(text)
    else:
        streams.out(text + "\n")


class _Held(io.StringIO):
    """Holds what is printed, and looks to rich like the stream it is meant for."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's: rich draws lines by letters where it is not UTF-8."""
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()
