"""Several reports side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lieaudit_api.v1 import report_pb2
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.numbers import interval, number, percent
from lieaudit_client.printable import printable, printable_copy

_Read = Callable[[report_pb2.Report], str]


def _of_spec(name: str) -> _Read:
    """Read a field of the specification; what is not set is the default."""

    def read(report: report_pb2.Report) -> str:
        return str(getattr(report.spec, name)) if report.spec.HasField(name) else _DEFAULTS.get(name, "none")

    return read


_DEFAULTS = {"convention": "central", "interpolation": "bilinear", "padding": "reflect"}
_TERMS: Mapping[str, _Read] = {
    "the metric's version": lambda report: str(report.metric_version),
    "the head": lambda report: report.model.head,
    **{name: _of_spec(name) for name in ("convention", "interpolation", "padding", "step", "secant_px")},
}
"""What decides which quantity a number is, beside the images."""


def labels(paths: Sequence[str]) -> list[str]:
    """Give each file a short label that no other has."""
    stems = [Path(path).stem for path in paths]
    return [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)]


def view(reports: Sequence[tuple[str, report_pb2.Report]]) -> Iterable[RenderableType]:
    """Give what is printed: what keeps the reports from being compared, and a row per generator, a column per model."""
    for line in differences(reports):
        yield Text(printable(line), style="bold yellow")
    yield table([(printable(label), printable_copy(report)) for label, report in reports])


def differences(reports: Sequence[tuple[str, report_pb2.Report]]) -> list[str]:
    """Say on which different terms the reports were measured: their numbers are then different quantities."""
    found = []
    if len({report.data.sha256 for _, report in reports}) > 1:
        found.append("The reports were measured on different images.")
    elif len({report.data.count for _, report in reports}) > 1:
        found.append("The reports were measured on different numbers of images.")
    for name, read in _TERMS.items():
        values = [read(report) for _, report in reports]
        if len(set(values)) > 1:
            each = ", ".join(f"{label}: {value}" for (label, _), value in zip(reports, values, strict=True))
            found.append(f"Not comparable: {name} differs ({each}).")
    return found


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
