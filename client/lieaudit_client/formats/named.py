"""The gate's output formats by name: those of the client, and those that other distributions bring.

An entry point of the group ``lieaudit.formats`` names a function that takes an `Outcome` and returns the text::

    [project.entry-points."lieaudit.formats"]
    teamcity = "acme_lieaudit:teamcity"

Then ``--format teamcity=FILE`` writes it. A name of the client's own is never taken by another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.formats import brought, decision_json, junit, markdown, sarif
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


def find(name: str) -> Render:
    """Return the function of a format; that of another distribution is loaded now.

    Raises
    ------
    InvalidInputError
        ``UNKNOWN_FORMAT``: nobody brings it. ``FORMAT_NOT_LOADED``: its distribution cannot be imported.
    """
    if name in FORMATS:
        return FORMATS[name]
    others = brought.names(GROUP)
    if name not in others:
        raise InvalidInputError(f"format {unknown(name, (*FORMATS, *others))}", reason="UNKNOWN_FORMAT", subject=name)
    return brought.function(GROUP, name)
