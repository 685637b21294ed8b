"""The one place that turns exceptions into what a client sees.

A client gets google.rpc.Status with ErrorInfo (and BadRequest, RetryInfo where they apply), under 4 KB, without paths,
addresses and traces of this machine; the trace stays in the log under the request id that ErrorInfo carries.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from lieaudit.errors import (
    BudgetError,
    ComparisonError,
    DataError,
    LieauditError,
    MissingPackageError,
    ModelError,
    PolicyError,
    ProviderError,
    SourceError,
    SpecError,
)
from lieaudit_server.errors import ServiceError, disk_full, is_disk_full, is_scarce, scarce

DOMAIN = "lieaudit"
_MESSAGE_BYTES, _SUBJECT_BYTES, _HINT_BYTES = 700, 200, 400

_CODES: tuple[tuple[type[LieauditError], str], ...] = (
    (ModelError, "INVALID_ARGUMENT"),
    (DataError, "INVALID_ARGUMENT"),
    (SpecError, "INVALID_ARGUMENT"),
    (SourceError, "INVALID_ARGUMENT"),
    (ProviderError, "FAILED_PRECONDITION"),
    (MissingPackageError, "FAILED_PRECONDITION"),
    (BudgetError, "FAILED_PRECONDITION"),
    (PolicyError, "INVALID_ARGUMENT"),
    (ComparisonError, "INVALID_ARGUMENT"),
)


def to_service_error(problem: BaseException) -> ServiceError:
    """Say what the client may know about any exception."""
    if isinstance(problem, ServiceError):
        return problem
    if isinstance(problem, LieauditError):
        code = next((code for kind, code in _CODES if isinstance(problem, kind)), "INTERNAL")
        return ServiceError(code, problem.message, reason=problem.reason, subject=problem.subject, hint=problem.hint)
    if is_disk_full(problem):
        return disk_full()
    if is_scarce(problem):
        return scarce()
    return ServiceError(
        "INTERNAL", "the service failed; its log has the cause under this request id", reason="INTERNAL"
    )


def to_status(error: ServiceError, request_id: str, hidden: Iterable[Path]) -> status_pb2.Status:
    """Make the google.rpc.Status, under 4 KB, with the paths under ``hidden`` cut to file names."""
    scrub = _Scrubber(hidden)
    message = _cut(scrub(error.message), _MESSAGE_BYTES)
    subject = _cut(scrub(error.subject), _SUBJECT_BYTES)
    hint = _cut(scrub(error.hint), _HINT_BYTES)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    metadata = {"subject": subject, "hint": hint, "request_id": request_id}
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.code == "INVALID_ARGUMENT":
        violation = error_details_pb2.BadRequest.FieldViolation(field=subject, description=message)
        _pack(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * error.retry_seconds))
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def scrubbed(text: str, hidden: Iterable[Path]) -> str:
    """Cut the paths of this machine in a text to file names."""
    return _Scrubber(hidden)(text)


def _pack(status: status_pb2.Status, detail: Any) -> None:
    status.details.add().Pack(detail)


def _cut(text: str, size: int) -> str:
    clean = "".join(c if c.isprintable() else " " for c in text)
    encoded = clean.encode("utf-8", "replace")
    return clean if len(encoded) <= size else encoded[: size - 3].decode("utf-8", "ignore") + "…"


class _Scrubber:
    # Only paths under known folders are cut: a tensor may well be called "/layer1/conv1/Conv_output_0".
    def __init__(self, hidden: Iterable[Path]) -> None:
        package = Path(__file__).resolve().parent.parent
        roots = {Path(sys.prefix), Path(sys.base_prefix), Path("/tmp"), package, *hidden}  # noqa: S108
        names = sorted({str(r) for r in roots if len(r.parts) > 1}, key=len, reverse=True)
        self._address = re.compile(r" at 0x[0-9a-fA-F]+\b")  # of an object in this process's memory
        self._pattern = re.compile("(?:" + "|".join(map(re.escape, names)) + r")(?:/[^\s'\":;,)\]]*)?")

    def __call__(self, text: str) -> str:
        return self._pattern.sub(lambda m: m.group().rstrip("/").rpartition("/")[2], self._address.sub("", text))
