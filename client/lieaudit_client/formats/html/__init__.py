"""One self-contained page: no network request, light and dark, printable, for phones and desktops."""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from importlib import resources

from lieaudit_api.v1 import gate_pb2, report_pb2

from lieaudit_client.formats import comparison
from lieaudit_client.formats.html import charts, measurements
from lieaudit_client.formats.html.directions import directions
from lieaudit_client.formats.html.layers import layers
from lieaudit_client.formats.html.markup import badge, card, chart, code, facts, num, panel, table, tabs, text
from lieaudit_client.formats.html.verdict import rules, verdict
from lieaudit_client.formats.numbers import interval, percent, relative, short


def render(
    candidate: report_pb2.Report, baseline: report_pb2.Report | None = None, decision: gate_pb2.Decision | None = None
) -> str:
    """Give the page of one report, of a comparison, or (with ``decision``) of the gate's verdict."""
    figures: dict[str, charts.Figure] = {}
    candidate = measurements.as_decided(candidate, decision)
    name = text(candidate.model.name or short(candidate.model.sha256))
    against = f" against {text(baseline.model.name or short(baseline.model.sha256))}" if baseline is not None else ""
    both = [("candidate" if baseline is not None else "model", candidate)]
    if baseline is not None:
        both.append(("baseline", baseline))
    data = (
        "images",
        f"{candidate.data.count} of {text(candidate.data.name or 'unnamed')} {code(short(candidate.data.sha256))}",
    )
    who = facts([measurements.subject(r, role if baseline is not None else "") for role, r in both] + [data])
    if decision is not None:
        top = verdict(decision, f"{name}{against}") + card(
            "models", "Compared" if baseline is not None else "Audited", "", who
        )
        top += rules(decision)
    else:
        said = "".join(f"<li>{text(reason)}</li>" for reason in candidate.reasons)
        listed = f"<ul>{said}</ul>" if said else ""
        top = (
            f'<section class="card verdict {text(candidate.status)}" id="models">{badge(candidate.status)}'
            f'<h1>{name}{against}</h1>{listed}<div class="who">{who}</div></section>'
        )
    body = top + "".join(
        [
            measurements.generators(candidate, baseline, figures),
            directions(candidate, baseline),
            measurements.images(candidate, baseline, decision, figures),
            measurements.pictures(candidate),
            layers(candidate, baseline, figures),
            measurements.error_bars(both),
            measurements.environment(both),
        ]
    )
    title = (
        f"{decision.verdict.upper()}: {candidate.model.name}"
        if decision is not None
        else f"lieaudit: {candidate.model.name}"
    )
    return _document(title, body, figures)


def render_comparison(reports: Sequence[tuple[str, report_pb2.Report]]) -> str:
    """Give the page of many models: LEE against accuracy (Gruver et al. 2023, Figure 1) and a table."""
    figures: dict[str, charts.Figure] = {}
    order = list(dict.fromkeys(g for _, r in reports for g in charts.names(r.results, r)))
    labelled = [r for _, r in reports if r.data.HasField("top1")]
    panels, listed = [], []
    for index, name in enumerate(order):
        plot = ""
        if labelled:
            figures[f"accuracy-{name}"] = charts.against_accuracy(reports, name)
            plot = chart(f"accuracy-{name}", f"LEE against accuracy, {name}")
        rows = []
        for label, report in sorted(
            reports, key=lambda p: p[1].results[name].lee if name in p[1].results else float("inf")
        ):
            if name not in report.results:
                rows.append([text(label), "not measured", *[""] * 6])
                continue
            r = report.results[name]
            top1 = report.data.top1 if report.data.HasField("top1") else None
            ratio = text(relative(r))
            rows.append(
                [
                    text(label),
                    num(r.lee),
                    text(interval(r.ci95)),
                    num(r.median),
                    ratio,
                    "± " + num(r.error_bar),
                    text(percent(top1)),
                    badge(r.status),
                ]
            )
        head = ["model", "LEE", "95 % interval", "median", "relative", "error bar", "top-1", "status"]
        listed.append(name)
        panels.append(panel("compare", name, plot + table(head, rows, numeric=(1, 2, 3, 4, 5, 6)), hidden=index > 0))
    hint = (
        "Lower is more equivariant. Models are shown on their own terms; whether one is no worse than another is what "
        "the gate decides."
    )
    if not labelled:
        hint += " Accuracy is not shown: no report has labels."
    warning = "".join(
        f"<p>{badge('inconclusive', 'different terms')} {text(line)}</p>" for line in comparison.differences(reports)
    )
    head_card = f'<section class="card" id="models"><h1>{len(reports)} models compared</h1>{warning}</section>'
    body = head_card + card("generators", "Symmetries", hint, tabs("compare", listed) + "".join(panels))
    body += measurements.error_bars(list(reports)) + measurements.environment(list(reports))
    return _document(f"lieaudit: {len(reports)} models", body, figures)


_SOURCE = (
    "Definitions: Gruver, Finzi, Goldblum, Wilson, “The Lie Derivative for Measuring Learned Equivariance”, ICLR 2023."
)
_SECTIONS: Mapping[str, str] = {
    "rules": "rules",
    "generators": "symmetries",
    "directions": "every direction",
    "images": "every image",
    "worst": "worst images",
    "layers": "layers",
    "errors": "error bars",
    "environment": "environment",
}


def _document(title: str, body: str, figures: Mapping[str, charts.Figure]) -> str:
    links = "".join(f'<a href="#{name}">{label}</a>' for name, label in _SECTIONS.items() if f'id="{name}"' in body)
    # "</script>" inside a JSON text would end the element: "<" is written as an escape.
    data = json.dumps(figures, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    early = "document.documentElement.dataset.theme=matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{text(title)}</title>
<style>{_asset("page.css")}</style>
<script>{early}</script>
</head>
<body>
<nav aria-label="sections"><div><div class="links"><a class="brand" href="#">lieaudit</a>{links}</div>
<button type="button" id="theme" aria-label="switch between light and dark">◐</button></div></nav>
<main>{body}
<footer>Made by lieaudit. {_SOURCE}</footer>
</main>
<noscript><style>.chart, .tabs {{ display: none; }} .panel[hidden] {{ display: block; }}</style></noscript>
<script type="application/json" id="figures">{data}</script>
<script type="text/plain" id="plotly">{_plotly()}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """Give plotly.js out of the plotly package, compressed; mtime 0 keeps equal pages equal byte for byte."""
    source = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, compresslevel=9, mtime=0)).decode()
