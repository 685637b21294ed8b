"""Reads requests: after the caller is known, a bounded number at a time, not for ever, and large ones not too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from google.protobuf.message import DecodeError

from lieaudit_server.admission import Places
from lieaudit_server.errors import ServiceError, invalid

_SECONDS = 20.0
SMALL = 2**20 + 2**10
"""Bytes of a message that costs nobody anything; one chunk of an upload is as large."""
_BYTES_PER_SECOND = 8 * 2**20


async def one(
    raw: AsyncIterator[bytes], parse: Callable[[bytes], Any], places: Places, caller: str, stack: AsyncExitStack
) -> Any:
    """Read the only request of a call. A large one keeps its place in ``places`` until ``stack`` is left, and longer.

    Raises `ServiceError` where it does not come, comes too slowly or is no message.
    """
    await places.take(caller)
    price = 0.0
    started = time.monotonic()
    try:
        async with closing(raw) as messages:
            data = await _next(messages)
        if data is None:
            raise invalid("request", "the call has no request", reason="UNREADABLE")
        price = cost(data)
    finally:
        if price:
            stack.callback(lambda: places.give(caller, price - (time.monotonic() - started)))
        else:
            places.give(caller)
    return await asyncio.to_thread(parsed, parse, data) if price else parsed(parse, data)


async def every(raw: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncGenerator[Any, None]:
    """Read a stream of requests, none of which may be large or keep us waiting. Raises `ServiceError`."""
    async with closing(raw) as messages:
        while (data := await _next(messages)) is not None:
            size, small = len(data), not cost(data)
            request = parsed(parse, data) if small else None
            del data  # not to live on with the error
            if request is None:
                raise invalid("request", f"the request has {size} bytes, at most {SMALL} are taken")
            yield request


def closing(raw: AsyncIterator[bytes]) -> aclosing[Any]:
    """Iterate over gRPC's messages and close it after: it would keep the last message as long as the call is known."""
    return aclosing(aiter(raw))


def cost(data: bytes) -> float:
    """Return the seconds for which a place that read this message stays taken: the event loop copied it for all."""
    return 0.0 if len(data) <= SMALL else len(data) / _BYTES_PER_SECOND


def parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """Parse a message. Raises `ServiceError` where it is none."""
    try:
        return parse(data)
    except DecodeError as problem:
        raise invalid("request", "the request is not a message of lieaudit.v1", reason="UNREADABLE") from problem


async def _next(messages: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(_SECONDS):
            return await anext(messages, None)
    except TimeoutError as problem:
        raise ServiceError(
            "DEADLINE_EXCEEDED", f"the request did not come within {_SECONDS:g} seconds", reason="REQUEST_TOO_SLOW"
        ) from problem
