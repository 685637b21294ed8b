"""The layerwise decomposition: which layers cause the error, as a tree, by kind and by depth."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.advice import CAVEAT, advice
from lieaudit_client.formats.columns import brief
from lieaudit_client.formats.html import charts
from lieaudit_client.formats.html.markup import badge, card, num, panel, table, tabs, text
from lieaudit_client.formats.html.plots import beam
from lieaudit_client.formats.html.scales import Scale, even_scale
from lieaudit_client.formats.numbers import percent

_DEEPEST = 50


@dataclass
class Node:
    """A module of the tree: its segments and sub-modules in the model's order."""

    name: str
    children: dict[str, Node] = field(default_factory=dict)
    segment: report_pb2.Segment | None = None

    def share(self) -> float:
        """Return the share of the whole; shares add up."""
        own = self.segment.share if self.segment is not None else 0.0
        return own + sum(child.share() for child in self.children.values())


def layers(candidate: report_pb2.Report, baseline: report_pb2.Report | None) -> str:
    """Return the layerwise section; empty where nothing was attributed."""
    order = charts.names(candidate.layerwise, candidate)
    if not order:
        return ""
    panels = []
    for name in order:
        part = candidate.layerwise[name]
        shown = [("candidate" if baseline else "model", "candidate", part)]
        if baseline is not None and name in baseline.layerwise:
            shown.append(("baseline", "baseline", baseline.layerwise[name]))
        plots = ""
        if part.by_kind:
            plots += f"<div><h4>By kind of layer</h4>{charts.by_kind(shown)}</div>"
        if part.by_depth:
            plots += f"<div><h4>By depth</h4>{charts.by_depth(name, shown)}</div>"
        panels.append(panel("layers", name, f"{_facts(part)}{tree(part)}<div class='cols'>{plots}</div>{_more(part)}"))
    hint = (
        "Each layer's contribution to the total; shares add up to 100 %. "
        "A negative share (left of the line, blue) undoes error that other layers made."
    )
    found = advice([(name, candidate.layerwise[name]) for name in order])
    lines = "".join(f"<li>{text(line)}</li>" for line in (*(item.sentence() for item in found), CAVEAT))
    what = f"<h3>What to change</h3><ul>{lines}</ul>" if found else ""
    return card("layers", "Which layers", hint, tabs("layers", order) + "".join(panels) + what)


def _facts(part: report_pb2.Layerwise) -> str:
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in part.reasons)
    return (
        f'<p class="hint">{badge(part.status)} {len(part.segments)} segments by {text(part.method.replace("_", " "))}; '
        f"the parts add up to the whole within {num(part.completeness)} of its size.</p>"
        f"{f'<ul>{reasons}</ul>' if reasons else ''}"
    )


def tree(part: report_pb2.Layerwise) -> str:
    """Return the modules with their shares: one scale and one zero line for all bars, however deep they stand."""
    root = Node("")
    for segment in part.segments:
        place = root
        for step in _path(segment.name):
            place = place.children.setdefault(step, Node(step))
        if place.segment is not None:  # two segments of one name stay two rows
            again = f"{place.name} ({len(place.children) + 2})"
            place = place.children.setdefault(again, Node(again))
        place.segment = segment
    scale = even_scale([0.0, *_shares(root)], 0.0)
    lines = "".join(_node(child, scale, 0) for child in root.children.values())
    buttons = (
        '<p class="noprint"><button type="button" data-open="true">open all</button> '
        '<button type="button" data-open="false">close all</button></p>'
    )
    nested = any(child.children for child in root.children.values())
    ticks = "".join(f'<span style="left:{100 * place:.2f}%">{said}</span>' for place, said in _ticks(scale))
    head = (
        '<div class="row head" aria-hidden="true"><span class="name">module</span><span class="kind">kind</span>'
        f'<span class="scale">{ticks}</span><span class="share">share</span></div>'
    )
    return f'{buttons if nested else ""}<div class="tree">{head}{lines}</div>'


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    values = [scale.low, 0.0, scale.high] if scale.low < -0.1 * scale.high else [0.0, scale.high]
    return [(scale.place(value), percent(value).replace(".0 %", " %")) for value in values]


def _shares(node: Node) -> list[float]:
    """Return the shares of all rows below a node."""
    found = []
    for child in node.children.values():
        found += [child.share(), *_shares(child)]
        if child.segment is not None:
            found.append(child.segment.share)
    return found


def _path(name: str) -> list[str]:
    """Split a name into its modules; what is nested deeper than any module is left in one piece."""
    steps = [step for step in re.split(r"[./:]+", name) if step] or [name or "?"]
    return steps if len(steps) <= _DEEPEST else [*steps[:_DEEPEST], ".".join(steps[_DEEPEST:])]


def _node(node: Node, scale: Scale, depth: int) -> str:
    if node.segment is not None and not node.children:
        return f'<div class="leaf">{_row(node, scale, depth)}</div>'
    inner = "".join(_node(child, scale, depth + 1) for child in node.children.values())
    if node.segment is not None:
        own = _row(Node("(itself)", segment=node.segment), scale, depth + 1)
        inner = f'<div class="leaf">{own}</div>{inner}'
    return f"<details{' open' if depth == 0 else ''}><summary>{_row(node, scale, depth)}</summary>{inner}</details>"


def _row(node: Node, scale: Scale, depth: int) -> str:
    share = node.share()
    kind, tip = "", f"{node.name}: share {percent(share)}"
    if node.segment is not None:
        kind = "commutes" if node.segment.commutes else node.segment.kind
        measured = f"LEE {node.segment.lee:.3g}, norm {node.segment.norm:.3g}"
        tip = f"{node.segment.name}: share {percent(share)}, {measured}; {', '.join(node.segment.ops[:12])}"
    return (
        f'<span class="row"><span class="name" style="--depth:{depth}">{text(brief(node.name))}</span>'
        f'<span class="kind">{text(kind)}</span>'
        f'<span class="track">{beam(scale, share, "candidate", brief(tip))}</span>'
        f'<span class="share">{text(percent(share))}</span></span>'
    )


def _more(part: report_pb2.Layerwise) -> str:
    worst = sorted(part.segments, key=lambda s: -abs(s.share))[:15]
    rows = [
        [
            text(s.name),
            text(s.kind),
            text(percent(s.share)),
            num(s.lee),
            num(s.norm),
            "± " + num(s.error_bar),
            text(s.layout),
        ]
        for s in worst
    ]
    head = ["segment", "kind", "share", "LEE", "norm", "error bar", "layout"]
    largest = table(head, rows, numeric=(2, 3, 4, 5), said="the largest segments")
    made = f'<details class="more"><summary>the largest segments in numbers</summary>{largest}</details>'
    if part.cancellations:
        pairs = [[text(c.first), text(c.second), num(c.inner)] for c in part.cancellations]
        made += (
            '<details class="more"><summary>layers that cancel each other</summary>'
            f"{table(['one', 'other', 'inner product ÷ total'], pairs, (2,), said='cancelling layers')}</details>"
        )
    if part.merged:
        merged = "".join(f"<li><code>{text(m.what)}</code>: {text(m.why)}</li>" for m in part.merged)
        made += (
            f'<details class="more"><summary>boundaries that could not be cut at</summary><ul>{merged}</ul></details>'
        )
    return made
