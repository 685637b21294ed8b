"""A table of the symmetries, for a merge request or a README."""

from __future__ import annotations

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.markdown import text
from lieaudit_client.formats.numbers import interval, number


def render(report: report_pb2.Report) -> str:
    """Return a Markdown table, one row per generator."""
    rows = [
        f"| {text(name)} | {number(result.lee)} | {interval(result.ci95)} | {text(result.status)} |"
        for name, result in report.results.items()
    ]
    head = [f"lieaudit: {text(report.model.name)}, {report.data.count} images, {text(report.status)}", ""]
    return "\n".join([*head, "| generator | LEE | 95 % interval | status |", "|---|---:|---:|---|", *rows, ""])
