"""Several reports side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lieaudit_api.v1 import report_pb2
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.numbers import interval, number, percent
from lieaudit_client.printable import printable, printable_copy


def labels(paths: Sequence[str]) -> list[str]:
    """Give each file a short label that no other has."""
    stems = [Path(path).stem for path in paths]
    return [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)]


def view(reports: Sequence[tuple[str, report_pb2.Report]]) -> Iterable[RenderableType]:
    """Give what is printed: what keeps the reports from being compared, and a row per generator, a column per model."""
    if len({report.data.sha256 for _, report in reports}) > 1:
        yield Text("The reports were measured on different images.", style="bold yellow")
    yield table([(printable(label), printable_copy(report)) for label, report in reports])


def table(reports: Sequence[tuple[str, report_pb2.Report]]) -> Table:
    """Give the table."""
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("LEE [95 % interval]", no_wrap=True)
    for label, _ in reports:
        found.add_column(Text(label), justify="right")
    generators = dict.fromkeys(name for _, report in reports for name in [*report.spec.generators, *report.results])
    for name in generators:
        found.add_row(Text(name), *(Text(_cell(report, name)) for _, report in reports))
    found.add_row(Text("top-1"), *(Text(_top1(report)) for _, report in reports))
    found.add_row(Text("images"), *(Text(str(report.data.count)) for _, report in reports))
    found.add_row(Text("status"), *(Text(report.status) for _, report in reports))
    return found


def _cell(report: report_pb2.Report, name: str) -> str:
    if name not in report.results:
        return "not measured"
    result = report.results[name]
    state = "" if result.status == "ok" else " (inconclusive)"
    return f"{number(result.lee)} {interval(result.ci95)}{state}"


def _top1(report: report_pb2.Report) -> str:
    return percent(report.data.top1) if report.data.HasField("top1") else "not measured"
