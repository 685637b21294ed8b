"""Text from models and other machines, made safe for terminals and logs.

Names of tensors and models are whatever a file says; a terminal would obey escape sequences in them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def printable(text: str) -> str:
    """Replace everything a terminal could obey; newlines stay."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def printable_copy(message: M) -> M:
    """Return a copy of a message with all its texts, also the keys of its maps, made printable."""
    copy = type(message)()
    copy.CopyFrom(message)
    _clean(copy)
    return copy


def _clean(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _clean_map(value)
        elif field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                _clean(item)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if isinstance(value, str):
                setattr(message, field.name, printable(value))
            else:
                value[:] = [printable(item) for item in value]


def _clean_map(entries: Any) -> None:
    for key in list(entries):
        item = entries[key]
        safe = printable(key) if isinstance(key, str) else key
        if isinstance(item, Message):
            _clean(item)
            if safe != key:
                entries[safe].CopyFrom(item)
        elif isinstance(item, str):
            entries[safe] = printable(item)
        else:
            entries[safe] = item
        if safe != key:
            del entries[key]
