"""Around every call of ours: a request id, the caller's identity, the log line, the metrics, and errors in one form."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_status import rpc_status

from lieaudit_server import identity, logs, reading
from lieaudit_server.admission import Admission, address
from lieaudit_server.errors import ServiceError
from lieaudit_server.identity import Authority, unauthenticated
from lieaudit_server.metrics import Metrics
from lieaudit_server.public import Public
from lieaudit_server.status import to_service_error, to_status
from lieaudit_server.tracing import Tracer

_log = logging.getLogger(__name__)
_CHECK_SECONDS = 1.0
_END = object()
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps each handler; see the module.

    Every wrapped handler takes a stream of requests, whatever the method's is: gRPC would else read the whole request
    before anybody could ask whose it is.
    """

    def __init__(
        self, authority: Authority, admission: Admission, metrics: Metrics, tracer: Tracer, hidden: Path
    ) -> None:
        self._authority = authority
        self._admission = admission
        self._metrics = metrics
        self._tracer = tracer
        self._hidden = (hidden,)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the wrapped handler."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        if identity.is_public(method):
            return Public(self._admission, method).wrap(handler)
        metadata = dict(handler_call_details.invocation_metadata or ())
        parse = handler.request_deserializer
        inner = _behaviour(handler)

        if handler.response_streaming:

            async def streaming(raw: Any, context: Any) -> AsyncIterator[Any]:
                async with _Call(self, method, metadata, context, stream=True) as call:
                    request = await self._request(handler, parse, raw, call)
                    async with aclosing(_checked(inner(request, context), call.check)) as responses:
                        async for response in responses:
                            yield response
                    call.code = "OK"

            return grpc.stream_stream_rpc_method_handler(streaming, None, handler.response_serializer)

        async def single(raw: Any, context: Any) -> Any:
            async with _Call(self, method, metadata, context, stream=handler.request_streaming) as call:
                response = await inner(await self._request(handler, parse, raw, call), context)
                call.code = "OK"
                return response

        return grpc.stream_unary_rpc_method_handler(single, None, handler.response_serializer)

    async def _request(self, handler: Any, parse: Callable[[bytes], Any], raw: Any, call: _Call) -> Any:
        await self._admission.turn(call.owner)
        if not handler.request_streaming:
            return await reading.one(raw, parse, self._admission.reading, call.owner, call.held)
        uploads, owner = self._admission.uploads, call.owner
        await uploads.take(owner)
        call.held.callback(lambda: uploads.give(owner, call.price))
        return await call.held.enter_async_context(aclosing(_all(raw, parse, call)))

    def begin(self, call: _Call) -> None:
        """Identify the caller."""
        given = str(call.metadata.get("x-request-id", ""))
        call.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        logs.request_id.set(call.request_id)
        caller = self._authority.authorize(call.method, call.metadata, call.context.auth_context())
        call.held.enter_context(self._admission.call(caller.owner, stream=call.stream))
        call.owner = caller.owner
        identity.current.set(caller)
        call.span = self._tracer.start(call.method, call.request_id, call.metadata)

    def check(self, call: _Call) -> None:
        """Identify the caller again: a token may have been revoked, or have expired. Raises `ServiceError`."""
        caller = self._authority.authorize(call.method, call.metadata, call.context.auth_context())
        if caller.owner != call.owner:
            raise unauthenticated("the token now belongs to somebody else")

    async def fail(self, call: _Call, problem: Exception) -> None:
        """End the call with google.rpc.Status."""
        error = to_service_error(problem)
        call.code = error.code
        if error.reason == "INTERNAL":
            _log.error("%s failed", call.method, exc_info=problem)
        elif not isinstance(problem, ServiceError):
            _log.info("%s refused", call.method, exc_info=problem)
        if not call.owner:  # it was not admitted
            await self._admission.refusal(address(call.context.peer()))
        status = to_status(error, call.request_id, self._hidden)
        # The exception lives on in gRPC for a while: not with the request and all that was made of it.
        traceback.clear_frames(problem.__traceback__)
        await call.context.abort_with_status(rpc_status.to_status(status))

    def end(self, call: _Call) -> None:
        """Log and count."""
        seconds = time.monotonic() - call.started
        name = call.method.rpartition("/")[2]
        self._metrics.rpcs.labels(name, call.code).inc()
        self._metrics.rpc_seconds.labels(name).observe(seconds)
        self._tracer.end(call.span, call.code)
        extra = {"method": call.method, "code": call.code, "seconds": round(seconds, 6), "owner": call.owner}
        _log.info("call", extra=extra)


def _behaviour(handler: Any) -> Callable[[Any, Any], Any]:
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary  # type: ignore[no-any-return]
    return handler.unary_stream if handler.response_streaming else handler.unary_unary  # type: ignore[no-any-return]


async def _all(raw: AsyncIterator[bytes], parse: Callable[[bytes], Any], call: _Call) -> AsyncGenerator[Any, None]:
    async with reading.closing(raw) as messages:
        async for data in messages:
            call.price += reading.cost(data)
            call.check()
            yield reading.parsed(parse, data)


async def _checked(responses: AsyncGenerator[Any, None], check: Callable[[], None]) -> AsyncGenerator[Any, None]:
    """Pass a stream of responses on, and ask every second whether the caller may still have it."""
    step: asyncio.Task[Any] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(responses, _END))
            while not step.done():
                await asyncio.wait({step}, timeout=_CHECK_SECONDS)
                check()
            response = step.result()
            if response is _END:
                return
            yield response
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await responses.aclose()


@dataclasses.dataclass(slots=True)
class _Call:
    interceptor: Interceptor
    method: str
    metadata: dict[str, Any]
    context: Any
    stream: bool
    request_id: str = ""
    owner: str = ""
    code: str = "CANCELLED"
    price: float = 0.0  # see `reading.cost`
    span: Any = None
    started: float = dataclasses.field(default_factory=time.monotonic)
    checked: float = dataclasses.field(default_factory=time.monotonic)
    held: AsyncExitStack = dataclasses.field(default_factory=AsyncExitStack)

    def check(self) -> None:
        """Ask, at most once a second, whether the caller of a long call may still make it. Raises `ServiceError`."""
        now = time.monotonic()
        if now - self.checked >= _CHECK_SECONDS:
            self.checked = now
            self.interceptor.check(self)

    async def __aenter__(self) -> Self:
        try:
            self.interceptor.begin(self)
        except Exception as problem:  # noqa: BLE001 - every failure becomes a status
            try:
                await self.interceptor.fail(self, problem)
            finally:
                self.interceptor.end(self)
                await self.held.aclose()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(problem, Exception) and not isinstance(problem, grpc.aio.AbortError | asyncio.CancelledError):
                await self.interceptor.fail(self, problem)
        finally:
            self.interceptor.end(self)
            await self.held.aclose()
