"""The command's two streams: any console can show them, and a stream that takes no more ends nothing unsaid.

A console's encoding may lack the signs of our tables (cp1252, ASCII): they are then written in letters. A stream may
be a full disk or a pipe whose reader has gone: that is an `OutputError`, and what Python still holds for it is
dropped, so that the interpreter does not fail a second time at its end.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from lieaudit_client.exceptions import OutputError

_IN_LETTERS = {
    "✓": "+", "✗": "x", "✕": "x", "⚑": "!", "≤": "<=", "≥": ">=", "≈": "~", "→": "->", "·": ".", "×": "x", "±": "+-",
    "−": "-", "–": "-", "—": "-", "…": "...", "‖": "|", "“": '"', "”": '"', "’": "'", "•": "*",
    "─": "-", "│": "|", "├": "+", "└": "+", "█": "#", "²": "^2", "√": "sqrt",
}  # fmt: skip


def _letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_IN_LETTERS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("lieaudit.letters", _letters)


def speak_any_encoding() -> None:
    """Let both streams write what their encoding lacks in letters instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lieaudit.letters")


@contextlib.contextmanager
def delivered() -> Iterator[None]:
    """Write through what is printed inside, and nothing else. Raises `OutputError` where standard output is full."""
    try:
        yield
        sys.stdout.flush()
    except OSError as problem:
        abandon(sys.stdout)
        raise output_error("standard output", problem) from problem


def out(text: str) -> None:
    """Write to standard output. Raises `OutputError` where it takes no more."""
    with delivered():
        sys.stdout.write(text)


def output_error(place: str, problem: OSError) -> OutputError:
    """Say that what was measured cannot be written to ``place``."""
    if isinstance(problem, BrokenPipeError):
        return OutputError(
            f"{place} was closed before everything was written", reason="OUTPUT_CLOSED", subject=place,
            hint="its reader ended early",
        )  # fmt: skip
    return OutputError(
        f"cannot write {place}: {problem.strerror or problem}", reason="OUTPUT_FAILED", subject=place,
        hint="make room there, or write elsewhere",
    )  # fmt: skip


def abandon(stream: TextIO) -> None:
    """Drop what a stream still holds: point its file at the null device, so that the last flush cannot fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError, io.UnsupportedOperation):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def say(message: str) -> None:
    """Write a line on standard error; where that is gone too, the exit code alone has to say it."""
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        abandon(sys.stderr)
