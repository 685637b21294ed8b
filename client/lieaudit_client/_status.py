"""From a failed gRPC call to the client's exception.

The service describes every error as a ``google.rpc.Status`` in the trailing metadata. It is read here rather than with
grpcio-status, whose releases each allow only one narrow window of protobuf versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from lieaudit_client.exceptions import (
    BusyError,
    CallTimeoutError,
    ClientError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
    ServerError,
    UnauthenticatedError,
    UnreachableError,
)

_KINDS: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.CANCELLED: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: CallTimeoutError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.ABORTED: RefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.ALREADY_EXISTS: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
}

_HINTS: dict[type[ClientError], str] = {
    UnauthenticatedError: "give a valid token with --token-file or LIEAUDIT_TOKEN",
    PermissionDeniedError: "use a token with the scope that is missing, or one of the owner",
    UnreachableError: "is it running there, and is the address right?",
    CallTimeoutError: "give the call more time",
}

_WORDS: dict[type[ClientError], str] = {
    UnauthenticatedError: "the service at {target} does not know who you are",
    PermissionDeniedError: "the service at {target} does not let you do this",
    UnreachableError: "the service at {target} cannot be reached",
    CallTimeoutError: "the service at {target} did not answer in time",
}

# What gRPC says about a failed handshake, what that means, and what to do.
_HANDSHAKE = (
    ("CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_NOT_TRUSTED", "give the authority's certificate with --ca-file"),
    ("certificate signature failure", "CERTIFICATE_NOT_TRUSTED", "give the authority's certificate with --ca-file"),
    ("Hostname Verification", "CERTIFICATE_OF_ANOTHER", "give the name in the certificate with --tls-name"),
    ("WRONG_VERSION_NUMBER", "NO_TLS_THERE", "the service speaks plain text: --insecure, and no certificates"),
    ("Socket closed", "UNAVAILABLE", "is it running there, and does it want TLS or a client certificate?"),
)
_FINAL = frozenset({"CERTIFICATE_NOT_TRUSTED", "CERTIFICATE_OF_ANOTHER", "NO_TLS_THERE"})


def translate(error: grpc.RpcError, target: str) -> ClientError:
    """Return the client's exception for a failed call to ``target``."""
    call: Any = error  # RpcError promises nothing, but every error of a call is also the call
    code = call.code() if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    said = str(call.details() or "") if hasattr(call, "details") else ""
    status = _status(call.trailing_metadata() or ()) if hasattr(call, "trailing_metadata") else None
    kind = _KINDS.get(code, ServerError)
    values: dict[str, Any] = {"reason": code.name, "hint": _HINTS.get(kind, ""), "subject": ""}
    if kind in {UnreachableError, CallTimeoutError}:
        values["subject"] = target
    if status is not None:
        _read_details(status, values)
        return kind(_in_words(kind, target, status.message), **values)
    for mark, reason, hint in _HANDSHAKE:
        if mark in said:
            values |= {"reason": reason, "hint": hint}
            break
    if kind is ServerError:
        values["hint"] = "is it a lieaudit service?"
    return kind(_in_words(kind, target, said), **values)


def is_final(error: ClientError) -> bool:
    """Tell whether trying again cannot help although the code says that the service was unavailable."""
    return error.reason in _FINAL


def _in_words(kind: type[ClientError], target: str, said: str) -> str:
    words = _WORDS.get(kind, "").format(target=target)
    first = said.strip().splitlines()[0][:500] if said.strip() else ""
    return ": ".join(part for part in (words, first) if part) or "the service gave no reason"


def _status(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status | None:
    for key, value in metadata:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _read_details(status: status_pb2.Status, values: dict[str, Any]) -> None:
    values["retry_after"] = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        request = error_details_pb2.RequestInfo()
        if detail.Unpack(info):
            values["reason"] = info.reason or values["reason"]
            for name in ("subject", "hint", "request_id"):
                values[name] = info.metadata.get(name) or values.get(name, "")
        elif detail.Unpack(bad):
            for violation in bad.field_violations:
                values["subject"] = values["subject"] or violation.field
        elif detail.Unpack(retry):
            values["retry_after"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(request):
            values["request_id"] = request.request_id
