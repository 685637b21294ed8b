"""What is drawn: reports as rows under one axis, and as plots of two axes; static, and drawn by no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.html.markup import text
from lieaudit_client.formats.html.plots import Plot, beam, mark, rows
from lieaudit_client.formats.html.scales import even_scale, log_scale
from lieaudit_client.formats.numbers import interval, number, per_unit, percent

_MOST_POINTS = 600
"""Points drawn in one scatter; more only make the page heavy, and are thinned evenly (the page says so)."""
_WORST_POINTS = 50
_CURVE = 120
"""Points of a distribution's curve."""

Side = tuple[str, str, report_pb2.Report]
"""A label, the name of its colour, and the report."""


def names(results: Mapping[str, Any], spec: report_pb2.Report | None = None) -> list[str]:
    """Return the generators of a report in the order they were asked for."""
    order = list(spec.spec.generators) if spec is not None else []
    return sorted(results, key=lambda name: (order.index(name) if name in order else len(order), name))


def spoken(name: str) -> str:
    """Write a generator's name as words."""
    return name.replace("_", " ")


def overview(sides: Sequence[Side], generators: Sequence[str]) -> str:
    """LEE of every generator with its interval, one row each, all on one logarithmic axis."""
    found = [side[2].results[name] for side in sides for name in generators if name in side[2].results]
    scale = log_scale([value for result in found for value in (result.lee, *result.ci95)])
    entries = []
    for name in generators:
        tracks = []
        unit = ""
        for label, colour, report in sides:
            if name not in report.results:
                continue
            result = report.results[name]
            unit = per_unit(result.unit)
            tip = f"{spoken(name)}, {label}: LEE {number(result.lee)} {unit}, interval {interval(result.ci95)}"
            tracks.append(mark(scale, result.lee, result.ci95, colour, tip))
        entries.append((f"{text(spoken(name))} <small>{text(unit)}</small>", tracks))
    return rows(scale, entries, "LEE per generator with intervals, logarithmic") + legend(sides)


def legend(sides: Sequence[tuple[str, str, Any]]) -> str:
    """Name the colours; nothing where there is one."""
    if len(sides) < 2:
        return ""
    shown = "".join(f'<span><i class="swatch {colour}"></i>{text(label)}</span>' for label, colour, _ in sides)
    return f'<p class="legend">{shown}</p>'


def scatter(
    name: str, candidate: report_pb2.GeneratorResult, baseline: report_pb2.GeneratorResult, margin: float | None
) -> tuple[str, int]:
    """Per-image LEE of the candidate against the baseline, with the line of equality; and how many points are drawn."""
    pairs = [
        (i, b, c)
        for i, (b, c) in enumerate(zip(baseline.per_image, candidate.per_image, strict=False))
        if b > 0 and c > 0
    ]
    step = max(1, math.ceil(len(pairs) / _MOST_POINTS))
    worst = sorted(pairs, key=lambda pair: -pair[2])[:_WORST_POINTS]
    shown = sorted({*pairs[::step], *worst})
    scale = log_scale([value for _, b, c in pairs for value in (b, c)], 1.6)
    plot = Plot(
        scale, scale, "baseline LEE per image", "candidate LEE per image",
        f"{spoken(name)}: LEE of {len(shown)} images, candidate against baseline, logarithmic", width=460, height=430,
    )  # fmt: skip
    ends = (scale.low, scale.high)
    plot.line([(end, end) for end in ends], "equal")
    plot.note(
        scale.low * (scale.high / scale.low) ** 0.9, scale.low * (scale.high / scale.low) ** 0.9, "equal", lift=-14
    )
    if margin is not None and margin > 1:
        top = scale.high / margin
        plot.line([(scale.low, margin * scale.low), (top, scale.high)], "limit")
        plot.note(top, scale.high, f"{number(margin)} ×", "note limit", end=True, lift=-10)
    for image, b, c in shown:
        plot.dot(b, c, "point", f"image {image}: {number(c)}, baseline {number(b)}, ratio {number(c / b)}", 3)
    return plot.svg(), len(shown)


def distributions(results: Mapping[str, report_pb2.GeneratorResult], generators: Sequence[str]) -> str:
    """Per generator the fraction of images whose LEE is at most x: its curve before those of all others."""
    scale = log_scale([value for name in generators for value in results[name].per_image], 1.1)
    curves = {name: _curve(results[name].per_image) for name in generators}
    panels = []
    for place, name in enumerate(generators):
        plot = Plot(
            scale, even_scale([0.0, 1.0], 0.0), f"LEE per image, {per_unit(results[name].unit)}".rstrip(", "),
            "images at most", f"{spoken(name)}: distribution of LEE over the images, logarithmic",
            width=340, height=210, percent=(False, True), left=46,
        )  # fmt: skip
        if place == 0:
            shapes = (f'<path id="curve-{text(other)}" d="{plot.path(curves[other])}"/>' for other in generators)
            plot.marks.append(f"<defs>{''.join(shapes)}</defs>")
        plot.marks += [f'<use href="#curve-{text(other)}" class="behind"/>' for other in generators if other != name]
        plot.marks.append(f'<use href="#curve-{text(name)}" class="before"/>')
        median = results[name].median
        if median > 0:
            plot.dot(median, 0.5, "point before", f"{spoken(name)}: half of the images have at most {number(median)}")
        panels.append(f"<figure><figcaption>{text(spoken(name))}</figcaption>{plot.svg()}</figure>")
    return f'<div class="multiples">{"".join(panels)}</div>'


def _curve(per_image: Sequence[float]) -> list[tuple[float, float]]:
    values = sorted(value for value in per_image if value > 0)
    if not values:
        return []
    zeros, total = len(per_image) - len(values), len(per_image)
    step = max(1, len(values) // _CURVE)
    picked = [*range(0, len(values), step), len(values) - 1]
    return [(values[i], (zeros + i + 1) / total) for i in picked]


def by_kind(parts: Sequence[tuple[str, str, report_pb2.Layerwise]]) -> str:
    """Share of every layer kind that has one, side by side for each part, on one axis with one zero."""
    shares = [{total.kind: total for total in part.by_kind} for _, _, part in parts]
    kinds = sorted(
        {kind for own in shares for kind, total in own.items() if total.share}, key=lambda kind: -_size(shares, kind)
    )
    scale = even_scale([0.0, *(total.share for own in shares for total in own.values())], 0.04)
    entries = []
    for kind in kinds:
        tracks = []
        for (label, colour, _), own in zip(parts, shares, strict=True):
            if kind in own:
                tip = f"{kind}, {label}: {percent(own[kind].share)}, {own[kind].segments} segments"
                tracks.append(beam(scale, own[kind].share, colour, tip))
        first = next(own[kind] for own in shares if kind in own)
        entries.append((f"{text(kind)} <small>{percent(first.share)}</small>", tracks))
    return rows(scale, entries, "share of the error by kind of layer", percent=True) + legend(parts)


def _size(shares: Sequence[Mapping[str, report_pb2.KindTotal]], kind: str) -> float:
    return next(own[kind].share for own in shares if kind in own)


def by_depth(name: str, parts: Sequence[tuple[str, str, report_pb2.Layerwise]]) -> str:
    """Share accumulated up to a relative depth (Gruver et al. 2023, Figure 4)."""
    totals = [total.share for _, _, part in parts for total in part.by_depth]
    plot = Plot(
        even_scale([0.0, 1.0], 0.0), even_scale([0.0, *totals]), "relative depth", "share of the error so far",
        f"{spoken(name)}: share of the error up to a depth", percent=(True, True),
    )  # fmt: skip
    plot.line([(0.0, 0.0), (1.0, 0.0)], "equal")
    for label, colour, part in parts:
        path, before = [(0.0, 0.0)], 0.0
        for total in part.by_depth:
            path += [(total.depth, before), (total.depth, total.share)]
            before = total.share
        plot.line(path, f"steps {colour}")
        for total in part.by_depth:
            tip = f"{label}, up to depth {percent(total.depth)}: {percent(total.share)}"
            plot.dot(total.depth, total.share, f"small {colour}", tip, 2.2)
    return plot.svg() + legend(parts)


def against_accuracy(reports: Sequence[tuple[str, report_pb2.Report]], generator: str) -> str:
    """LEE against top-1 accuracy, a point per model (Gruver et al. 2023, Figure 1)."""
    points = [
        (label, report.data.top1, report.results[generator])
        for label, report in reports
        if generator in report.results and report.data.HasField("top1") and report.results[generator].lee > 0
    ]
    values = [value for _, _, result in points for value in (result.lee, *result.ci95)]
    plot = Plot(
        even_scale([top1 for _, top1, _ in points] or [0.0, 1.0], 0.15), log_scale(values),
        "top-1 accuracy on these images",
        f"LEE {per_unit(points[0][2].unit) if points else ''}", f"{spoken(generator)}: LEE against accuracy",
        percent=(True, False), width=400, height=280,
    )  # fmt: skip
    for _, top1, result in points:
        if len(result.ci95) == 2:
            plot.bar(top1, result.ci95[0], result.ci95[1], "whisker")
    for label, top1, result in points:
        tip = f"{label}: top-1 {percent(top1)}, LEE {number(result.lee)}, interval {interval(result.ci95)}"
        plot.dot(top1, result.lee, "candidate", tip)
    plot.labels([(top1, result.lee, label) for label, top1, result in points])
    return plot.svg()
