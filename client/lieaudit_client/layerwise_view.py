"""The terminal's view of a layerwise decomposition: the module tree with a signed bar of each segment's share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lieaudit_api.v1 import model_pb2, report_pb2
from rich.console import RenderableType
from rich.text import Text

from lieaudit_client.formats.columns import Column, Fitted, brief
from lieaudit_client.formats.matrix import Cell, Matrix
from lieaudit_client.formats.numbers import number, percent

TOP = 8
"""How many of the largest segments are shown where nobody says it."""
_BAR = 12
"""Characters of the bar on each side of zero."""
_QUIET = 0.005
"""Subtrees with less than this part of the summed norms are folded into one line."""
_KINDS_SHOWN = 6
_PAIRS_SHOWN = 3
_MERGED_SHOWN = 3
_KINDS_SUMMED = 2
_DEEPEST = 50
_TREE = (
    Column("segment", wraps=True),
    Column("kind", 3, wraps=True, bare=True),
    Column("share", right=True),
    Column("", 4, drawn=True),
    Column("LEE", 1, right=True),
    Column("error bar", 2, right=True),
)
_MODULES = (
    Column("module", wraps=True),
    Column("kind", wraps=True),
    Column("ops", 3, wraps=True),
    Column("layout", 1, wraps=True),
    Column("ends at", 2, wraps=True),
)


@dataclass(slots=True)
class _Node:
    """A module: its own segments and its children, in the order of the network."""

    name: str
    segments: list[report_pb2.Segment] = field(default_factory=list)
    layers: list[model_pb2.LayerInfo] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)

    def everything(self) -> Iterator[report_pb2.Segment]:
        """Return the segments of the whole subtree."""
        yield from self.segments
        for child in self.children.values():
            yield from child.everything()

    def child(self, path: Sequence[str]) -> _Node:
        """Return the node at a path below this one, made where it is not there."""
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


def layers_view(
    layers: Sequence[tuple[str, report_pb2.Layerwise]], *, top: int = TOP, trees: bool = False
) -> Iterable[RenderableType]:
    """Return the decomposition of all generators: the largest segments side by side, then how each adds up.

    ``top`` is how many segments are shown; ``trees`` adds the tree of every generator. Tensors that could not be cut at
    are the graph's, not a generator's: each is named once.
    """
    if not layers:
        return
    yield Text("\nlayers: each segment's share of the error; shares add up to 100 %, a negative one undoes others'")
    yield _largest(layers, top)
    yield Fitted(_SUMMARY, [_summary(name, found) for name, found in layers])
    if trees:
        for name, found in layers:
            yield from layerwise_view(name, found)
    else:
        yield Text(" --trees shows every segment of every generator, --top K more of the largest.", style="dim")
    yield from _merged(layers)


def _largest(layers: Sequence[tuple[str, report_pb2.Layerwise]], top: int) -> Matrix:
    """Return the segments that matter most over all generators, in the order of the network.

    What counts is a share beside the largest of its generator: where large shares cancel, as those of brightness do in
    batch normalisation, they say no more than others.
    """
    order = list(dict.fromkeys(segment.name for _, found in layers for segment in found.segments))
    shares = [_shares(found) for _, found in layers]
    most = [max((abs(share) for share in own.values()), default=0.0) or 1.0 for own in shares]
    weight = {
        name: sum(abs(own.get(name, 0.0)) / whole for own, whole in zip(shares, most, strict=True)) for name in order
    }
    loud = sorted(order, key=lambda name: -weight[name])[:top]
    rows: list[tuple[Cell, list[Cell]]] = [
        ((brief(name),), [(percent(own[name]) if name in own else "–",) for own in shares])
        for name in order
        if name in loud
    ]
    if len(order) > len(loud):
        rest = [percent(sum(v for n, v in own.items() if n not in loud)) for own in shares]
        rows.append(((f"{len(order) - len(loud)} more",), [(said,) for said in rest]))
    return Matrix("segment", [name.replace("_", " ") for name, _ in layers], rows)


def _shares(found: report_pb2.Layerwise) -> dict[str, float]:
    shares: dict[str, float] = {}
    for segment in found.segments:  # two segments of one name are one row here
        shares[segment.name] = shares.get(segment.name, 0.0) + segment.share
    return shares


_SUMMARY = (
    Column("by layer", wraps=True),
    Column("segments", 3, right=True),
    Column("largest kinds", 1, wraps=True, bare=True),
    Column("completeness", 2, right=True),
    Column("method", 4, wraps=True),
    Column("status"),
)


def _summary(name: str, found: report_pb2.Layerwise) -> list[Text]:
    kinds = sorted((t for t in found.by_kind if t.lee > 0), key=lambda t: -abs(t.share))[:_KINDS_SUMMED]
    return [
        Text(name),
        Text(str(len(found.segments))),
        Text(", ".join(f"{t.kind} {percent(t.share)}" for t in kinds)),
        Text(number(found.completeness)),
        Text(found.method.replace("_", " ")),
        Text(found.status, style="" if found.status == "ok" else "bold yellow"),
    ]


def _merged(layers: Sequence[tuple[str, report_pb2.Layerwise]]) -> Iterator[Text]:
    entries = list(dict.fromkeys((entry.what, entry.why) for _, found in layers for entry in found.merged))
    for what, why in entries[:_MERGED_SHOWN]:
        yield Text(f"not cut at {brief(what)}: {why}")
    if len(entries) > _MERGED_SHOWN:
        yield Text(f"… and {len(entries) - _MERGED_SHOWN} more tensors that were not cut at")


def layerwise_view(generator: str, found: report_pb2.Layerwise) -> Iterable[RenderableType]:
    """Return the tree of one generator with bars, the totals by kind, and the largest cancellations."""
    root = _Node("")
    for segment in found.segments:
        root.child(_path(segment.name)).segments.append(segment)
    total = sum(segment.norm for segment in found.segments)
    widest = max((abs(segment.share) for segment in found.segments), default=0.0)
    yield Text(f"\n{generator} by layer, {found.method.replace('_', ' ')}: {len(found.segments)} segments")
    yield Fitted(_TREE, list(_rows(root, "", total, widest)))
    yield Text(_kinds(found))
    for pair in found.cancellations[:_PAIRS_SHOWN]:
        yield Text(f"against each other: {brief(pair.first)} and {brief(pair.second)} ({percent(pair.inner)})")
    caption = f"completeness {number(found.completeness)} (0: the contributions add up to the whole); {found.status}"
    yield Text("; ".join([caption, *found.reasons]))


def layer_tree(layers: Iterable[model_pb2.LayerInfo]) -> Fitted:
    """Return the module tree of an inspection with each segment's layout."""
    root = _Node("")
    for layer in layers:
        root.child(_path(layer.name)).layers.append(layer)
    rows: list[list[str]] = []
    for guide, node in _walk(root, ""):
        if not node.layers:
            rows.append([guide + brief(node.name), "", "", "", ""])
        for layer in node.layers:
            ops = ", ".join(layer.ops[:6]) + (", …" if len(layer.ops) > 6 else "")
            rows.append([guide + brief(node.name), layer.kind, ops, layer.layout, layer.boundary])
    return Fitted(_MODULES, rows)


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


def _rows(node: _Node, indent: str, total: float, widest: float) -> Iterator[tuple[Text | str, ...]]:
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
            Text(indent + lead + brief(child.name), style="" if alone else "bold"),
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
    """Return a bar that grows to the right for a share and to the left for what works against the whole."""
    length = round(_BAR * abs(share) / widest) if widest > 0 else 0
    if share < 0:
        return Text(" " * (_BAR - length) + "█" * length + "│" + " " * _BAR, style="red")
    return Text(" " * _BAR + "│" + "█" * length + " " * (_BAR - length), style="green")


def _kinds(found: report_pb2.Layerwise) -> str:
    totals = [t for t in sorted(found.by_kind, key=lambda t: -abs(t.share)) if t.lee > 0][:_KINDS_SHOWN]
    return "by kind: " + ", ".join(f"{t.kind} {percent(t.share)} ({t.segments})" for t in totals)
