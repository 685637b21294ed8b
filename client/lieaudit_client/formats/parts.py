"""Outputs that move, for people: a table for each part, and what a pixel of motion does to all of them, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from lieaudit_api.v1 import report_pb2
from rich.console import RenderableType
from rich.text import Text

from lieaudit_client.formats.columns import Column, Fitted
from lieaudit_client.formats.numbers import interval, number, per_unit
from lieaudit_client.parts import in_order

HOW = (
    "follow: how far a part moves with the picture along the symmetry; 1 is exact, 0 stands still. LEE: mean square of "
    "what is left over, in the part's unit per unit of t. LEE/px²: per squared pixel that the symmetry moves the image."
)


def parts_view(report: report_pb2.Report) -> Iterable[RenderableType]:
    """Return a table for each part, and the sentences below them."""
    for name in in_order(report):
        part = report.parts[name]
        yield Text(f"{name}  {described(part)}", style="bold")
        yield _table(report, name)
    said = list(sentences(report))
    if said:
        yield Text("\n".join(["in words", *(f"  • {line}" for line in said)]))
        yield Text(f" {HOW}", style="dim")


def described(part: report_pb2.ReportPart) -> str:
    """Say in one line what a part is."""
    what = part.representation.replace("_", " ")
    count = f"{part.items:,} of an image" if part.items > 1 else "one of an image"
    unit = f" in {part.unit}" if part.unit else ""
    weighted = ", by weight" if part.weights else ""
    return f"{what}{unit}, {count}{weighted}"


def sentences(report: report_pb2.Report) -> Iterator[str]:
    """Say of every generator what a pixel of it does to all parts."""
    order = list(report.spec.generators)
    found = {g: None for name in in_order(report) for g in report.parts[name].results}
    for generator in sorted(found, key=lambda g: (order.index(g) if g in order else len(order), g)):
        said = [
            clause
            for name in in_order(report)
            if generator in report.parts[name].results
            for clause in _clause(name, report.parts[name], report.parts[name].results[generator])
        ]
        if said:
            yield f"{_motion(generator)} {'; '.join(said)}"


def _motion(generator: str) -> str:
    named = {"translation_x": "a shift of 1 px along x", "translation_y": "a shift of 1 px along y"}
    return named.get(generator, f"1 px of {generator.replace('_', ' ')}")


def spoken(name: str) -> str:
    """Name a part in a sentence: ``boxes.centre`` is where the boxes are."""
    part, _, which = name.partition(".")
    return f"the sizes of {part}" if which == "size" else part


def _clause(name: str, part: report_pb2.ReportPart, result: report_pb2.GeneratorResult) -> Iterator[str]:
    """Say what one pixel of a generator does to one part; nothing for brightness, which moves no pixel."""
    if not result.HasField("lee_per_px2"):
        return
    off = math.sqrt(result.lee_per_px2)
    if result.HasField("follow"):
        shift = part.unit == "px" and part.representation != "vector_map" and not name.endswith(".size")
        moved = f"{number(result.follow)} px" if shift else f"{number(result.follow)} of the way"
        astray = f", {number(off)} {part.unit or 'units'} astray"
        yield f"moves {spoken(name)} by {moved} (1 is exact{astray})"
    elif part.unit:
        yield f"changes {spoken(name)} by {number(off)} {part.unit} (0 is exact)"
    elif part.size > 0:
        yield f"changes {spoken(name)} by {number(100 * off / part.size)} %"


def _table(report: report_pb2.Report, name: str) -> Fitted:
    part = report.parts[name]
    moves = any(result.HasField("follow") for result in part.results.values())
    follow = (Column("follow", right=True), Column("95 % interval", 3, right=True)) if moves else ()
    columns = (
        Column("generator", wraps=True),
        *follow,
        Column("LEE", right=True),
        Column("95 % interval", 2, right=True),
        Column("median", 4, right=True),
        Column("unit", 5, wraps=True, bare=True),
        Column("LEE/px²", 1, right=True),
        Column("error bar", 1, right=True),
        Column("status"),
    )
    skipped = {entry.what: entry.why for entry in report.skipped}
    rows = []
    for generator in report.spec.generators:
        if generator not in part.results:
            why = skipped.get(f"parts.{name}.results.{generator}") or skipped.get(f"parts.{name}") or ""
            blank = [Text("")] * len(follow)
            rows.append([Text(generator), *blank, Text("–"), *[Text("")] * 2, Text(why), *[Text("")] * 3])
            continue
        result = part.results[generator]
        rows.append(
            [
                Text(generator),
                *_follow(result)[: len(follow)],
                Text(number(result.lee)),
                Text(interval(result.ci95)),
                Text(number(result.median)),
                Text(per_unit(result.unit)),
                Text(number(result.lee_per_px2) if result.HasField("lee_per_px2") else "–"),
                Text(f"±{number(result.error_bar)}"),
                Text(result.status, style="" if result.status == "ok" else "bold yellow"),
            ]
        )
    return Fitted(columns, rows)


def _follow(result: report_pb2.GeneratorResult) -> tuple[Text, Text]:
    value = number(result.follow) if result.HasField("follow") else "–"
    return Text(value), Text(interval(result.follow_ci95) if len(result.follow_ci95) == 2 else "")
