"""Reads requests: after the caller is known, a bounded number at a time, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from google.protobuf.message import DecodeError

from lieaudit_server.admission import Places
from lieaudit_server.errors import ServiceError, invalid

_SECONDS = 20.0
_SMALL = 2**20
"""Messages up to this size are parsed in the event loop and give their place back before the call goes on."""


async def one(
    raw: AsyncIterator[bytes], parse: Callable[[bytes], Any], places: Places, caller: str, stack: AsyncExitStack
) -> Any:
    """Read the only request of a call. A large one keeps its place in ``places`` until ``stack`` is left.

    Raises `ServiceError` where it does not come, comes too slowly or is no message.
    """
    async with AsyncExitStack() as reading:
        await reading.enter_async_context(places.hold(caller))
        try:
            async with asyncio.timeout(_SECONDS):
                messages = aiter(raw)
                data = await anext(messages, None)
                await messages.aclose()  # type: ignore[attr-defined]  # else it keeps the message as long as the call
        except TimeoutError as problem:
            raise ServiceError(
                "DEADLINE_EXCEEDED", f"the request did not come within {_SECONDS:g} seconds", reason="REQUEST_TOO_SLOW"
            ) from problem
        if data is None:
            raise invalid("request", "the call has no request", reason="UNREADABLE")
        if len(data) <= _SMALL:
            return parsed(parse, data)
        await stack.enter_async_context(reading.pop_all())
    return await asyncio.to_thread(parsed, parse, data)


def parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """Parse a message. Raises `ServiceError` where it is none."""
    try:
        return parse(data)
    except DecodeError as problem:
        raise invalid("request", "the request is not a message of lieaudit.v1", reason="UNREADABLE") from problem
