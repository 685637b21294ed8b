"""The gate's output formats by name: those of the client, and those that other distributions bring.

An entry point of the group ``lieaudit.formats`` names a function that takes an `Outcome` and returns the text::

    [project.entry-points."lieaudit.formats"]
    teamcity = "acme_lieaudit:teamcity"

Then ``--format teamcity=FILE`` writes it. A name of the client's own is never taken by another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from lieaudit_client.exceptions import InvalidInputError, OutputError
from lieaudit_client.formats import decision_json, junit, markdown, sarif
from lieaudit_client.formats import html as page
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.suggestions import unknown

GROUP = "lieaudit.formats"
Render = Callable[[Outcome], str]
FORMATS: Mapping[str, Render] = {
    "json": decision_json.render,
    "junit": junit.render,
    "sarif": sarif.render,
    "markdown": markdown.render,
    "html": lambda outcome: page.render(outcome.candidate, outcome.baseline, outcome.decision),
}


def known() -> dict[str, EntryPoint | None]:
    """Give every name with its entry point; None: the client's own."""
    return {entry.name: entry for entry in entry_points(group=GROUP)} | dict.fromkeys(FORMATS)


def find(name: str) -> Render:
    """Give the function of a format; that of another distribution is loaded now.

    Raises
    ------
    InvalidInputError
        ``UNKNOWN_FORMAT``: nobody brings it. ``FORMAT_NOT_LOADED``: its distribution cannot be imported.
    """
    names = known()
    if name not in names:
        raise InvalidInputError(f"format {unknown(name, names)}", reason="UNKNOWN_FORMAT", subject=name)
    entry = names[name]
    if entry is None:
        return FORMATS[name]
    try:
        function = entry.load()
    except Exception as problem:
        raise InvalidInputError(
            f"the format {name!r} ({entry.value}) cannot be loaded: {type(problem).__name__}: {problem}",
            reason="FORMAT_NOT_LOADED",
            subject=name,
            hint="install its distribution again, or leave the format out",
        ) from problem
    return _guarded(name, entry.value, function)


def _guarded(name: str, place: str, function: Render) -> Render:
    """Turn a fault of somebody else's function into an error of that format: the others are still written."""

    def render(outcome: Outcome) -> str:
        try:
            text: object = function(outcome)
        except Exception as problem:
            raise _failed(name, f"{place} raised {type(problem).__name__}: {problem}") from problem
        if not isinstance(text, str):
            raise _failed(name, f"{place} returned {type(text).__name__}, not text")
        return text

    return render


def _failed(name: str, problem: str) -> OutputError:
    return OutputError(
        f"the format {name!r} could not be made: {problem}",
        reason="FORMAT_FAILED",
        subject=name,
        hint="tell its author",
    )
