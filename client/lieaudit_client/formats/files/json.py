"""The report itself, ``lieaudit.report/1``."""

from __future__ import annotations

from lieaudit_api.v1 import report_pb2

from lieaudit_client.report_json import dump_report


def render(report: report_pb2.Report) -> str:
    """Return the JSON text."""
    return dump_report(report)
