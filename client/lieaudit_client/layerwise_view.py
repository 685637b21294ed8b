"""The terminal's view of a layerwise decomposition: the module tree with a signed bar of each segment's share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lieaudit_api.v1 import model_pb2, report_pb2
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.numbers import number, percent

_BAR = 12
"""Characters of the bar on each side of zero."""
_QUIET = 0.005
"""Subtrees with less than this part of the summed norms are folded into one line."""
_KINDS_SHOWN = 6
_PAIRS_SHOWN = 3
_MERGED_SHOWN = 3
_DEEPEST = 50
_NAME_WIDTH = 60


@dataclass(slots=True)
class _Node:
    """A module: its own segments and its children, in the order of the network."""

    name: str
    segments: list[report_pb2.Segment] = field(default_factory=list)
    layers: list[model_pb2.LayerInfo] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)

    def everything(self) -> Iterator[report_pb2.Segment]:
        """Give the segments of the whole subtree."""
        yield from self.segments
        for child in self.children.values():
            yield from child.everything()

    def child(self, path: Sequence[str]) -> _Node:
        """Give the node at a path below this one, made where it is not there."""
        if not path:
            return self
        return self.children.setdefault(path[0], _Node(path[0])).child(path[1:])

    def folded(self) -> _Node:
        """Join chains of modules that have one child and nothing of their own into one line."""
        node = self
        while len(node.children) == 1 and not node.segments and not node.layers and node.name:
            (only,) = node.children.values()
            node = _Node(f"{node.name}.{only.name}", only.segments, only.layers, only.children)
        return node


def layerwise_view(generator: str, found: report_pb2.Layerwise) -> Iterable[RenderableType]:
    """Give the tree of one generator with bars, the totals by kind, the largest cancellations and what was merged."""
    root = _Node("")
    for segment in found.segments:
        root.child(_path(segment.name)).segments.append(segment)
    total = sum(segment.norm for segment in found.segments)
    widest = max((abs(segment.share) for segment in found.segments), default=0.0)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("segment", no_wrap=True, max_width=_NAME_WIDTH)
    table.add_column("kind")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)
    for name in ("LEE", "error bar"):
        table.add_column(name, justify="right")
    for row in _rows(root, "", total, widest):
        table.add_row(*row)
    yield Text(f"\n{generator} by layer, {found.method.replace('_', ' ')}: {len(found.segments)} segments")
    yield table
    yield Text(_kinds(found))
    for pair in found.cancellations[:_PAIRS_SHOWN]:
        yield Text(f"against each other: {pair.first} and {pair.second} ({percent(pair.inner)})")
    for entry in found.merged[:_MERGED_SHOWN]:
        yield Text(f"not cut at {entry.what}: {entry.why}")
    if len(found.merged) > _MERGED_SHOWN:
        yield Text(f"… and {len(found.merged) - _MERGED_SHOWN} more tensors that were not cut at")
    caption = f"completeness {number(found.completeness)} (0: the contributions add up to the whole); {found.status}"
    yield Text("; ".join([caption, *found.reasons]))


def layer_tree(layers: Iterable[model_pb2.LayerInfo]) -> Table:
    """Give the module tree of an inspection with each segment's layout."""
    root = _Node("")
    for layer in layers:
        root.child(_path(layer.name)).layers.append(layer)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("module", no_wrap=True, max_width=_NAME_WIDTH)
    for name in ("kind", "ops", "layout", "ends at"):
        table.add_column(name)
    for guide, node in _walk(root, ""):
        if not node.layers:
            table.add_row(Text(guide + node.name), "", "", "", "")
        for layer in node.layers:
            ops = ", ".join(layer.ops[:6]) + (", …" if len(layer.ops) > 6 else "")
            table.add_row(
                Text(guide + node.name), Text(layer.kind), Text(ops), Text(layer.layout), Text(layer.boundary)
            )
    return table


def _path(name: str) -> list[str]:
    """Split ``layer1.0:Relu`` into layer1, 0 and :Relu; what is nested deeper than any module is left in one piece."""
    parts = [part for part in re.split(r"\.|(?=:)", name) if part]
    return parts if len(parts) <= _DEEPEST else [*parts[:_DEEPEST], ".".join(parts[_DEEPEST:])]


def _walk(node: _Node, indent: str) -> Iterator[tuple[str, _Node]]:
    children = [child.folded() for child in node.children.values()]
    for place, child in enumerate(children):
        last = place == len(children) - 1
        yield indent + ("└ " if last else "├ "), child
        yield from _walk(child, indent + ("  " if last else "│ "))


def _rows(node: _Node, indent: str, total: float, widest: float) -> Iterator[tuple[RenderableType, ...]]:
    children = [child.folded() for child in node.children.values()]
    children[:0] = [_Node("(itself)" if node.name else segment.name, [segment]) for segment in node.segments]
    loud = [c for c in children if sum(s.norm for s in c.everything()) > _QUIET * total]
    for place, child in enumerate(loud):
        last = place == len(loud) - 1 and len(loud) == len(children)
        lead = "└ " if last else "├ "
        own = list(child.everything())
        share, lee = sum(s.share for s in own), sum(s.lee for s in own)
        alone = len(own) == 1
        yield (
            Text(indent + lead + child.name, style="" if alone else "bold"),
            Text(own[0].kind if alone else ""),
            percent(share),
            _bar(share, widest) if alone else Text(""),
            number(lee) if alone else "",
            f"±{number(own[0].error_bar)}" if alone else "",
        )
        if not alone:
            yield from _rows(child, indent + ("  " if last else "│ "), total, widest)
    quiet = sum(len(list(c.everything())) for c in children if c not in loud)
    if quiet:
        share = sum(s.share for c in children if c not in loud for s in c.everything())
        yield Text(f"{indent}└ {quiet} more", style="dim"), "", percent(share), Text(""), "", ""


def _bar(share: float, widest: float) -> Text:
    """Give a bar that grows to the right for a share and to the left for what works against the whole."""
    length = round(_BAR * abs(share) / widest) if widest > 0 else 0
    if share < 0:
        return Text(" " * (_BAR - length) + "█" * length + "│" + " " * _BAR, style="red")
    return Text(" " * _BAR + "│" + "█" * length + " " * (_BAR - length), style="green")


def _kinds(found: report_pb2.Layerwise) -> str:
    totals = [t for t in sorted(found.by_kind, key=lambda t: -abs(t.share)) if t.lee > 0][:_KINDS_SHOWN]
    return "by kind: " + ", ".join(f"{t.kind} {percent(t.share)} ({t.segments})" for t in totals)
