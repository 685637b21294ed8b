"""Formats that other distributions bring, by entry points: functions that return the text of a file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lieaudit_client.exceptions import InvalidInputError, OutputError


def names(group: str) -> tuple[str, ...]:
    """Return the names of a group's entry points."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def function(group: str, name: str) -> Callable[[Any], str]:
    """Load a format; a fault of its function becomes an `OutputError` of that format, so that others are still written.

    Raises
    ------
    InvalidInputError
        ``FORMAT_NOT_LOADED``: its distribution cannot be imported, or it is no function.
    """
    (entry, *_) = entry_points(group=group, name=name)
    try:
        found = entry.load()
    except Exception as problem:
        raise _not_loaded(entry, f"{type(problem).__name__}: {problem}") from problem
    if not callable(found):
        raise _not_loaded(entry, "it is no function")

    def render(value: Any) -> str:
        try:
            text: object = found(value)
        except Exception as problem:
            raise _failed(entry, f"raised {type(problem).__name__}: {problem}") from problem
        if not isinstance(text, str):
            raise _failed(entry, f"returned {type(text).__name__}, not text")
        return text

    return render


def _not_loaded(entry: EntryPoint, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"the format {entry.name!r} ({entry.value}) cannot be loaded: {problem}",
        reason="FORMAT_NOT_LOADED",
        subject=entry.name,
        hint="install its distribution again, or leave the format out",
    )


def _failed(entry: EntryPoint, problem: str) -> OutputError:
    return OutputError(
        f"the format {entry.name!r} could not be made: {entry.value} {problem}",
        reason="FORMAT_FAILED",
        subject=entry.name,
        hint="tell its author",
    )
