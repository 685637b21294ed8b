"""Plotly figures as plain dicts; colours are names of the page's style sheet ("@candidate"), set when drawn.

Nothing here imports plotly: the page carries its JavaScript, and figures are data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.numbers import interval, number

Figure = dict[str, Any]
_MOST_POINTS = 4000
"""Points drawn in one scatter; more only make the page heavy, and are thinned evenly (the page says so)."""


def rounded(value: float) -> float:
    """Give four significant digits: what a chart can show, at a third of the bytes."""
    return float(f"{value:.4g}")


def names(results: Mapping[str, Any], spec: report_pb2.Report | None = None) -> list[str]:
    """Give the generators of a report in the order they were asked for."""
    order = list(spec.spec.generators) if spec is not None else []
    return sorted(results, key=lambda name: (order.index(name) if name in order else len(order), name))


def overview(reports: Sequence[tuple[str, str, report_pb2.Report]], generators: Sequence[str]) -> Figure:
    """LEE of every generator with its 95 % interval, one row each; ``reports`` are (label, colour name, report)."""
    shown = list(reversed(generators))
    spread = 0.3 if len(reports) > 1 else 0.0
    data = []
    for index, (label, colour, report) in enumerate(reports):
        offset = spread * (0.5 - index / max(1, len(reports) - 1)) if len(reports) > 1 else 0.0
        points = [
            (i, report.results[g]) for i, g in enumerate(shown) if g in report.results and report.results[g].lee > 0
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": [rounded(r.lee) for _, r in points],
                "y": [i + offset for i, _ in points],
                "error_x": _intervals([r for _, r in points], color=f"@{colour}", thickness=1.8, width=4),
                "marker": {"color": f"@{colour}", "size": 9, "symbol": "square" if colour == "baseline" else "circle"},
                "text": [
                    f"{g.replace('_', ' ')}<br>LEE {number(r.lee)}, 95 % {interval(r.ci95)}"
                    for g, r in ((shown[i], r) for i, r in points)
                ],
                "hovertemplate": "%{text}<extra>" + _plain(label) + "</extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "height": 110 + 38 * len(shown),
            "showlegend": len(reports) > 1,
            "xaxis": {"type": "log", "title": {"text": "LEE (log scale)"}, **_decades(data)},
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": [g.replace("_", " ") for g in shown],
                "range": [-0.6, len(shown) - 0.4],
                "zeroline": False,
                "showgrid": False,
            },
        },
    }


def scatter(
    candidate: report_pb2.GeneratorResult, baseline: report_pb2.GeneratorResult, margin: float | None
) -> Figure:
    """Per-image LEE of the candidate against the baseline on the same images, with the line of equality."""
    pairs = [
        (i, b, c)
        for i, (b, c) in enumerate(zip(baseline.per_image, candidate.per_image, strict=False))
        if b > 0 and c > 0
    ]
    step = max(1, math.ceil(len(pairs) / _MOST_POINTS))
    worst = sorted(pairs, key=lambda p: -p[2])[:50]
    shown = sorted({*pairs[::step], *worst})
    low, high = _range([v for _, b, c in pairs for v in (b, c)])
    line = [low, high]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "one image",
            "x": [rounded(b) for _, b, _ in shown],
            "y": [rounded(c) for _, _, c in shown],
            "text": [
                f"image {i}<br>candidate {number(c)}<br>baseline {number(b)}<br>ratio {number(c / b)}"
                for i, b, c in shown
            ],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": "@candidate", "size": 6, "opacity": 0.55},
            "showlegend": False,
        },
        _line(line, line, "equal", "@muted", "solid"),
    ]
    if margin is not None and margin > 1:
        data.append(_line(line, [margin * v for v in line], f"{number(margin)} × the baseline", "@fail", "dash"))
    span = [math.log10(low), math.log10(high)]
    ticks = {"exponentformat": "power", "dtick": max(1, math.ceil((span[1] - span[0]) / 7))}  # decades
    return {
        "data": data,
        "layout": {
            "height": 560,
            "xaxis": {
                "type": "log",
                "title": {"text": "baseline LEE per image"},
                "range": span,
                **ticks,
            },
            "yaxis": {
                "type": "log",
                "title": {"text": "candidate LEE per image"},
                "range": span,
                **ticks,
            },
        },
    }


def distribution(results: Mapping[str, report_pb2.GeneratorResult], generators: Sequence[str]) -> Figure:
    """Show, per generator, the fraction of images whose LEE is at most x."""
    palette = (
        "#3b7dd8",
        "#e07b39",
        "#2f9e6e",
        "#b05bc4",
        "#c94f5c",
        "#7a8f2a",
        "#2aa7b8",
        "#a8763e",
        "#6f74d6",
        "#8a8f98",
    )
    data = []
    for index, name in enumerate(generators):
        values = sorted(v for v in results[name].per_image if v > 0)
        zeros = len(results[name].per_image) - len(values)
        if not values:
            continue
        step = max(1, len(values) // 400)
        picked = [*range(0, len(values), step), len(values) - 1]
        total = len(results[name].per_image)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name.replace("_", " "),
                "x": [rounded(values[i]) for i in picked],
                "y": [rounded((zeros + i + 1) / total) for i in picked],
                "line": {"color": palette[index % len(palette)], "width": 2, "dash": "solid" if index < 5 else "dot"},
                "hovertemplate": "%{y:.0%} of images at most %{x:.3g}<extra>" + name.replace("_", " ") + "</extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "height": 420,
            "xaxis": {"type": "log", "title": {"text": "LEE per image (log scale)"}, **_exponents()},
            "yaxis": {"title": {"text": "fraction of images"}, "range": [0, 1.02], "tickformat": ".0%"},
            "legend": {"orientation": "h", "x": 0, "y": -0.22, "xanchor": "left", "yanchor": "top"},
        },
    }


def by_kind(reports: Sequence[tuple[str, str, report_pb2.Layerwise]]) -> Figure:
    """Share of every layer kind, side by side for each of (label, colour name, layerwise)."""
    kinds = sorted({t.kind for _, _, part in reports for t in part.by_kind})
    first = {t.kind: t.share for t in reports[0][2].by_kind}
    kinds.sort(key=lambda kind: first.get(kind, 0.0))
    data = []
    for label, colour, part in reversed(reports):
        shares = {t.kind: t for t in part.by_kind}
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label,
                "y": kinds,
                "x": [rounded(shares[k].share) if k in shares else None for k in kinds],
                "marker": {"color": f"@{colour}"},
                "text": [f"{shares[k].segments} segments" if k in shares else "" for k in kinds],
                "textposition": "none",
                "hovertemplate": "%{y}: share %{x:.1%}, %{text}<extra>" + _plain(label) + "</extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "height": 130 + (26 + 14 * len(reports)) * len(kinds),
            "barmode": "group",
            "showlegend": len(reports) > 1,
            "legend": {"traceorder": "reversed", "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": {"tickformat": ".0%", "title": {"text": "share of the whole"}},
            "yaxis": {"showgrid": False},
        },
    }


def by_depth(reports: Sequence[tuple[str, str, report_pb2.Layerwise]]) -> Figure:
    """Share accumulated up to a relative depth (Gruver et al. 2023, Figure 4)."""
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label,
                "x": [rounded(t.depth) for t in part.by_depth],
                "y": [rounded(t.share) for t in part.by_depth],
                "line": {"color": f"@{colour}", "shape": "hv"},
                "marker": {"size": 5},
                "hovertemplate": "up to depth %{x:.0%}: %{y:.1%}<extra>" + _plain(label) + "</extra>",
            }
            for label, colour, part in reports
        ],
        "layout": {
            "height": 330,
            "showlegend": len(reports) > 1,
            "xaxis": {"title": {"text": "relative depth"}, "tickformat": ".0%", "range": [0, 1.02]},
            "yaxis": {"title": {"text": "share so far"}, "tickformat": ".0%"},
        },
    }


def against_accuracy(reports: Sequence[tuple[str, report_pb2.Report]], generator: str) -> Figure:
    """LEE against top-1 accuracy, a point per model (Gruver et al. 2023, Figure 1)."""
    points = [
        (label, r, r.results[generator]) for label, r in reports if generator in r.results and r.data.HasField("top1")
    ]
    points = [p for p in points if p[2].lee > 0]
    data = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [rounded(r.data.top1) for _, r, _ in points],
            "y": [rounded(g.lee) for _, _, g in points],
            "text": [f"  {_plain(label)}" for label, _, _ in points],  # beside the error bar, not on it
            "textposition": "middle right",
            "cliponaxis": False,
            "marker": {"color": "@candidate", "size": 11},
            "error_y": _intervals([g for _, _, g in points], color="@muted"),
            "hovertemplate": "%{text}: top-1 %{x:.1%}, LEE %{y:.3g}<extra></extra>",
        }
    ]
    tops = [r.data.top1 for _, r, _ in points] or [0.0, 1.0]
    pad = max(0.01, 0.18 * (max(tops) - min(tops)))
    span = [min(tops) - pad, max(tops) + pad]
    return {
        "data": data,
        "layout": {
            "height": 430,
            "showlegend": False,
            "xaxis": {"tickformat": ".0%", "title": {"text": "top-1 accuracy on these images"}, "range": span},
            "yaxis": {"type": "log", "title": {"text": f"LEE, {generator.replace('_', ' ')}"}, **_exponents()},
        },
    }


def _intervals(results: Sequence[report_pb2.GeneratorResult], **look: Any) -> dict[str, Any]:
    """Draw the intervals of LEE as error bars; none where there is no interval (one image)."""
    bounds = [(r.lee, *(r.ci95 if len(r.ci95) == 2 else (r.lee, r.lee))) for r in results]
    return {
        "type": "data",
        "symmetric": False,
        "array": [rounded(max(0.0, high - lee)) for lee, _, high in bounds],
        # a logarithmic axis has no place for 0
        "arrayminus": [rounded(max(0.0, min(lee - low, lee * (1 - 1e-9)))) for lee, low, _ in bounds],
        **look,
    }


def _line(x: list[float], y: list[float], name: str, colour: str, dash: str) -> dict[str, Any]:
    line = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": line, "hoverinfo": "skip"}


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.1, 10.0
    return min(values) / 1.6, max(values) * 1.6


def _exponents() -> dict[str, Any]:
    return {"exponentformat": "power", "nticks": 7}


def _decades(data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Short ranges get plain ticks, long ones powers of ten."""
    values = [v for trace in data for v in trace["x"]]
    if values and max(values) / min(values) < 300:
        return {"dtick": "D2", "tickformat": "~g"}
    return _exponents()


def _plain(label: str) -> str:
    """Take the characters out that plotly would read as markup."""
    return label.replace("<", "‹").replace(">", "›").replace("&", "+").replace("%{", "% {")
