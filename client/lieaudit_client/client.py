"""The synchronous client."""

from __future__ import annotations

import inspect
import queue
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
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


class Client:
    """A connection to one lieaudit service.

    Parameters
    ----------
    target
        ``host:port`` or ``unix:/path``; None: the environment variable ``LIEAUDIT_SERVER``.
    token
        Bearer token; None: ``LIEAUDIT_TOKEN``.
    ca_file, cert_file, key_file
        PEM files of the authority that signed the service's certificate and, for mutual TLS, of the client's own
        certificate and key; None: ``LIEAUDIT_CA_FILE``, ``LIEAUDIT_CERT_FILE``, ``LIEAUDIT_KEY_FILE``.
    insecure
        Speak plain text to another machine; None: ``LIEAUDIT_INSECURE``. On this machine plain text is the rule.
    tls_name
        The name in the service's certificate where it is not the host; None: ``LIEAUDIT_TLS_NAME``.
    timeout
        Seconds a short call may take, with all its retries; every such method takes its own ``timeout`` too.
    retry
        When calls are repeated.
    check_version
        Ask once, before the first call, whether the service speaks this client's interface.

    Notes
    -----
    Every method raises a `ClientError` of the tree in `lieaudit_client.exceptions`. A client may be used by several
    threads; it must be made after a fork, not before.

    Examples
    --------
    >>> with Client("localhost:50151") as client:  # doctest: +SKIP
    ...     report = client.audit("model.onnx", "images.npz", {"generators": ["rotation"], "preprocessing": "imagenet"})
    ...     print(report.results["rotation"].lee)
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
        self._channel = (
            grpc.insecure_channel(self.target, arguments)
            if credentials is None
            else grpc.secure_channel(self.target, credentials, arguments)
        )
        self._metadata = connection.metadata()
        self._stubs: Stubs = {name: stub(self._channel) for name, stub in SERVICES.items()}
        self._operations = Operations(
            self.target, retry or Retry(), timeout, check_version=check_version, plain=credentials is None
        )

    def close(self) -> None:
        """Close the connection; running audits go on."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Service

    def server_info(self, *, timeout: float | None = None) -> audit_pb2.ServerInfo:
        """Ask for version, providers, queue and limits."""
        return self._result(self._operations.server_info(timeout))

    def healthy(self, service: str = "", *, timeout: float = 5.0) -> bool:
        """Ask the standard health service whether ``service`` (empty: the whole) serves."""
        return self._result(self._operations.healthy(service, timeout))

    # Models and datasets

    def upload_model(self, model: str | Path | bytes, *, progress: ProgressCallback | None = None) -> model_pb2.Model:
        """Upload a model unless the service has it.

        Parameters
        ----------
        model
            Path of an ``.onnx`` (its external data files come along), ``.tar``, ``.pt2`` or ``.safetensors``; or the
            bytes of an ONNX model.
        progress
            Called with the bytes sent so far. After a broken connection the upload goes on from what the service has.
        """
        return self._result(self._operations.upload_model(model), progress)

    def upload_dataset(self, data: str | Path, *, progress: ProgressCallback | None = None) -> dataset_pb2.Dataset:
        """Upload images unless the service has them: an ``.npz``, ``.tar`` or ``.zip``, or a folder of images."""
        return self._result(self._operations.upload_dataset(data), progress)

    def models(self) -> Iterator[model_pb2.Model]:
        """List the models."""
        return self._items(self._operations.pages(requests.list_models()))

    def datasets(self) -> Iterator[dataset_pb2.Dataset]:
        """List the datasets."""
        return self._items(self._operations.pages(requests.list_datasets()))

    def get_model(self, sha256: str, *, timeout: float | None = None) -> model_pb2.Model:
        """Get one model. Raises `NotFoundError`."""
        return self._simple(requests.get_model(sha256), timeout)

    def get_dataset(self, sha256: str, *, timeout: float | None = None) -> dataset_pb2.Dataset:
        """Get one dataset. Raises `NotFoundError`."""
        return self._simple(requests.get_dataset(sha256), timeout)

    def delete_model(self, sha256: str, *, timeout: float | None = None) -> None:
        """Delete a model. Raises `NotFoundError`."""
        self._result(self._operations.delete(requests.delete_model(sha256), timeout))

    def delete_dataset(self, sha256: str, *, timeout: float | None = None) -> None:
        """Delete a dataset. Raises `NotFoundError`."""
        self._result(self._operations.delete(requests.delete_dataset(sha256), timeout))

    def inspect(
        self,
        model_sha256: str,
        dataset_sha256: str = "",
        spec: Specification = None,
        *,
        layers: bool = False,
        timeout: float | None = 600.0,
    ) -> model_pb2.Inspection:
        """Read a model's graph without auditing it; with a dataset also run it and measure top-1."""
        request = requests.inspect_model(model_sha256, dataset_sha256, spec, layers=layers)
        return self._simple(request, timeout)

    # Audits

    def audit(
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
        """Upload what the service has not, run one audit and give its report.

        Where the caller breaks it off (Ctrl-C, a cancelled task, an exception in ``progress``) the audit is cancelled.

        Parameters
        ----------
        model, data
            As for `upload_model` and `upload_dataset`.
        spec
            ``lieaudit.v1.AuditSpec``, a mapping of its fields, or None for the documented defaults.
        idempotency_key
            The same key with the same request gives the same audit, also from another process; None: a new audit.
        deadline
            Seconds of wall-clock time after which the service gives the audit up; None: the service's limit.
        reuse
            An equal audit of yours that the service made with the same versions is the answer, without a new one.
        progress
            Called in this thread at every step; holds the audit's id once there is one.

        Raises
        ------
        InvalidInputError
            The model, the images or the specification is at fault.
        AuditFailedError
            The audit ended without a report.
        """
        operation = self._operations.audit(
            model, data, spec, idempotency_key=idempotency_key, deadline=deadline, reuse=reuse
        )
        return self._result(operation, progress)

    def create_audit(
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
        """Queue an audit of uploaded things; while the queue is full it waits as long as ``timeout`` allows."""
        return self._result(
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

    def get_audit(self, audit_id: str, *, timeout: float | None = None) -> audit_pb2.Audit:
        """Get the state of an audit. Raises `NotFoundError`."""
        return self._simple(requests.get_audit(audit_id), timeout)

    def audits(self, state: str = "") -> Iterator[audit_pb2.Audit]:
        """List the audits, of one state only where it is given."""
        return self._items(self._operations.pages(requests.list_audits(state)))

    def cancel(self, audit_id: str, *, timeout: float | None = None) -> audit_pb2.Audit:
        """Cancel an audit; its worker is stopped."""
        return self._simple(requests.cancel_audit(audit_id), timeout)

    def delete_audit(self, audit_id: str, *, timeout: float | None = None) -> None:
        """Delete an audit that has ended, and its report."""
        self._result(self._operations.delete(requests.delete_audit(audit_id), timeout))

    def watch(self, audit_id: str, after: int = 0) -> Iterator[audit_pb2.AuditEvent]:
        """Return the events of an audit after a sequence number, until the last; survives a restart of the service."""
        return self._items(self._operations.watch(audit_id, after))

    def wait(self, audit_id: str, *, progress: ProgressCallback | None = None) -> report_pb2.Report:
        """Wait for an audit's end and give its report. Raises `AuditFailedError`."""
        return self._result(self._operations.finish(audit_id), progress)

    def report(self, audit_id: str, *, timeout: float | None = 300.0) -> report_pb2.Report:
        """Fetch the report of a finished audit."""
        return self._result(self._operations.report(audit_id, timeout))

    def evaluate(self, request: gate_pb2.EvaluateRequest, *, timeout: float | None = 300.0) -> gate_pb2.Decision:
        """Have reports judged by a policy."""
        return self._simple(requests.evaluate(request), timeout)

    def check_policy(self, policy_yaml: str, *, timeout: float | None = 60.0) -> gate_pb2.PolicyCheck:
        """Have a policy read: its problems with their lines, or what an audit must measure for it."""
        return self._simple(requests.check_policy(policy_yaml), timeout)

    # Performing the steps

    def _simple(self, request: Unary[T], timeout: float | None) -> T:
        return self._result(self._operations.simple(request, timeout))

    def _result(self, operation: Operation[T], progress: ProgressCallback | None = None) -> T:
        performing = self._perform(operation)
        try:
            while True:
                item = next(performing)
                if progress is not None:
                    progress(item)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            performing.close()

    def _items(self, operation: Operation[None]) -> Iterator[Any]:
        yield from self._perform(operation)

    def _perform(self, operation: Operation[T]) -> Generator[Any, None, T]:
        result: Any = None
        error: ClientError | None = None
        streams: list[Any] = []
        abandon: Callable[[], Operation[None]] | None = None
        try:
            while True:
                try:
                    step = operation.send(result) if error is None else operation.throw(error)
                except StopIteration as end:
                    value: T = end.value
                    return value
                result = error = None
                try:
                    if isinstance(step, Emit):
                        yield step.item
                    elif isinstance(step, Own):
                        abandon = step.abandon
                    elif isinstance(step, Send):
                        news: queue.SimpleQueue[News] = queue.SimpleQueue()
                        method = getattr(self._stubs[step.service], step.method)
                        sending = Sending(step, method, self._metadata, news.put)
                        streams[:] = [sending]
                        while (sent := news.get()) is not None:
                            if isinstance(sent, ClientError):
                                raise sent
                            yield step.show(sent)
                        result = sending.result()
                    else:
                        result = self._do(step, streams)
                except grpc.RpcError as problem:
                    error = translate(problem, self.target)
                except ClientError as problem:
                    error = problem
        finally:
            self._leave(operation, streams, abandon)

    def _leave(
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
                    result = self._do(step, [])

    def _do(self, step: Call | Open | Next | Run | Sleep, streams: list[Any]) -> Any:
        match step:
            case Call():
                method = getattr(self._stubs[step.service], step.method)
                return method(step.request, timeout=step.timeout, metadata=self._metadata)
            case Open():
                method = getattr(self._stubs[step.service], step.method)
                stream = method(step.request, timeout=step.timeout, metadata=self._metadata)
                streams[:] = [stream]
                return stream
            case Next():
                return next(step.stream, None)
            case Run():
                return step.function()
            case Sleep():
                return time.sleep(step.seconds)
