"""Exit codes of the command."""

from __future__ import annotations

from lieaudit_client.exceptions import AuditFailedError, ClientError, InvalidInputError, OutputError

OK = 0
POLICY_FAILED = 1
"""The gate looked, and a rule is broken. Nothing else ends with 1, no crash either."""
USAGE = 2
INCOMPLETE = 3
"""Inconclusive, or ended without an answer by no fault of the input."""
REFUSED = 4
"""The service could not be reached, or refused."""
INTERRUPTED = 130
TERMINATED = 143

# Reasons of failed audits that are not the input's fault.
_SERVICE_FAULTS = frozenset(
    {
        "BLOB_DAMAGED",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "DISK_FULL",
        "INTERNAL",
        "INTERRUPTED_TOO_OFTEN",
        "MEMORY_LIMIT",
        "OUT_OF_MEMORY",
        "REPORT_TOO_LARGE",
        "UNKNOWN",
    }
)
_MISSING_THERE = frozenset({"NO_SUCH_DEVICE", "ONNXRUNTIME_MISSING", "TORCH_NOT_INSTALLED"})


def exit_code(error: ClientError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, InvalidInputError):
        return USAGE
    if isinstance(error, OutputError):
        return INCOMPLETE
    if not isinstance(error, AuditFailedError):
        return REFUSED
    if error.reason in _SERVICE_FAULTS or error.reason.startswith("WORKER_"):
        return INCOMPLETE
    if error.reason in _MISSING_THERE or error.reason.startswith("PROVIDER_"):
        return REFUSED
    return USAGE
