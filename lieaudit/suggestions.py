"""What somebody who mistyped a name meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that a name is not one of those known, and which is meant if one is like it."""
    known = tuple(known)
    return f"{name!r} is not one of {', '.join(known)}{meant(name, known)}"


def meant(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" for the names that are like this one; empty where none is."""
    known = tuple(known)
    near = [entry for entry in known if name and entry.startswith(name)]
    near += [entry for entry in difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.65) if entry not in near]
    return f" (did you mean {' or '.join(near[:3])}?)" if near else ""
