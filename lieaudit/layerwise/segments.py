"""Cutting a normalised graph into segments at tensors of known layout.

A boundary is the set of all tensors that are alive between two segments, each with its own layout: behind a
convolution inside a residual block these are the block's input and the convolution's output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from lieaudit.graph.nodes import reads
from lieaudit.layerwise.commute import Prover
from lieaudit.layerwise.kinds import kind_of
from lieaudit.layerwise.modules import Path, block_paths, module_paths
from lieaudit.layerwise.node_groups import Groups
from lieaudit.layerwise.node_steps import grid_at, step_of
from lieaudit.layouts.layout import Layout, layout_of
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops import is_op, rearranges
from lieaudit.report import Skipped

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE}


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """One segment of the graph.

    Attributes
    ----------
    name
        Dotted module path; ops of a module's own forward carry the op's name behind a colon.
    path
        Its components; `depth` is their number.
    nodes
        In graph order.
    ops, kind
        Distinct op types in order; the kind of layer.
    inputs, outputs
        Tensors that depend on the image and enter from, or leave to, other segments.
    boundary, layout
        The last output and its layout.
    geometric, gain
        Whether it provably commutes with every geometric generator; with a gain.
    """

    name: str
    path: Path
    nodes: tuple[ir.Node, ...]
    ops: tuple[str, ...]
    kind: str
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    boundary: ir.Value
    layout: Layout
    geometric: bool
    gain: bool

    @property
    def depth(self) -> int:
        """Depth in the module tree, 1 at the top."""
        return max(1, len(self.path))


@dataclass(frozen=True, slots=True)
class Segmentation:
    """All segments in order, what could not be cut, and whether the names came from the exporter."""

    segments: tuple[SegmentPlan, ...]
    merged: tuple[Skipped, ...]
    named: bool


def segment(
    model: ir.Model, tracker: Tracker, *, level: str, depth: int | None = None, spatial: bool = False
) -> Segmentation:
    """Cut a graph.

    Parameters
    ----------
    model
        The normalised graph with measured shapes.
    tracker
        Its axes.
    level
        ``module``: the leaves of the module tree, or its nodes at ``depth``; ``op``: every op.
    depth
        Module paths are cut to so many components.
    spatial
        Whether the symmetry acts on the graph's output, too.
    """
    nodes = [node for node in model.graph if any(value in tracker.dependent for value in node.outputs)]
    paths = module_paths(nodes)
    named = paths is not None
    if paths is None:
        paths = block_paths(nodes)
    if level == "module" and depth is not None:
        paths = {node: path[:depth] for node, path in paths.items()}
    groups = Groups(nodes, tracker.holders)
    if level == "module":
        groups.join_equal(paths)
        _absorb_glue(groups)
    batched = any(atom.role == "batch" for axis in tracker.axes[model.graph.inputs[0]] for atom in axis)
    unknown = [
        v
        for node in nodes
        for v in node.outputs
        if (_blocks(v, tracker) or (batched and v.uses() and not _of_images(v, tracker))) and not v.is_graph_output()
    ]
    merged = []
    members: dict[int, list[ir.Node]] = {}
    for node in nodes:
        members.setdefault(groups.group_of(node), []).append(node)
    for value, joined in groups.join_through(unknown):
        names = [".".join(_common(members[g], paths)) or "the model" for g in joined if g in members]
        members[groups.find(joined[0])] = [n for g in joined for n in members.pop(g, [])]
        if not _recropped(value, tracker):
            einops = layout_of(tracker.axes.get(value)).einops
            merged.append(
                Skipped(value.name or "", f"layout ({einops}) is unknown: one segment with {', '.join(names)}")
            )
    prover = Prover(tracker, model.graph.outputs[0], spatial=spatial)
    plans = [_plan(part, paths, tracker, prover) for part in groups.ordered()]
    return Segmentation(tuple(_unique(plans)), tuple(merged), named)


def _absorb_glue(groups: Groups) -> None:
    """Join groups that only rearrange to the group that feeds them, or else to the one that follows."""
    by_group: dict[int, list[ir.Node]] = {}
    for node in groups.nodes:
        by_group.setdefault(groups.group_of(node), []).append(node)
    for group, nodes in by_group.items():
        if all(map(rearranges, nodes)):
            here = groups.find(group)
            neighbours = [*sorted(groups.producers(here)), *sorted(groups.consumers(here))]
            any(groups.join(other, here) for other in neighbours)


def _blocks(value: ir.Value, tracker: Tracker) -> bool:
    """Whether no boundary may pass through a tensor."""
    if not value.uses():
        return False
    if value.dtype is not None and value.dtype not in _FLOATS:
        return True
    return not layout_of(tracker.axes.get(value)).known or _recropped(value, tracker)


def _of_images(value: ir.Value, tracker: Tracker) -> bool:
    """Whether a tensor has a part for each image; the mean over a batch has none, and its rows would mix images."""
    return any(atom.role == "batch" for axis in tracker.axes.get(value, ()) for atom in axis)


def _recropped(value: ir.Value, tracker: Tracker) -> bool:
    """Whether a tensor is a piece of a grid that a Concat puts together again: half of a cyclic roll."""
    cropped = any(atom.crop is not None for axis in tracker.axes.get(value, ()) for atom in axis)
    return cropped and any(
        is_op(node, "Concat") and not any(a.crop for axis in tracker.axes.get(node.outputs[0], ()) for a in axis)
        for node in tracker.readers(value)
    )


def _plan(nodes: Sequence[ir.Node], paths: Mapping[ir.Node, Path], tracker: Tracker, prover: Prover) -> SegmentPlan:
    inside = set(nodes)
    inputs = [v for n in nodes for v in reads(n) if v in tracker.dependent and v.producer() not in inside]
    outputs = [
        v for n in nodes for v in n.outputs if v.is_graph_output() or any(u not in inside for u in tracker.readers(v))
    ]
    boundary = outputs[-1]
    return SegmentPlan(
        name=".".join(_common(nodes, paths)),
        path=_common(nodes, paths),
        nodes=tuple(nodes),
        ops=tuple(dict.fromkeys(n.op_type for n in nodes)),
        kind=kind_of([step_of(n, tracker) for n in nodes], grid_at(next(iter(tracker.axes)), tracker)),
        inputs=tuple(dict.fromkeys(inputs)),
        outputs=tuple(dict.fromkeys(outputs)),
        boundary=boundary,
        layout=layout_of(tracker.axes.get(boundary)),
        geometric=all(prover.geometric(n) for n in nodes),
        gain=all(prover.gain(n) for n in nodes),
    )


def _common(nodes: Sequence[ir.Node], paths: Mapping[ir.Node, Path]) -> Path:
    """Return the beginning that the nodes' paths share; nodes that only rearrange have no say beside others."""
    own = [paths[n] for n in nodes if not rearranges(n)] or [paths[n] for n in nodes]
    length = min(map(len, own))
    while length and any(p[:length] != own[0][:length] for p in own):
        length -= 1
    return own[0][:length]


def _unique(plans: Sequence[SegmentPlan]) -> Iterable[SegmentPlan]:
    """Add the ops to names that several segments share, then a number."""
    counts: dict[str, int] = {}
    for plan in plans:
        counts[plan.name] = counts.get(plan.name, 0) + 1
    used: dict[str, int] = {}
    for plan in plans:
        name = plan.name
        if counts[name] > 1 or not name:
            name = f"{name}:{_short(plan)}" if name else _short(plan)
        used[name] = used.get(name, 0) + 1
        yield replace(plan, name=f"{name}#{used[name]}" if used[name] > 1 else name)


def _short(plan: SegmentPlan) -> str:
    """Return a word for a segment of several: its only op, or its kind."""
    ops = list(dict.fromkeys(node.op_type for node in plan.nodes if not rearranges(node)))
    return ops[0] if len(ops) == 1 else plan.kind.replace(" ", "_")
