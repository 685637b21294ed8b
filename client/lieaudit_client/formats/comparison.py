"""Several reports side by side, for a terminal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lieaudit_api.v1 import report_pb2
from rich.console import RenderableType
from rich.text import Text

from lieaudit_client.formats.matrix import Cell, Matrix
from lieaudit_client.formats.numbers import interval, number, per_unit, percent
from lieaudit_client.printable import printable, printable_copy

_SHORT = 16
"""Labels of so many characters are short enough as they are."""
_WORD = re.compile(r"[^-_./ ]+[-_./ ]*")
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
    """Return each file a short label that no other has: its name without what all have in common."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) < len(stems):
        return [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)]
    return _differing(stems)


def _differing(names: list[str]) -> list[str]:
    """Leave out the words that all names begin or end with, where the names are long and something is left."""
    if len(names) < 2 or max(map(len, names)) <= _SHORT:
        return names
    words = [_WORD.findall(name) for name in names]
    first = _shared(words)
    last = _shared([word[first:][::-1] for word in words])
    short = ["".join(word[first : len(word) - last]).strip("-_. ") for word in words]
    return short if all(short) and len(set(short)) == len(short) else names


def _shared(words: list[list[str]]) -> int:
    """Count the words that all lists begin with."""
    return len(list(itertools.takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))))


def view(reports: Sequence[tuple[str, report_pb2.Report]]) -> Iterable[RenderableType]:
    """Return what is printed: what keeps the reports from being compared, and rows by generator, columns by model."""
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


def table(reports: Sequence[tuple[str, report_pb2.Report]]) -> Matrix:
    """Return the table: a row per generator with its unit of t, a column per model."""
    rows: list[tuple[Cell, list[Cell]]] = [
        (_named(name, reports), [_cell(report, name) for _, report in reports])
        for name in dict.fromkeys(name for _, report in reports for name in [*report.spec.generators, *report.results])
    ]
    rows.append((("top-1",), [(_top1(report),) for _, report in reports]))
    rows.append((("images",), [(str(report.data.count),) for _, report in reports]))
    rows.append((("status",), [(report.status,) for _, report in reports]))
    return Matrix("LEE [95 % interval]", [label for label, _ in reports], rows)


def _named(name: str, reports: Sequence[tuple[str, report_pb2.Report]]) -> Cell:
    """Return a generator with the unit in which LEE takes t, where the reports agree on it."""
    units = {report.results[name].unit for _, report in reports if name in report.results}
    return (name, per_unit(units.pop())) if len(units) == 1 and "" not in units else (name,)


def _cell(report: report_pb2.Report, name: str) -> Cell:
    if name not in report.results:
        return ("not measured",)
    result = report.results[name]
    state = () if result.status == "ok" else ("(inconclusive)",)
    return number(result.lee), interval(result.ci95), *state


def _top1(report: report_pb2.Report) -> str:
    return percent(report.data.top1) if report.data.HasField("top1") else "not measured"
