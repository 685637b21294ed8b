"""Everything the client does, once for both its faces: uploads, audits, watching, reports.

All calls of the interface may be repeated: reads change nothing, a deleted or cancelled thing stays so, an upload
goes on from what the service has committed, and creating an audit carries an idempotency key.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import wrappers_pb2
from lieaudit_api.v1 import audit_pb2, dataset_pb2, model_pb2, report_pb2, upload_pb2

from lieaudit_client import _requests as requests
from lieaudit_client._channel import HEALTH_SERVING
from lieaudit_client._requests import Listing, Unary
from lieaudit_client._steps import Attempts, Call, Emit, Next, Open, Operation, Own, Retry, Run, Send, remaining, until
from lieaudit_client._tls import speaks_tls
from lieaudit_client.exceptions import (
    AuditCancelledError,
    AuditFailedError,
    BusyError,
    CallTimeoutError,
    ClientError,
    IncompatibleVersionError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from lieaudit_client.progress import Progress
from lieaudit_client.report_json import report_from_bytes
from lieaudit_client.sources import Source, dataset_source, model_source, refuse_swapped
from lieaudit_client.specification import Specification, to_spec

API_VERSION = "lieaudit.v1"
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
_REPORT_SECONDS = 300.0
_ABANDON_SECONDS = 5.0
_HASHED_UNASKED = 16 * 2**20
"""Bytes that are hashed in less time than it takes to ask whether the service would take them."""
_RESUMABLE = frozenset({"UPLOAD_IDLE", "UPLOAD_INCOMPLETE", "UPLOAD_IN_PROGRESS", "UPLOAD_OFFSET", "UPLOAD_SUPERSEDED"})
"""Reasons for which an upload asks again where to go on: the stream broke off, or another one sends the same bytes."""

R = TypeVar("R")


class Operations:
    """The operations on one service; `check` is done before the first of them.

    ``plain`` says that the connection is without TLS.
    """

    def __init__(self, target: str, retry: Retry, timeout: float, *, check_version: bool, plain: bool = False) -> None:
        self.target = target
        self._plain = plain
        self._retry = retry
        self._timeout = timeout
        self._unchecked = check_version

    # Service

    def server_info(self, timeout: float | None = None) -> Operation[audit_pb2.ServerInfo]:
        """`GetServerInfo`, without the version check."""
        return (yield from self._repeated(requests.get_server_info(), self._limit(timeout)))

    def healthy(self, service: str, timeout: float) -> Operation[bool]:
        """Ask the standard health service; a service it does not know is not healthy."""
        try:
            answer = yield Call("Health", "Check", wrappers_pb2.StringValue(value=service), timeout)
        except NotFoundError:
            return False
        except UnreachableError as error:
            yield from self._refuse_plain_text(error)
            raise
        return bool(answer.value == HEALTH_SERVING)

    def check(self) -> Operation[None]:
        """Ask once whether the service speaks this client's interface."""
        if not self._unchecked:
            return
        try:
            info = yield from self.server_info()
        except RefusedError as error:
            if error.reason != "UNIMPLEMENTED":
                raise
            raise self._incompatible("it has no lieaudit.v1.AuditService") from error
        if info.api_version != API_VERSION:
            raise self._incompatible(f"it speaks {info.api_version!r}, this client {API_VERSION!r}")
        self._unchecked = False

    def simple(self, request: Unary[R], timeout: float | None) -> Operation[R]:
        """Any unary call of the interface."""
        yield from self.check()
        return (yield from self._repeated(request, self._limit(timeout)))

    def delete(self, request: Unary[Any], timeout: float | None) -> Operation[None]:
        """Delete a model or dataset."""
        yield from self.check()
        yield from self._repeated(request, self._limit(timeout), gone_is_done=True)

    def pages(self, listing: Listing[Any]) -> Operation[None]:
        """Emit every item of a paged list."""
        yield from self.check()
        while True:
            page: Any = yield from self._repeated(
                Unary(listing.service, listing.method, listing.message), self._timeout
            )
            for item in getattr(page, listing.field):
                yield Emit(item)
            if not page.next_page_token:
                return
            listing.message.page_token = page.next_page_token

    # Uploads

    def upload_model(self, model: str | Path | bytes) -> Operation[model_pb2.Model]:
        """Upload a model unless the service has it; emits `Progress`."""
        file = model if isinstance(model, bytes) else Path(model)
        size = len(file) if isinstance(file, bytes) else file.stat().st_size if file.is_file() else 0
        if size > _HASHED_UNASKED:  # before it is read for the names of its data files
            yield from self.check()
            yield from self._check_size("model" if isinstance(file, bytes) else file.name, size, "model_bytes")
        source: Source = yield Run(lambda: model_source(model))
        return (yield from self._upload(source, "ModelService", "UploadModel", requests.get_model))

    def upload_dataset(self, data: str | Path) -> Operation[dataset_pb2.Dataset]:
        """Upload images unless the service has them; emits `Progress`."""
        source: Source = yield Run(lambda: dataset_source(data))
        return (yield from self._upload(source, "DatasetService", "UploadDataset", requests.get_dataset))

    def _upload(self, source: Source, service: str, method: str, get: Callable[[str], Unary[R]]) -> Operation[R]:
        yield from self.check()
        size = source.size
        if size > _HASHED_UNASKED:
            yield from self._check_size(
                source.name, size, "model_bytes" if service == "ModelService" else "dataset_bytes"
            )
        sha256: str = yield Run(source.sha256)

        def show(sent: int) -> Progress:
            return Progress("upload", sent, size, message=source.name)

        attempts = Attempts(self._retry, until=None, patient=True)
        furthest = 0
        while True:
            try:
                request = upload_pb2.UploadStatusRequest(sha256=sha256)
                status = yield Call(service, "GetUploadStatus", request, self._timeout)
                start = size if status.complete else status.committed_bytes
                yield Emit(show(start))
                found: R
                if status.complete:
                    found = yield from self._repeated(get(sha256), self._timeout)
                    return found
                if start > furthest:
                    furthest = start
                    attempts.progressed()
                found = yield Send(service, method, _upload_requests(source, sha256, start), start, show)
            except ClientError as error:
                yield from attempts.after(_broken_off(error) if error.reason in _RESUMABLE else error)
            else:
                return found

    def _check_size(self, name: str, size: int, limit: str) -> Operation[None]:
        """Ask what the service takes before a large file is read. Raises `InvalidInputError` where it is less."""
        info = yield from self.server_info()
        most = info.limits.get(limit, "")
        if most.isdigit() and size > int(most):
            raise InvalidInputError(
                f"{name} has {size} bytes; the service takes at most {most}",
                reason="UPLOAD_TOO_LARGE",
                subject=name,
                hint="ask the operator to raise the limit",
            )

    # Audits

    def create_audit(
        self,
        model_sha256: str,
        dataset_sha256: str,
        spec: Specification,
        *,
        idempotency_key: str | None,
        deadline: float | None,
        timeout: float | None,
        reuse: bool = False,
        waiting: Callable[[ClientError], Any] | None = None,
    ) -> Operation[audit_pb2.Audit]:
        """Create an audit; waits while the queue is full, as long as ``timeout`` allows (None: without end)."""
        key = idempotency_key or uuid.uuid4().hex
        request = audit_request(model_sha256, dataset_sha256, spec, key, deadline, reuse=reuse)
        yield from self.check()
        return (yield from self._repeated(requests.create_audit(request), timeout, waiting=waiting))

    def watch(
        self, audit_id: str, after: int = 0, show: Callable[[audit_pb2.AuditEvent], Any] = lambda event: event
    ) -> Operation[None]:
        """Emit the events of an audit until the last; after a broken connection it goes on where it was."""
        yield from self.check()
        attempts = Attempts(self._retry, until=None, patient=True)
        while True:
            try:
                request = audit_pb2.WatchAuditRequest(id=audit_id, after_sequence=after)
                stream = yield Open("AuditService", "WatchAudit", request, None)
                while (event := (yield Next(stream))) is not None:
                    after = event.sequence
                    attempts.progressed()
                    yield Emit(show(event))
                    if event.state in FINAL_STATES:
                        return
                audit = yield Call("AuditService", "GetAudit", audit_pb2.GetAuditRequest(id=audit_id), self._timeout)
                if audit.state in FINAL_STATES:  # its last event was not after `after`
                    return
                ended = UnreachableError("the watch ended before the audit", reason="WATCH_ENDED", subject=self.target)
                yield from attempts.after(ended)
            except (UnreachableError, CallTimeoutError, BusyError) as error:
                yield from attempts.after(error)

    def report(self, audit_id: str, timeout: float | None) -> Operation[report_pb2.Report]:
        """Fetch the report of a finished audit."""
        yield from self.check()
        end = until(self._limit(timeout))
        attempts = Attempts(self._retry, until=end)
        request = audit_pb2.GetReportRequest(id=audit_id)
        while True:
            try:
                stream = yield Open("AuditService", "GetReport", request, remaining(end, "fetching the report"))
                parts = []
                while (chunk := (yield Next(stream))) is not None:
                    parts.append(chunk.data)
                return report_from_bytes(b"".join(parts))
            except (UnreachableError, BusyError) as error:
                yield from attempts.after(error)

    def finish(self, audit_id: str) -> Operation[report_pb2.Report]:
        """Watch an audit to its end, emitting `Progress`, and give its report. Raises `AuditFailedError`."""

        def show(event: audit_pb2.AuditEvent) -> Progress:
            stage = event.stage if event.stage and event.state == "running" else event.state
            return Progress(stage, event.done, event.total, event.rate, event.message, audit_id)

        yield from self.watch(audit_id, show=show)
        audit = yield from self._repeated(requests.get_audit(audit_id), self._timeout)
        if audit.state != "succeeded":
            raise failure_of(audit)
        return (yield from self.report(audit_id, _REPORT_SECONDS))

    def audit(
        self,
        model: str | Path | bytes,
        data: str | Path,
        spec: Specification,
        *,
        idempotency_key: str | None,
        deadline: float | None,
        reuse: bool = False,
    ) -> Operation[report_pb2.Report]:
        """Upload, create, watch and fetch; emits `Progress`."""
        refuse_swapped(model, data)
        message = to_spec(spec)
        uploaded = yield from self.upload_model(model)
        dataset = yield from self.upload_dataset(data)
        key = idempotency_key or uuid.uuid4().hex
        request = audit_request(uploaded.sha256, dataset.sha256, message, key, deadline, reuse=reuse)
        yield Own(lambda: self._abandon(request, ""))
        audit = yield from self.create_audit(
            uploaded.sha256,
            dataset.sha256,
            message,
            idempotency_key=key,
            deadline=deadline,
            timeout=None,
            reuse=reuse,
            waiting=lambda error: Progress("waiting", message=error.message),
        )
        yield Own(lambda: self._abandon(request, audit.id))
        if audit.state == "succeeded":  # it was asked for before
            said = audit.finished.ToDatetime().isoformat(" ", "seconds")
            yield Emit(Progress("reused", message=said, audit_id=audit.id))
            return (yield from self.report(audit.id, _REPORT_SECONDS))
        yield Emit(Progress(audit.state, audit_id=audit.id))
        return (yield from self.finish(audit.id))

    def _abandon(self, request: audit_pb2.CreateAuditRequest, audit_id: str) -> Operation[None]:
        """Cancel an audit; where its id is not known yet, the idempotency key finds it, or makes it first."""
        if not audit_id:
            made: Any = yield Call("AuditService", "CreateAudit", request, _ABANDON_SECONDS)
            audit_id = made.id
        yield Call("AuditService", "CancelAudit", audit_pb2.CancelAuditRequest(id=audit_id), _ABANDON_SECONDS)

    def _refuse_plain_text(self, error: ClientError) -> Operation[None]:
        """Raise a better error than that of a broken connection where plain text was sent to a port of TLS."""
        if not self._plain or error.reason != "UNAVAILABLE":
            return
        if (yield Run(lambda: speaks_tls(self.target))):
            raise UnreachableError(
                f"the service at {self.target} speaks TLS, and was spoken to in plain text",
                reason="TLS_THERE",
                subject=self.target,
                hint="give the authority's certificate with --ca-file, and leave --insecure out",
            ) from error

    def _limit(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _incompatible(self, problem: str) -> IncompatibleVersionError:
        return IncompatibleVersionError(
            f"the service at {self.target} cannot be used: {problem}",
            reason="INCOMPATIBLE_VERSION",
            subject=self.target,
            hint="install the lieaudit-client of the service's version",
        )

    def _repeated(
        self,
        request: Unary[R],
        timeout: float | None,
        *,
        gone_is_done: bool = False,
        waiting: Callable[[ClientError], Any] | None = None,
    ) -> Operation[R]:
        end = until(timeout)
        attempts = Attempts(self._retry, until=end)
        failed = False
        while True:
            try:
                found: R = yield Call(request.service, request.method, request.message, remaining(end, request.method))
            except NotFoundError:
                if failed and gone_is_done:  # the try that seemed to fail did it
                    return None  # type: ignore[return-value]  # its caller gives nothing
                raise
            except (UnreachableError, BusyError) as error:
                if not failed:
                    yield from self._refuse_plain_text(error)
                failed = True
                if waiting is not None and isinstance(error, BusyError):
                    yield Emit(waiting(error))
                yield from attempts.after(error)
            else:
                return found


def audit_request(
    model_sha256: str,
    dataset_sha256: str,
    spec: Specification,
    key: str,
    deadline: float | None,
    *,
    reuse: bool = False,
) -> audit_pb2.CreateAuditRequest:
    """Make the request for an audit."""
    return audit_pb2.CreateAuditRequest(
        model_sha256=model_sha256,
        dataset_sha256=dataset_sha256,
        spec=to_spec(spec),
        idempotency_key=key,
        deadline_seconds=deadline or 0.0,
        reuse=reuse,
    )


def failure_of(audit: audit_pb2.Audit) -> AuditFailedError:
    """Return the exception for an audit that ended without a report."""
    if audit.state == "cancelled":
        return AuditCancelledError(f"audit {audit.id} was cancelled", reason="CANCELLED", subject=audit.id)
    failure = audit.failure
    return AuditFailedError(
        failure.message or f"audit {audit.id} is {audit.state}",
        reason=failure.reason or "UNKNOWN",
        subject=failure.subject,
        hint=failure.hint,
    )


def _upload_requests(source: Source, sha256: str, offset: int) -> Iterator[upload_pb2.UploadRequest]:
    header = upload_pb2.UploadHeader(
        sha256=sha256, size_bytes=source.size, name=source.name[-200:], format=source.format, offset=offset
    )
    yield upload_pb2.UploadRequest(header=header)
    for chunk in source.chunks(offset):
        yield upload_pb2.UploadRequest(chunk=chunk)


def _broken_off(error: ClientError) -> UnreachableError:
    return UnreachableError(
        error.message,
        reason=error.reason,
        subject=error.subject,
        hint=error.hint,
        request_id=error.request_id,
        retry_after=error.retry_after,
    )
