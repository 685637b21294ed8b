"""The asyncio client."""
# ruff: noqa: ASYNC109 - a time limit per call is part of the interface; it covers retries and reaches the service

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from lieaudit_api.v1 import audit_pb2, dataset_pb2, gate_pb2, model_pb2, report_pb2

from lieaudit_client import _requests as requests
from lieaudit_client._channel import SERVICES, Stubs
from lieaudit_client._connection import Connection
from lieaudit_client._operations import Operations
from lieaudit_client._requests import Unary
from lieaudit_client._sending import News, Sending
from lieaudit_client._status import translate
from lieaudit_client._steps import Call, Emit, Next, Open, Operation, Own, Retry, Run, Send, Sleep
from lieaudit_client.exceptions import ClientError
from lieaudit_client.progress import ProgressCallback
from lieaudit_client.specification import Specification

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing a performed operation gives: its result."""

    value: Any


def _teller(news: asyncio.Queue[News]) -> Callable[[News], None]:
    """Return what puts into a queue of the running event loop from another thread."""
    loop = asyncio.get_running_loop()

    def tell(item: News) -> None:
        with suppress(RuntimeError):  # the loop has ended, nobody waits any more
            loop.call_soon_threadsafe(news.put_nowait, item)

    return tell


class AsyncClient:
    """`Client` for asyncio: the same parameters, methods and errors; the methods are awaited.

    Examples
    --------
    >>> async with AsyncClient("localhost:50151") as client:  # doctest: +SKIP
    ...     report = await client.audit("model.onnx", "images.npz")
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: str | None = None,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        insecure: bool | None = None,
        tls_name: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
        check_version: bool = True,
    ) -> None:
        connection = Connection.create(
            target,
            token=token,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            insecure=insecure,
            tls_name=tls_name,
        )
        self.target = connection.target
        credentials, arguments = connection.credentials(), connection.arguments()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(self.target, arguments)
            self._upload_channel = grpc.insecure_channel(self.target, arguments)  # connects when it is used
        else:
            self._channel = grpc.aio.secure_channel(self.target, credentials, arguments)
            self._upload_channel = grpc.secure_channel(self.target, credentials, arguments)
        self._metadata = connection.metadata()
        self._stubs: Stubs = {name: stub(self._channel) for name, stub in SERVICES.items()}
        self._uploads: Stubs = {name: stub(self._upload_channel) for name, stub in SERVICES.items()}
        self._operations = Operations(
            self.target, retry or Retry(), timeout, check_version=check_version, plain=credentials is None
        )

    async def close(self) -> None:
        """Close the connection; running audits go on."""
        self._upload_channel.close()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Service

    async def server_info(self, *, timeout: float | None = None) -> audit_pb2.ServerInfo:
        """See `Client.server_info`."""
        return await self._result(self._operations.server_info(timeout))

    async def healthy(self, service: str = "", *, timeout: float = 5.0) -> bool:
        """See `Client.healthy`."""
        return await self._result(self._operations.healthy(service, timeout))

    # Models and datasets

    async def upload_model(
        self, model: str | Path | bytes, *, progress: ProgressCallback | None = None
    ) -> model_pb2.Model:
        """See `Client.upload_model`."""
        return await self._result(self._operations.upload_model(model), progress)

    async def upload_dataset(
        self, data: str | Path, *, progress: ProgressCallback | None = None
    ) -> dataset_pb2.Dataset:
        """See `Client.upload_dataset`."""
        return await self._result(self._operations.upload_dataset(data), progress)

    def models(self) -> AsyncIterator[model_pb2.Model]:
        """See `Client.models`."""
        return self._items(self._operations.pages(requests.list_models()))

    def datasets(self) -> AsyncIterator[dataset_pb2.Dataset]:
        """See `Client.datasets`."""
        return self._items(self._operations.pages(requests.list_datasets()))

    async def get_model(self, sha256: str, *, timeout: float | None = None) -> model_pb2.Model:
        """See `Client.get_model`."""
        return await self._simple(requests.get_model(sha256), timeout)

    async def get_dataset(self, sha256: str, *, timeout: float | None = None) -> dataset_pb2.Dataset:
        """See `Client.get_dataset`."""
        return await self._simple(requests.get_dataset(sha256), timeout)

    async def delete_model(self, sha256: str, *, timeout: float | None = None) -> None:
        """See `Client.delete_model`."""
        await self._result(self._operations.delete(requests.delete_model(sha256), timeout))

    async def delete_dataset(self, sha256: str, *, timeout: float | None = None) -> None:
        """See `Client.delete_dataset`."""
        await self._result(self._operations.delete(requests.delete_dataset(sha256), timeout))

    async def inspect(
        self,
        model_sha256: str,
        dataset_sha256: str = "",
        spec: Specification = None,
        *,
        layers: bool = False,
        timeout: float | None = 600.0,
    ) -> model_pb2.Inspection:
        """See `Client.inspect`."""
        request = requests.inspect_model(model_sha256, dataset_sha256, spec, layers=layers)
        return await self._simple(request, timeout)

    # Audits

    async def audit(
        self,
        model: str | Path | bytes,
        data: str | Path,
        spec: Specification = None,
        *,
        idempotency_key: str | None = None,
        deadline: float | None = None,
        reuse: bool = False,
        progress: ProgressCallback | None = None,
    ) -> report_pb2.Report:
        """See `Client.audit`."""
        operation = self._operations.audit(
            model, data, spec, idempotency_key=idempotency_key, deadline=deadline, reuse=reuse
        )
        return await self._result(operation, progress)

    async def create_audit(
        self,
        model_sha256: str,
        dataset_sha256: str,
        spec: Specification = None,
        *,
        idempotency_key: str | None = None,
        deadline: float | None = None,
        reuse: bool = False,
        timeout: float | None = 30.0,
    ) -> audit_pb2.Audit:
        """See `Client.create_audit`."""
        return await self._result(
            self._operations.create_audit(
                model_sha256,
                dataset_sha256,
                spec,
                idempotency_key=idempotency_key,
                deadline=deadline,
                reuse=reuse,
                timeout=timeout,
            )
        )

    async def get_audit(self, audit_id: str, *, timeout: float | None = None) -> audit_pb2.Audit:
        """See `Client.get_audit`."""
        return await self._simple(requests.get_audit(audit_id), timeout)

    def audits(self, state: str = "") -> AsyncIterator[audit_pb2.Audit]:
        """See `Client.audits`."""
        return self._items(self._operations.pages(requests.list_audits(state)))

    async def cancel(self, audit_id: str, *, timeout: float | None = None) -> audit_pb2.Audit:
        """See `Client.cancel`."""
        return await self._simple(requests.cancel_audit(audit_id), timeout)

    async def delete_audit(self, audit_id: str, *, timeout: float | None = None) -> None:
        """See `Client.delete_audit`."""
        await self._result(self._operations.delete(requests.delete_audit(audit_id), timeout))

    def watch(self, audit_id: str, after: int = 0) -> AsyncIterator[audit_pb2.AuditEvent]:
        """See `Client.watch`."""
        return self._items(self._operations.watch(audit_id, after))

    async def wait(self, audit_id: str, *, progress: ProgressCallback | None = None) -> report_pb2.Report:
        """See `Client.wait`."""
        return await self._result(self._operations.finish(audit_id), progress)

    async def report(self, audit_id: str, *, timeout: float | None = 300.0) -> report_pb2.Report:
        """See `Client.report`."""
        return await self._result(self._operations.report(audit_id, timeout))

    async def evaluate(self, request: gate_pb2.EvaluateRequest, *, timeout: float | None = 300.0) -> gate_pb2.Decision:
        """See `Client.evaluate`."""
        return await self._simple(requests.evaluate(request), timeout)

    async def check_policy(self, policy_yaml: str, *, timeout: float | None = 60.0) -> gate_pb2.PolicyCheck:
        """See `Client.check_policy`."""
        return await self._simple(requests.check_policy(policy_yaml), timeout)

    # Performing the steps

    async def _simple(self, request: Unary[T], timeout: float | None) -> T:
        return await self._result(self._operations.simple(request, timeout))

    async def _result(self, operation: Operation[T], progress: ProgressCallback | None = None) -> T:
        async with aclosing(self._perform(operation)) as performing:
            async for item in performing:
                if isinstance(item, _End):
                    value: T = item.value
                    return value
                if progress is not None:
                    progress(item)
        raise AssertionError("an operation ends with its result")

    async def _items(self, operation: Operation[None]) -> AsyncGenerator[Any, None]:
        async with aclosing(self._perform(operation)) as performing:
            async for item in performing:
                if not isinstance(item, _End):
                    yield item

    async def _perform(self, operation: Operation[Any]) -> AsyncGenerator[Any, None]:
        result: Any = None
        error: ClientError | None = None
        streams: list[Any] = []
        abandon: Callable[[], Operation[None]] | None = None
        try:
            while True:
                try:
                    step = operation.send(result) if error is None else operation.throw(error)
                except StopIteration as end:
                    yield _End(end.value)
                    return
                result = error = None
                try:
                    if isinstance(step, Emit):
                        yield step.item
                    elif isinstance(step, Own):
                        abandon = step.abandon
                    elif isinstance(step, Send):
                        news: asyncio.Queue[News] = asyncio.Queue()
                        method = getattr(self._uploads[step.service], step.method)
                        sending = Sending(step, method, self._metadata, _teller(news))
                        streams[:] = [sending]
                        while (sent := await news.get()) is not None:
                            if isinstance(sent, ClientError):
                                raise sent
                            yield step.show(sent)
                        result = sending.result()
                    else:
                        result = await self._do(step, streams)
                except grpc.RpcError as problem:
                    error = translate(problem, self.target)
                except ClientError as problem:
                    error = problem
        finally:
            await self._leave(operation, streams, abandon)

    async def _leave(
        self, operation: Operation[Any], streams: list[Any], abandon: Callable[[], Operation[None]] | None
    ) -> None:
        broken_off = inspect.getgeneratorstate(operation) != inspect.GEN_CLOSED  # it has neither returned nor raised
        operation.close()
        for stream in streams:
            stream.cancel()
        if abandon is None or not broken_off:
            return
        cleaning, result = abandon(), None  # where it fails, nobody is there to hear of it
        with suppress(grpc.RpcError, ClientError, StopIteration):
            while True:
                step = cleaning.send(result)
                if isinstance(step, Call):
                    result = await self._do(step, [])

    async def _do(self, step: Call | Open | Next | Run | Sleep, streams: list[Any]) -> Any:
        match step:
            case Call():
                method = getattr(self._stubs[step.service], step.method)
                return await method(step.request, timeout=step.timeout, metadata=self._metadata)
            case Open():
                method = getattr(self._stubs[step.service], step.method)
                stream = method(step.request, timeout=step.timeout, metadata=self._metadata)
                streams[:] = [stream]
                return stream
            case Next():
                message = await step.stream.read()
                return None if message is grpc.aio.EOF else message
            case Run():
                return await asyncio.to_thread(step.function)
            case Sleep():
                return await asyncio.sleep(step.seconds)
