"""Around calls that anybody may make, health and reflection: bounds for each address, always an answer on health."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from lieaudit_server import reading
from lieaudit_server.admission import Admission, address
from lieaudit_server.errors import ServiceError

_CHECK = "/grpc.health.v1.Health/Check"
_CHECK_SECONDS = 2.0


class Public:
    """Wraps the handler of one method; as in `interceptor`, the request is read by us."""

    def __init__(self, admission: Admission, method: str) -> None:
        self._admission = admission
        self._is_check = method == _CHECK

    def wrap(self, handler: Any) -> Any:
        """Return the wrapped handler."""
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:

            async def streaming(raw: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    peer = address(context.peer())
                    async with AsyncExitStack() as held:
                        await self._admission.public_turn(peer)
                        held.enter_context(self._admission.unknown(peer))
                        if handler.request_streaming:
                            await held.enter_async_context(self._admission.talks.hold(peer))
                            requests = await held.enter_async_context(aclosing(reading.every(raw, parse)))
                            responses = handler.stream_stream(requests, context)
                        else:
                            request = await self._request(raw, parse, peer, held)
                            responses = handler.unary_stream(request, context)
                        if inspect.isawaitable(responses):  # it writes to the context itself
                            await responses
                            return
                        async for response in responses:
                            yield response
                except ServiceError as problem:
                    await _abort(context, problem)

            return grpc.stream_stream_rpc_method_handler(streaming, None, serialize)

        async def single(raw: Any, context: Any) -> Any:
            try:
                async with AsyncExitStack() as held:
                    peer = address(context.peer())
                    await self._admission.public_turn(peer)
                    request = await self._request(raw, parse, peer, held)
                    return await handler.unary_unary(request, context)
            except ServiceError as problem:
                return await _abort(context, problem)

        return grpc.stream_unary_rpc_method_handler(single, None, serialize)

    async def _request(self, raw: Any, parse: Callable[[bytes], Any], peer: str, held: AsyncExitStack) -> Any:
        request: Awaitable[Any] = reading.one(raw, parse, self._admission.reading_unknown, peer, held)
        if not self._is_check:
            return await request
        try:
            return await asyncio.wait_for(request, _CHECK_SECONDS)
        except TimeoutError:  # others keep us from reading what is asked: the answer is about the whole server
            return health_pb2.HealthCheckRequest()


async def _abort(context: Any, problem: ServiceError) -> None:
    await context.abort(getattr(grpc.StatusCode, problem.code), problem.message)
