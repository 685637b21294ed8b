"""The fields of a specification: generators that its writer made, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lieaudit.errors import SpecError
from lieaudit.feeds import MAX_BYTES, Feed
from lieaudit.symmetries.custom import check_custom

MAX_FIELDS = 32


def read_custom(values: Mapping[str, Any]) -> dict[str, Feed]:
    """Take every field of a specification: [[a, b, c], [d, e, f]], displacements (H, W, 2), or the JSON form of either.

    Raises
    ------
    SpecError
        One of them is no field (`lieaudit.symmetries.custom.check_custom`), or they are more or larger than a
        specification holds.
    """
    if not isinstance(values, Mapping):
        raise _invalid(f"{values!r:.60} is no mapping of a name to a field")
    if len(values) > MAX_FIELDS:
        raise _invalid(f"{len(values)} fields are given, {MAX_FIELDS} is the limit")
    found = {}
    for name, value in values.items():
        try:
            read = Feed.from_dict if isinstance(value, Mapping) else Feed.of
            field = value if isinstance(value, Feed) else read(value, name)
        except SpecError as problem:
            raise _invalid(f"generator {name!r}: {problem.message.partition(': ')[2]}") from problem
        check_custom(name, field.array())
        found[name] = field
    total = sum(len(field.data) for field in found.values())
    if total > MAX_BYTES:
        said = f"the fields take {total} bytes, {MAX_BYTES} is the limit"
        raise _invalid(said, "store displacements as float32 or float16")
    return found


def _invalid(problem: str, hint: str = "") -> SpecError:
    return SpecError(f"custom: {problem}", reason="INVALID_SPEC", subject="custom", hint=hint)
