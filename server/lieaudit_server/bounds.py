"""Bounds on the repeated and map fields, the strings and the numbers of a request, before anything converts it."""

from __future__ import annotations

import math

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lieaudit_server.errors import invalid

ENTRIES = 1000
"""Most entries of a list or map that `MORE_ENTRIES` does not name."""
MORE_ENTRIES = {"classes": 50_000, "layouts": 5_000}
"""By name of the field: as many classes or tensors as models have."""
CHARACTERS = 2000
"""Most characters of a string."""
BYTES = 4 * 2**20
"""Largest request that is checked here."""


def check(message: Message, path: str = "") -> None:
    """Check a request before it is used.

    Raises `ServiceError` INVALID_ARGUMENT where a list, map or string of a message is longer than any real one, or a
    number is NaN or infinite.
    """
    if not path and message.ByteSize() > BYTES:
        raise invalid("request", f"the request has {message.ByteSize()} bytes, at most {BYTES} are taken")
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        if isinstance(value, str | bytes | int | float | Message):
            _check_value(field, value, name)
            continue
        most = MORE_ENTRIES.get(field.name, ENTRIES)
        if len(value) > most:
            raise invalid(name, f"{name} has {len(value)} entries, at most {most} are taken", reason="TOO_MANY_ENTRIES")
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            keys, values = field.message_type.fields
            for key in value:
                _check_value(keys, key, name)
                _check_value(values, value[key], name)
        else:
            for item in value:
                _check_value(field, item, name)


def _check_value(field: FieldDescriptor, value: object, name: str) -> None:
    if isinstance(value, str) and len(value) > CHARACTERS:
        raise invalid(name, f"{name} has a text of {len(value)} characters, at most {CHARACTERS} are taken")
    if isinstance(value, float) and not math.isfinite(value):
        reason = "INVALID_SPEC" if name.startswith("spec.") else "INVALID_REQUEST"
        raise invalid(name, f"{name}: {value} is not a finite number", reason=reason)
    if isinstance(value, Message) and field.message_type is not None:
        check(value, f"{name}.")
