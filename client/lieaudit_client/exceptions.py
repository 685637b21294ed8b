"""The errors the client raises.

::

    ClientError
    ├── UnreachableError              nothing answers at the address, or the service cannot be started
    ├── CallTimeoutError              the time limit given for the call has passed
    ├── RefusedError                  the service answered, and will not do it
    │   ├── UnauthenticatedError      it does not know the caller
    │   ├── PermissionDeniedError     it knows the caller, who may not do this
    │   ├── BusyError                 its queue or a quota is full; `retry_after` says when to come back
    │   └── IncompatibleVersionError  it speaks another version of the interface
    ├── InvalidInputError             the model, the images, the specification or an argument is at fault
    │   ├── NotFoundError             the service has no such model, dataset or audit
    │   └── ReportError               a file or message is not a report
    ├── AuditFailedError              the audit ended without a report
    │   └── AuditCancelledError       somebody cancelled it
    ├── OutputError                   what was measured cannot be written: a full disk, a closed pipe
    └── ServerError                   the service's own fault

Every error has a ``reason`` (a stable UPPER_SNAKE code), a ``subject`` (the tensor, op, field, file or address it is
about), a ``hint`` (what to do) and, where the service gave one, the ``request_id`` under which its log knows more.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of all errors that the client raises on purpose.

    Parameters
    ----------
    message
        What is wrong, in one sentence.
    reason
        Stable code in UPPER_SNAKE, for programs.
    subject
        The tensor, op, field, file or address it is about; may be empty.
    hint
        What the user can do; may be empty.
    request_id
        The service's name for the call in its log; may be empty.
    retry_after
        Seconds after which the service asked to be tried again; None where it did not.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        subject: str = "",
        hint: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.subject = subject
        self.hint = hint
        self.request_id = request_id
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, vars(self))

    def __str__(self) -> str:
        text = f"{self.message} ({self.hint})" if self.hint else self.message
        return f"{text} [request {self.request_id}]" if self.request_id else text


def _rebuild(kind: type[ClientError], message: str, values: dict[str, object]) -> ClientError:
    error = kind(message, reason="")
    vars(error).update(values)
    return error


class UnreachableError(ClientError):
    """Nothing answers at the address, the connection broke, or the service cannot be started."""


class CallTimeoutError(ClientError):
    """The time limit given for the call has passed."""


class RefusedError(ClientError):
    """The service answered, and will not do what was asked."""


class UnauthenticatedError(RefusedError):
    """The service does not know the caller: no token, a wrong one or an expired one."""


class PermissionDeniedError(RefusedError):
    """The service knows the caller, whose token does not allow this."""


class BusyError(RefusedError):
    """The service's queue or a quota is full; `retry_after` says when to come back, where it knows."""


class IncompatibleVersionError(RefusedError):
    """The service speaks another version of the interface than this client."""


class InvalidInputError(ClientError):
    """The model, the images, the specification or an argument is at fault."""


class NotFoundError(InvalidInputError):
    """The service has no such model, dataset or audit, or it belongs to somebody else."""


class ReportError(InvalidInputError):
    """A file or message is not a report, or holds a number no report may hold."""


class AuditFailedError(ClientError):
    """The audit ended without a report; ``reason``, ``subject`` and ``hint`` are the service's."""


class AuditCancelledError(AuditFailedError):
    """The audit was cancelled."""


class OutputError(ClientError):
    """What was measured or decided cannot be written: a full disk, or a pipe that nobody reads any more."""


class ServerError(ClientError):
    """The service failed by its own fault."""
