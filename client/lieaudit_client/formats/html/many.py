"""The page of many models: every generator at once, against accuracy, and by layers."""

from __future__ import annotations

from collections.abc import Sequence

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats import comparison
from lieaudit_client.formats.html import charts
from lieaudit_client.formats.html.markup import badge, card, code, num, panel, table, tabs, text, two
from lieaudit_client.formats.numbers import interval, number, per_unit, percent, short
from lieaudit_client.formats.ranks import spearman

Named = Sequence[tuple[str, report_pb2.Report]]


def head(reports: Named) -> str:
    """Return the models with what their labels stand for, and what keeps them from being compared."""
    warning = "".join(
        f"<p>{badge('inconclusive', 'different terms')} {text(line)}</p>" for line in comparison.differences(reports)
    )
    rows = [
        [
            text(label),
            two(text(report.model.name or "unnamed"), code(short(report.model.sha256))),
            text(percent(report.data.top1 if report.data.HasField("top1") else None)),
            str(report.data.count),
            badge(report.status),
        ]
        for label, report in reports
    ]
    made = table(["label", "model", "top-1", "images", "status"], rows, numeric=(2, 3), said="the models")
    return f'<section class="card" id="models"><h1>{len(reports)} models compared</h1>{warning}{made}</section>'


def generators(reports: Named) -> str:
    """Return all generators at once: a row each, a column per model, the least LEE of each row marked."""
    order = _order(reports)
    rows = []
    for name in order:
        found = {label: report.results[name] for label, report in reports if name in report.results}
        least = min((result.lee for result in found.values()), default=0.0)
        unit = per_unit(next(iter(found.values())).unit) if found else ""
        cells = [_cell(found.get(label), least, alone=len(found) < 2) for label, _ in reports]
        rows.append([two(text(charts.spoken(name)), text(unit)), *cells])
    hint = (
        "LEE with its 95 % interval; the least of each row is set in bold. Lower is more equivariant. Models are shown "
        "on their own terms; whether one is no worse than another is what the gate decides."
    )
    numeric = range(1, len(reports) + 1)
    labels = [text(label) for label, _ in reports]
    made = table(["generator", *labels], rows, numeric, said="LEE of every generator and model")
    return card("generators", "Symmetries", hint, made)


def _cell(result: report_pb2.GeneratorResult | None, least: float, *, alone: bool) -> str:
    if result is None:
        return '<span class="hint">not measured</span>'
    said = num(result.lee)
    said = f"<strong>{said}</strong>" if result.lee == least and not alone else said
    state = "" if result.status == "ok" else " " + badge(result.status)
    return two(said, text(interval(result.ci95))) + state


def accuracy(reports: Named) -> str:
    """Return LEE against accuracy for all generators (Gruver et al. 2023, Figure 1), each with its rank correlation."""
    labelled = [(label, report) for label, report in reports if report.data.HasField("top1")]
    if not labelled:
        return card("accuracy", "Against accuracy", "", "<p>Not shown: no report has labels.</p>")
    panels = []
    for name in _order(labelled):
        found = [(r.data.top1, r.results[name].lee) for _, r in labelled if name in r.results]
        rho = spearman([top1 for top1, _ in found], [lee for _, lee in found])
        said = f"rank correlation {rho:+.2f}, {len(found)} models".replace("-", "−") if rho is not None else ""
        title = f"{text(charts.spoken(name))} <small>{said}</small>"
        panels.append(f"<figure><figcaption>{title}</figcaption>{charts.against_accuracy(labelled, name)}</figure>")
    hint = (
        "One point per model. The rank correlation (Spearman’s) is −1 where the more accurate model is always the more "
        "equivariant one, +1 where it is always the less; from three models on. Few models say little."
    )
    return card("accuracy", "Against accuracy", hint, f'<div class="multiples">{"".join(panels)}</div>')


def layers(reports: Named) -> str:
    """Return the shares by kind of layer, a column per model; empty where nothing was attributed."""
    order = [name for name in _order(reports) if any(name in report.layerwise for _, report in reports)]
    panels = []
    for name in order:
        own = [
            {total.kind: total for total in report.layerwise[name].by_kind} if name in report.layerwise else None
            for _, report in reports
        ]
        largest: dict[str, float] = {}
        for kinds in own:
            for kind, total in (kinds or {}).items():
                largest[kind] = max(largest.get(kind, 0.0), abs(total.share))
        shown = [kind for kind in sorted(largest, key=lambda kind: -largest[kind]) if largest[kind] > 0]
        rows = [[text(kind), *(_share(kinds, kind) for kinds in own)] for kind in shown]
        rows.append(["largest segment", *(_largest(report, name) for _, report in reports)])
        labels = [text(label) for label, _ in reports]
        made = table(["kind of layer", *labels], rows, range(1, len(reports) + 1), said=f"shares by kind, {name}")
        panels.append(panel("layers", name, made))
    if not panels:
        return ""
    hint = "Which kinds of layer cause each model's error: shares of its own LEE, which add up to 100 %."
    return card("layers", "Which layers", hint, tabs("layers", order) + "".join(panels))


def _share(kinds: dict[str, report_pb2.KindTotal] | None, kind: str) -> str:
    if kinds is None:
        return '<span class="hint">not measured</span>'
    return two(text(percent(kinds[kind].share)), f"{kinds[kind].segments} segments") if kind in kinds else "–"


def _largest(report: report_pb2.Report, name: str) -> str:
    if name not in report.layerwise or not report.layerwise[name].segments:
        return "–"
    worst = max(report.layerwise[name].segments, key=lambda segment: abs(segment.share))
    return two(code(worst.name), text(f"{percent(worst.share)}, LEE {number(worst.lee)}"))


def _order(reports: Named) -> list[str]:
    return list(dict.fromkeys(name for _, report in reports for name in charts.names(report.results, report)))
