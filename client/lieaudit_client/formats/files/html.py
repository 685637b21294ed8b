"""A page that works offline."""

from __future__ import annotations

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats import html


def render(report: report_pb2.Report) -> str:
    """Return the page."""
    return html.render(report)
