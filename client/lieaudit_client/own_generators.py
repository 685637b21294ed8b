"""Generators that other distributions bring: fields by name, which are sent with the specification.

An entry point of the group ``lieaudit.generators`` names a field, or a function that returns one::

    [project.entry-points."lieaudit.generators"]
    swirl = "acme_lieaudit:SWIRL"

A field is what ``--generator`` takes: ((a, b, c), (d, e, f)) for v = (a x + b y + c, d x + e y + f), or an array of the
displacements of the pixels (H, W, 2). It is loaded here, so no code of anybody's runs in the service.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from lieaudit_api.v1 import spec_pb2
from lieaudit_policy import GENERATORS

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.feeds import to_tensor

GROUP = "lieaudit.generators"


def known() -> dict[str, EntryPoint]:
    """Return what installed distributions bring, by name; the names of the table are never taken."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in GENERATORS}


def fields(names: Iterable[str], given: Iterable[str]) -> dict[str, spec_pb2.Tensor]:
    """Load the fields of those names that a distribution brings; what is ``given`` otherwise is left alone.

    Raises
    ------
    InvalidInputError
        ``GENERATOR_NOT_LOADED``: it cannot be imported, or is no field.
    """
    there, given = known(), set(given)
    return {name: _load(name, there[name]) for name in names if name in there and name not in given}


def _load(name: str, entry: EntryPoint) -> spec_pb2.Tensor:
    try:
        found = entry.load()
        return to_tensor(found() if callable(found) else found, name)
    except Exception as problem:
        raise InvalidInputError(
            f"the generator {name!r} ({entry.value}) cannot be loaded: {type(problem).__name__}: {problem}",
            reason="GENERATOR_NOT_LOADED",
            subject=name,
            hint="install its distribution again, or leave the generator out",
        ) from problem
