"""The layerwise decomposition: which layers cause the error, as a tree, by kind and by depth."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.advice import CAVEAT, advice
from lieaudit_client.formats.html import charts
from lieaudit_client.formats.html.markup import badge, card, chart, num, panel, table, tabs, text
from lieaudit_client.formats.numbers import percent

_DEEPEST = 50


@dataclass
class Node:
    """A module of the tree: its segments and sub-modules in the model's order."""

    name: str
    children: dict[str, Node] = field(default_factory=dict)
    segment: report_pb2.Segment | None = None

    def share(self) -> float:
        """Give the share of the whole; shares add up."""
        own = self.segment.share if self.segment is not None else 0.0
        return own + sum(child.share() for child in self.children.values())


def layers(candidate: report_pb2.Report, baseline: report_pb2.Report | None, figures: dict[str, charts.Figure]) -> str:
    """Give the layerwise section; empty where nothing was attributed."""
    order = charts.names(candidate.layerwise, candidate)
    if not order:
        return ""
    panels = []
    for index, name in enumerate(order):
        part = candidate.layerwise[name]
        shown = [("candidate" if baseline else "model", "candidate", part)]
        if baseline is not None and name in baseline.layerwise:
            shown.append(("baseline", "baseline", baseline.layerwise[name]))
        plots = ""
        if part.by_kind:
            figures[f"kind-{name}"] = charts.by_kind(shown)
            plots += f"<div><h3>By kind of layer</h3>{chart(f'kind-{name}', f'share by kind of layer, {name}')}</div>"
        if part.by_depth:
            figures[f"depth-{name}"] = charts.by_depth(shown)
            plots += f"<div><h3>By depth</h3>{chart(f'depth-{name}', f'share by depth, {name}')}</div>"
        panels.append(
            panel(
                "layers",
                name,
                f"{_facts(part)}{_tree(part)}<div class='cols'>{plots}</div>{_more(part)}",
                hidden=index > 0,
            )
        )
    hint = (
        "Each layer's contribution to the total; shares add up to 100 %. "
        "A negative share (left, blue) undoes error that other layers made."
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


def _tree(part: report_pb2.Layerwise) -> str:
    root = Node("")
    for segment in part.segments:
        place = root
        for step in _path(segment.name):
            place = place.children.setdefault(step, Node(step))
        if place.segment is not None:  # two segments of one name stay two rows
            again = f"{place.name} ({len(place.children) + 2})"
            place = place.children.setdefault(again, Node(again))
        place.segment = segment
    scale = max((abs(s.share) for s in part.segments), default=1.0)
    scale = max([scale, *(abs(n.share()) for n in root.children.values())]) or 1.0
    rows = "".join(_node(child, scale, 0) for child in root.children.values())
    buttons = (
        '<p class="noprint"><button type="button" data-open="true">open all</button> '
        '<button type="button" data-open="false">close all</button></p>'
    )
    nested = any(child.children for child in root.children.values())
    return f'{buttons if nested else ""}<div class="tree">{rows}</div>'


def _path(name: str) -> list[str]:
    """Split a name into its modules; what is nested deeper than any module is left in one piece."""
    steps = [step for step in re.split(r"[./:]+", name) if step] or [name or "?"]
    return steps if len(steps) <= _DEEPEST else [*steps[:_DEEPEST], ".".join(steps[_DEEPEST:])]


def _node(node: Node, scale: float, depth: int) -> str:
    if node.segment is not None and not node.children:
        return f'<div class="leaf">{_row(node, scale)}</div>'
    inner = "".join(_node(child, scale, depth + 1) for child in node.children.values())
    if node.segment is not None:
        inner = f'<div class="leaf">{_row(Node("(itself)", segment=node.segment), scale)}</div>{inner}'
    return f"<details{' open' if depth == 0 else ''}><summary>{_row(node, scale)}</summary>{inner}</details>"


def _row(node: Node, scale: float) -> str:
    share = node.share()
    width = 50 * min(1.0, abs(share) / scale)
    left = 50.0 if share >= 0 else 50 - width
    kind, tip = "", f"{node.name}: share {percent(share)}"
    if node.segment is not None:
        kind = "commutes" if node.segment.commutes else node.segment.kind
        measured = f"LEE {node.segment.lee:.3g}, norm {node.segment.norm:.3g}"
        tip = f"{node.segment.name}: share {percent(share)}, {measured}; {', '.join(node.segment.ops[:12])}"
    bar = f'<i class="{"minus" if share < 0 else "plus"}" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
    return (
        f'<span class="row" title="{text(tip)}"><span class="name">{text(node.name)}</span>'
        f'<span class="kind">{text(kind)}</span><span class="signed">{bar}</span>'
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
    largest = table(head, rows, numeric=(2, 3, 4, 5))
    made = f'<details class="more"><summary>the largest segments in numbers</summary>{largest}</details>'
    if part.cancellations:
        pairs = [[text(c.first), text(c.second), num(c.inner)] for c in part.cancellations]
        made += (
            '<details class="more"><summary>layers that cancel each other</summary>'
            f"{table(['one', 'other', 'inner product ÷ total'], pairs, numeric=(2,))}</details>"
        )
    if part.merged:
        merged = "".join(f"<li><code>{text(m.what)}</code>: {text(m.why)}</li>" for m in part.merged)
        made += (
            f'<details class="more"><summary>boundaries that could not be cut at</summary><ul>{merged}</ul></details>'
        )
    return made
