"""Dataclasses to plain lists, dicts and numbers, as JSON holds them, and back."""

from __future__ import annotations

import base64
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def to_plain(value: Any) -> Any:
    """Return the plain form; absent optional values are left out. Raises ValueError on NaN or infinity."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a report holds {value}")
    return value


def from_plain(kind: Any, value: Any) -> Any:  # noqa: PLR0911 - one return per kind of type
    """Return a value of a type from its plain form.

    Raises KeyError, TypeError or ValueError where it is not one.
    """
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        present: dict[str, Any] = {}
        for item in dataclasses.fields(kind):
            if item.name in value:
                present[item.name] = from_plain(hints[item.name], value[item.name])
            elif types.NoneType in typing.get_args(hints[item.name]):
                present[item.name] = None
        return kind(**present)
    if origin in {typing.Union, types.UnionType}:
        inner = [a for a in typing.get_args(kind) if a is not types.NoneType]
        return None if value is None else from_plain(inner[0], value)
    if origin is tuple:
        return tuple(from_plain(typing.get_args(kind)[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {str(key): from_plain(typing.get_args(kind)[1], item) for key, item in value.items()}
    if kind is bytes:
        return base64.b64decode(value)
    if kind is Any:
        return value
    if kind is float and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value
