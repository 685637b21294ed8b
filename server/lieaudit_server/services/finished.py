"""Reports of finished audits, for those who ask for one and for the gate."""

from __future__ import annotations

from collections.abc import Iterator

from lieaudit_server.errors import ServiceError
from lieaudit_server.services.context import Context
from lieaudit_server.store import reports
from lieaudit_server.store.audits import Audit


def report(context: Context, audit: Audit) -> Iterator[bytes]:
    """Return an audit's report in pieces, compared with its checksum. Raises `ServiceError` where there is none."""
    if audit.state != "succeeded":
        raise ServiceError(
            "FAILED_PRECONDITION",
            f"the audit has no report: it is {audit.state}",
            reason="REPORT_NOT_READY" if not audit.is_finished else "NO_REPORT",
            subject=audit.id,
            hint="" if audit.failure is None else f"it failed: {audit.failure.message}",
        )
    return reports.chunks(context.folder, audit)
