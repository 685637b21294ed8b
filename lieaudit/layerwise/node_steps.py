"""ONNX nodes as the steps from which the kind of a layer is read."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.layerwise.kinds import Grid, Step, grid_of
from lieaudit.layouts.axes import has_grid
from lieaudit.layouts.layout import layout_of
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops import Kind, is_op, lookup
from lieaudit.ops.commuting import varies_over_grid
from lieaudit.ops.convolution import is_pointwise


def step_of(node: ir.Node, tracker: Tracker) -> Step:
    """Return what the tests of kinds ask of a node."""
    entry = lookup(node)
    kind = entry.kind if entry is not None else None
    moving = [value for value in node.inputs if value is not None and tracker.varies(value)]
    convolves = kind == Kind.CONVOLUTION
    strides = tracker.ints(node, "steps", 4) if is_op(node, "Slice") else tracker.ints(node, "strides")
    return Step(
        kind=kind,
        name=node.op_type if is_op(node, node.op_type) else "",
        moving=len(moving),
        source=grid_at(node.inputs[0] if node.inputs else None, tracker),
        target=grid_at(node.outputs[0], tracker),
        vectors=all(layout_of(tracker.of(value)).kind == "vector" for value in (*moving, *node.outputs)),
        kernel=(tracker.sizes(node.inputs[1]) or ())[2:] if convolves else (),
        strides=tuple(strides or (1,)),
        pointwise=convolves and is_pointwise(tracker, node),
        contracts=kind == Kind.MATRIX_PRODUCT and _contracts_grid(node, tracker),
        positional=_positional(node, tracker),
    )


def grid_at(value: ir.Value | None, tracker: Tracker) -> Grid:
    """Return the grid of a tensor; empty where this does not depend on the image."""
    return grid_of(tracker.of(value) or ()) if tracker.varies(value) else ()


def _contracts_grid(node: ir.Node, tracker: Tracker) -> bool:
    axes = [tracker.of(v) for v in node.inputs[:2]]
    first = axes[0][-1] if axes[0] else ()
    second = axes[1][-2] if axes[1] and len(axes[1]) > 1 else ()
    return has_grid(first if tracker.varies(node.inputs[0]) else second)


def _positional(node: ir.Node, tracker: Tracker) -> bool:
    return (
        is_op(node, "Add")
        and layout_of(tracker.of(node.outputs[0])).spatial
        and sum(tracker.varies(v) for v in node.inputs) == 1
        and any(varies_over_grid(tracker, v, node.outputs[0]) for v in node.inputs if not tracker.varies(v))
    )
