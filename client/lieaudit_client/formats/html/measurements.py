"""What was measured: generators, images, pictures, error bars, environment."""

from __future__ import annotations

import base64
import json

from google.protobuf import json_format
from lieaudit_api.v1 import gate_pb2, report_pb2

from lieaudit_client.formats.html import charts
from lieaudit_client.formats.html.markup import badge, card, code, facts, num, panel, table, tabs, text, two
from lieaudit_client.formats.legend import on_this_data
from lieaudit_client.formats.numbers import (
    FEW_IMAGES,
    feed_line,
    fidelity_line,
    interval,
    lead,
    number,
    per_unit,
    percent,
    short,
    verdict_of,
)

_PNG = b"\x89PNG\r\n\x1a\n"


def subject(report: report_pb2.Report, role: str) -> tuple[str, str]:
    """Return one model as a name-value pair of the head of the page."""
    model = report.model
    top1 = f", top-1 {percent(report.data.top1)}" if report.data.HasField("top1") else ""
    label = f'<span class="swatch {role}"></span>' if role else ""
    about = f"{model.producer or 'unknown producer'}, opset {model.opset}, head {model.head}{top1}"
    name = f"{label}<strong>{text(model.name or 'unnamed')}</strong> {code(short(model.sha256))}"
    return role or "model", f'{name}<br><span class="hint">{text(about)}</span>'


def generators(
    candidate: report_pb2.Report, baseline: report_pb2.Report | None, decision: gate_pb2.Decision | None
) -> str:
    """Return LEE per generator with intervals, and the accuracy beside it: chart and table."""
    order = charts.names(candidate.results, candidate)
    few = candidate.data.count < FEW_IMAGES
    sides = [("candidate" if baseline else "model", "candidate", candidate)]
    if baseline is not None:
        sides.append(("baseline", "baseline", baseline))
    rows = []
    for name in order:
        for label, role, report in sides:
            if name not in report.results:
                continue
            result = report.results[name]
            own = role == "candidate" or name not in candidate.results
            named = two(text(charts.spoken(name)), text(per_unit(result.unit))) if own else ""
            confidence = judged_at(name, decision) if role == "candidate" else ""
            rows.append(
                [named, *([_who(role, label)] if baseline is not None else []), *_cells(result, confidence, few=few)]
            )
    head = [
        two("generator", "unit of LEE"),
        *(["model"] if baseline is not None else []),
        *lead((two("LEE", "95 % interval"),), (two("median", "geometric mean"),), few=few),
        "largest 1 %",
        two("relative", "95 % interval"),
        "LEE/px²",
        "mean |L F|",
        two("error bar", "method"),
        "status",
    ]
    first = 1 + (baseline is not None)
    hint = (
        "Local equivariance error (LEE): how fast the output changes along each symmetry, squared and averaged over "
        "classes and images; 0 is perfect. A few images may carry the mean (<em>largest 1 %</em>: their share "
        "of it), so median and geometric mean stand beside it. <em>Relative</em> "
        "below 1: the model answers less to its symmetry than to an equally large other change."
    )
    body = _accuracy(sides) + charts.overview(sides, order)
    body += table(head, rows, numeric=range(first, first + 7), said="LEE of every generator")
    said = "".join(f"<li>{text(line)}</li>" for line in on_this_data(candidate))
    body += f"<ul class='hint'>{said}</ul>" if said else ""
    return card("generators", "Symmetries", hint, body)


def _who(role: str, label: str) -> str:
    return f'<span class="who"><span class="swatch {role}"></span>{label}</span>'


def _cells(result: report_pb2.GeneratorResult, confidence: str, *, few: bool) -> list[str]:
    geometric = num(result.geometric_mean) if result.HasField("geometric_mean") else "–"
    bounds = interval(result.ci95) + confidence
    ratio = interval(result.relative_ci95) if len(result.relative_ci95) == 2 else ""
    return [
        *lead((two(num(result.lee), text(bounds)),), (two(num(result.median), geometric),), few=few),
        text(percent(result.top_share if result.HasField("top_share") else None)),
        two(num(result.relative), text(ratio)) if result.HasField("relative") else "–",
        num(result.lee_per_px2) if result.HasField("lee_per_px2") else "–",
        num(result.mean_abs),
        two("± " + num(result.error_bar), text(result.method.replace("_", " "))),
        badge(result.status),
    ]


def _accuracy(sides: list[charts.Side]) -> str:
    """Say the accuracy on the same images, where they have labels: what a change of LEE is weighed against."""
    known = [(label, role, report.data.top1) for label, role, report in sides if report.data.HasField("top1")]
    if not known:
        return '<p class="hint">Accuracy is not shown: the images have no labels.</p>'
    shown = [f"{_who(role, label)} <strong>{text(percent(top1))}</strong>" for label, role, top1 in known]
    change = ""
    if len(known) == 2:
        points = 100 * (known[0][2] - known[1][2])
        change = f" ({'+' if points > 0 else '−' if points < 0 else '±'}{abs(points):.1f} points)"
    return f'<p class="accuracy">top-1 accuracy on these images: {", ".join(shown)}{change}</p>'


def judged_at(name: str, decision: gate_pb2.Decision | None) -> str:
    """Say at which confidence a rule's interval stands in the place of the report's, where that is not 95 %."""
    judged = any(_decides(rule) and rule.generator == name for rule in decision.rules) if decision else False
    if decision is None or not judged or abs(decision.confidence - 0.95) < 1e-9:
        return ""
    return f" at {100 * decision.confidence:.4g} %"


_FIELDS = {("limit", "mean"): "ci95", ("relative", "relative"): "relative_ci95"}


def _decides(rule: gate_pb2.RuleOutcome) -> bool:
    return (rule.kind, rule.statistic) == ("limit", "mean") and len(rule.interval) == 2


def as_decided(report: report_pb2.Report, decision: gate_pb2.Decision | None) -> report_pb2.Report:
    """Return the report with the intervals of the rules that decide on its numbers: a number has one on a page."""
    found = report_pb2.Report()
    found.CopyFrom(report)
    for rule in decision.rules if decision is not None else ():
        field = _FIELDS.get((rule.kind, rule.statistic))
        if field is not None and not rule.subject and rule.generator in found.results and len(rule.interval) == 2:
            getattr(found.results[rule.generator], field)[:] = rule.interval
    return found


def images(candidate: report_pb2.Report, baseline: report_pb2.Report | None, decision: gate_pb2.Decision | None) -> str:
    """Return the per-image scatter against the baseline or, without one, the distribution over images."""
    order = charts.names(candidate.results, candidate)
    pairs = [
        n
        for n in order
        if baseline is not None
        and n in baseline.results
        and len(baseline.results[n].per_image) == len(candidate.results[n].per_image)
    ]
    if not order:
        return ""
    if baseline is None or not pairs or baseline.data.sha256 != candidate.data.sha256:
        hint = (
            "How many of the images have at most so much LEE; the dot is the median. Each generator's curve stands "
            "before those of the others. A long tail to the right means that a few images carry the mean."
        )
        return card("images", "Every image", hint, charts.distributions(candidate.results, order))
    limits = {r.generator: r.limit for r in (decision.rules if decision else ()) if r.kind == "noninferiority"}
    panels = []
    for name in pairs:
        c, b = candidate.results[name].per_image, baseline.results[name].per_image
        drawing, drawn = charts.scatter(name, candidate.results[name], baseline.results[name], limits.get(name))
        worse = sum(x > y for x, y in zip(c, b, strict=True))
        flat = sum(x <= 0 or y <= 0 for x, y in zip(c, b, strict=True))
        said = f"The candidate is worse on {worse} of {len(c)} images."
        said += f" {flat} with a LEE of 0 are not drawn." if flat else ""
        said += f" {drawn} are drawn, the worst among them." if drawn < len(c) - flat else ""
        panels.append(panel("scatter", name, f'<div class="square">{drawing}</div><p class="hint">{said}</p>'))
    hint = "One point per image, both models on the same one. Above the line, the candidate is the less equivariant."
    return card("images", "Every image, candidate against baseline", hint, tabs("scatter", pairs) + "".join(panels))


def pictures(report: report_pb2.Report) -> str:
    """Return the worst images with their tangents; empty where the report has none."""
    shots = [p for p in report.pictures if p.png.startswith(_PNG) and p.tangent_png.startswith(_PNG)]
    if not shots:
        return ""
    order = [n for n in charts.names(report.results, report) if any(p.generator == n for p in shots)]
    panels = []
    for name in order:
        found = sorted((p for p in shots if p.generator == name), key=lambda p: -p.lee)
        panels.append(panel("pictures", name, f'<div class="gallery">{"".join(map(_shot, found))}</div>'))
    hint = (
        "Where the model is least equivariant: the image, and its tangent, the direction in which the symmetry moves "
        "it (grey is no change)."
    )
    return card("worst", "Worst images", hint, tabs("pictures", order) + "".join(panels))


def _shot(shot: report_pb2.Picture) -> str:
    def source(data: bytes) -> str:
        return "data:image/png;base64," + base64.b64encode(data).decode()

    return (
        f'<figure class="shot"><div class="pair"><img alt="image {shot.image}" src="{source(shot.png)}">'
        f'<img alt="its tangent under {text(shot.generator)}" src="{source(shot.tangent_png)}"></div>'
        '<div class="heads"><span>image</span><span>tangent</span></div>'
        f"<figcaption><strong>LEE {num(shot.lee)}</strong> <span>image {shot.image}</span></figcaption></figure>"
    )


def error_bars(reports: list[tuple[str, report_pb2.Report]]) -> str:
    """Return how exactly each number was computed, and what was checked against what."""
    rows = [
        [text(name.replace("_", " ")), text(label), *_errors(report.results[name])]
        for label, report in reports
        for name in charts.names(report.results, report)
    ]
    head = ["generator", "of", "method", "numerical", "sampling", "step", "output noise", "cross-check", "remarks"]
    hint = (
        "Two kinds of uncertainty, both relative to LEE: the numerical error of the derivative, and the sampling error "
        "of having seen only these images. A number whose error bar is wide is never gated on."
    )
    kept = [place for place in range(len(head)) if place < 3 or any(row[place] != "–" for row in rows)]
    shown = [[row[place] for place in kept] for row in rows]
    numeric, wide = ([kept.index(place) for place in places if place in kept] for places in ((3, 4, 5, 6), (7, 8)))
    made = table([head[place] for place in kept], shown, numeric, wide, said="error bars of every generator")
    return card("errors", "Error bars", hint, made if rows else "")


def _errors(result: report_pb2.GeneratorResult) -> list[str]:
    checked = "–"
    if result.HasField("agreement"):
        against = result.agreement
        verdict = verdict_of(against)
        said = badge({"agrees": "ok", "disagrees": "fail"}.get(verdict, "inconclusive"), verdict.replace("_", " "))
        checked = (
            f"{said} {text(against.method.replace('_', ' '))}, {against.images} images: "
            f"deviation {num(against.deviation)}, allowed {num(against.allowed)}"
        )
    half = (result.ci95[1] - result.ci95[0]) / 2 if len(result.ci95) == 2 else None
    return [
        text(result.method.replace("_", " ")),
        _part(result.error_bar, result.lee),
        _part(half, result.lee),
        num(result.step) if result.HasField("step") else "–",
        num(result.noise) if result.HasField("noise") else "–",
        checked,
        text("; ".join(result.reasons)) or "–",
    ]


def _part(error: float | None, whole: float) -> str:
    return f"± {text(number(100 * error / whole))} %" if error is not None and whole > 0 else "–"


def environment(reports: list[tuple[str, report_pb2.Report]]) -> str:
    """Return what computed the numbers, on which terms, and what was not measured."""
    parts = []
    for label, report in reports:
        env, model, data = report.environment, report.model, report.data
        threads = f"{env.threads} threads" if env.threads else "all threads"
        pairs = [
            ("model", f"{text(model.name)}<br>{code(model.sha256)}"),
            ("images", f"{data.count} of {text(data.name or 'unnamed')}<br>{code(data.sha256)}"),
            ("input", f"{_tensor(model.input)} {text(model.input.layout)}, {text(model.input.dtype)}"),
            ("output", f"{_tensor(model.output)}, head {text(model.head)}"),
            ("computed in", text(model.precision)),
            ("on", text(f"{env.provider}, {env.device}, {threads}")),
            ("versions", text(_versions(env))),
            ("took", text(f"{number(report.timing.seconds)} s, {number(report.timing.rows_per_second)} rows/s")),
        ]
        pairs += [("fed", text(feed_line(feed))) for feed in data.feeds]
        if report.checks.HasField("head"):
            pairs.append(("head", text(f"{report.checks.head.chosen}: {report.checks.head.why}")))
        if report.checks.HasField("fidelity"):
            pairs.append(("fidelity", text(fidelity_line(report.checks.fidelity))))
        if env.fallback_ops:
            moved = ", ".join(f"{op} × {count}" for op, count in sorted(env.fallback_ops.items()))
            pairs.append(("ran elsewhere than asked", text(moved)))
        spec = json.dumps(
            json_format.MessageToDict(report.spec, preserving_proto_field_name=True), indent=2, ensure_ascii=False
        )
        notes = "".join(f"<li>{text(note)}</li>" for note in model.notes)
        skipped = "".join(f"<li>{code(s.what)}: {text(s.why)}</li>" for s in report.skipped)
        reasons = "".join(f"<li>{text(reason)}</li>" for reason in report.reasons)
        parts.append(
            f"<h3>{text(label)} {badge(report.status)}</h3>{facts(pairs)}"
            + (f"<h3>Remarks</h3><ul>{reasons}{notes}</ul>" if notes or reasons else "")
            + (f"<h3>Not measured</h3><ul>{skipped}</ul>" if skipped else "")
            + f'<details class="more"><summary>specification</summary><pre>{text(spec)}</pre></details>'
        )
    return card("environment", "Environment", "", "".join(parts))


def _tensor(tensor: report_pb2.ReportTensor) -> str:
    return f"{code(tensor.name)} {text(' × '.join(tensor.shape))}"


def _versions(env: report_pb2.Environment) -> str:
    named = {
        "lieaudit": env.lieaudit,
        "onnxruntime": env.onnxruntime,
        "onnx": env.onnx,
        "numpy": env.numpy,
        "Python": env.python,
    }
    named["torch"] = env.torch
    return ", ".join(f"{name} {version}" for name, version in named.items() if version)
