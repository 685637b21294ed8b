"""Outputs that move, on the page: what a pixel of motion does to every part, in words and in a table each."""

from __future__ import annotations

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.html.markup import badge, card, code, num, panel, table, tabs, text, two
from lieaudit_client.formats.numbers import interval, per_unit
from lieaudit_client.formats.parts import described, sentences
from lieaudit_client.parts import in_order

_HINT = (
    "What the outputs hold, each part in its own unit. <em>Follow</em> says how far a part moves with the picture: 1 "
    "is exact, 0 stands still. LEE is the mean square of what is left over."
)


def parts(report: report_pb2.Report) -> str:
    """Return the card of the parts; empty where the report has none."""
    names = in_order(report)
    if not names:
        return ""
    said = "".join(f"<li>{text(line)}</li>" for line in sentences(report))
    panels = "".join(panel("parts", name, _part(report, name)) for name in names)
    return card("parts", "Parts", _HINT, (f"<ul>{said}</ul>" if said else "") + tabs("parts", names) + panels)


def _part(report: report_pb2.Report, name: str) -> str:
    part = report.parts[name]
    skipped = {entry.what: entry.why for entry in report.skipped}
    head = [two("generator", "unit of LEE"), two("follow", "95 % interval"), two("LEE", "95 % interval"), "median",
            "LEE/px²", two("error bar", "method"), "status"]  # fmt: skip
    rows = []
    for generator in report.spec.generators:
        if generator not in part.results:
            why = skipped.get(f"parts.{name}.results.{generator}") or skipped.get(f"parts.{name}", "")
            rows.append([text(generator.replace("_", " ")), f"not measured: {text(why)}"])
            continue
        result = part.results[generator]
        bounds = interval(result.follow_ci95) if len(result.follow_ci95) == 2 else ""
        rows.append(
            [
                two(text(generator.replace("_", " ")), text(per_unit(result.unit))),
                two(num(result.follow), text(bounds)) if result.HasField("follow") else "–",
                two(num(result.lee), text(interval(result.ci95))),
                num(result.median),
                num(result.lee_per_px2) if result.HasField("lee_per_px2") else "–",
                two("± " + num(result.error_bar), text(result.method.replace("_", " "))),
                badge(result.status),
            ]
        )
    about = f'<p class="hint">{text(described(part))}: {code(part.source)}</p>'
    return about + table(head, rows, numeric=range(1, 6), said=f"LEE of {name} by generator")
