"""Ops that pick elements: by place, by index, by a condition, by order."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.rows import repeat_stacked, stacked, to_back
from lieaudit.graph.nodes import has_input, ints_input, ints_of, required
from lieaudit.layouts.algebra import replaced, sliced, taken
from lieaudit.layouts.axes import Axes, normalise, plain, size_of, slice_axis, without_position
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import rearrange as rearrange_adjoint
from lieaudit.ops.adjoints import selection as adjoint
from lieaudit.ops.commuting import on_one_grid, spatial, subset
from lieaudit.ops.elementwise_axes import Result, unary
from lieaudit.ops.op import ALL, Op, Outputs, Rule, Transpose, Use


def split(context: Context, node: ir.Node) -> Outputs:
    """Split along the shifted axis."""
    tangent = context.moving(node)
    attributes = dict(node.attributes)
    axis = node.attributes.get_int("axis", 0)
    attributes["axis"] = ir.AttrInt64("axis", context.shift([axis], tangent.rank)[0])
    rows = context.ops(
        "Split", context.stack(tangent), *node.inputs[1:], outputs=len(node.outputs), attributes=attributes
    )
    return [stacked(context, node, r, i) for i, r in enumerate(rows)]


def slice_(context: Context, node: ir.Node) -> Outputs:
    """Slice along the shifted axes."""
    tangent = context.moving(node)
    rows = context.stack(tangent)
    if "starts" in node.attributes:
        starts, ends = ints_of(node, "starts"), ints_of(node, "ends")
        axes = ints_of(node, "axes") or list(range(len(starts or ())))
        axes = context.shift(axes, tangent.rank)
        return stacked(context, node, context.op("Slice", rows, starts=starts, ends=ends, axes=axes))
    if has_input(node, 3):
        axes_value = context.ints(context.shift(ints_input(node, 3), tangent.rank))
    else:
        axes_value = context.ints(context.shift(range(context.length(required(node, 1))), tangent.rank))
    return stacked(
        context, node, context.op("Slice", rows, node.inputs[1], node.inputs[2], axes_value, *node.inputs[4:])
    )


def gather(context: Context, node: ir.Node) -> Outputs:
    """Gather along the shifted axis."""
    tangent = context.moving(node)
    axis = context.shift([node.attributes.get_int("axis", 0)], tangent.rank)[0]
    return stacked(context, node, context.op("Gather", context.stack(tangent), node.inputs[1], axis=axis))


def gather_elements(context: Context, node: ir.Node) -> Outputs:
    """Gather elements with the indices repeated for every direction."""
    tangent, indices = context.moving(node), required(node, 1)
    axis = context.shift([node.attributes.get_int("axis", 0)], tangent.rank)[0]
    return stacked(
        context,
        node,
        context.op("GatherElements", context.stack(tangent), repeat_stacked(context, indices), axis=axis),
    )


def gather_nd(context: Context, node: ir.Node) -> Outputs:
    """GatherND with the axis of directions as one more batch axis."""
    tangent, indices = context.moving(node), required(node, 1)
    batch = node.attributes.get_int("batch_dims", 0) + context.lead
    rows = context.op("GatherND", context.stack(tangent), repeat_stacked(context, indices), batch_dims=batch or None)
    return stacked(context, node, rows)


def reverse_sequence(context: Context, node: ir.Node) -> Outputs:
    """Reverse on rows transposed so that the directions come last (the op wants batch and time in front)."""
    tangent = context.moving(node)
    rows = context.stack(tangent)
    if context.lead:
        rows = to_back(context, rows, tangent.rank)
    rows = context.op("ReverseSequence", rows, node.inputs[1], attributes=node.attributes)
    if context.lead:
        rows = context.op("Transpose", rows, perm=[tangent.rank, *range(tangent.rank)])
    return stacked(context, node, rows)


def compress(context: Context, node: ir.Node) -> Outputs:
    """Keep the slices the condition names."""
    tangent = context.moving(node)
    axis = node.attributes.get_int("axis", None)
    if axis is None:
        rows = context.op("Reshape", context.stack(tangent), context.ints([0, -1] if context.lead else [-1]))
        made = context.op("Compress", rows, node.inputs[1], axis=context.lead)
    else:
        shifted = context.shift([axis], tangent.rank)[0]
        made = context.op("Compress", context.stack(tangent), node.inputs[1], axis=shifted)
    return stacked(context, node, made)


def trilu(context: Context, node: ir.Node) -> Outputs:
    """Return the triangle of the last two axes."""
    rows = context.op("Trilu", context.stack(context.moving(node)), *node.inputs[1:], attributes=node.attributes)
    return stacked(context, node, rows)


def top_k(context: Context, node: ir.Node) -> Outputs:
    """Return the tangents at the chosen indices."""
    tangent = context.moving(node)
    axis = context.shift([node.attributes.get_int("axis", -1)], tangent.rank)[0]
    indices = node.outputs[1] if len(node.outputs) > 1 else _chosen(context, node)
    rows = context.op("GatherElements", context.stack(tangent), repeat_stacked(context, indices), axis=axis)
    return [stacked(context, node, rows), None]


def _chosen(context: Context, node: ir.Node) -> ir.Value:
    """Return the indices of a TopK that leaves them out."""
    indices = context.ops("TopK", *node.inputs, outputs=2, attributes=node.attributes)[1]
    indices.type, indices.shape = ir.TensorType(ir.DataType.INT64), node.outputs[0].shape
    return indices


def unique(context: Context, node: ir.Node) -> Outputs:
    """Return the tangents of the first of each group of equal elements."""
    x, tangent = required(node, 0), context.moving(node)
    indices = context.ops("Unique", x, outputs=2, attributes=node.attributes)[1]
    indices.type = ir.TensorType(ir.DataType.INT64)
    rows, axis = context.stack(tangent), node.attributes.get_int("axis", None)
    if axis is None:
        rows, axis = context.op("Reshape", rows, context.ints([0, -1] if context.lead else [-1])), -1
    else:
        axis = context.shift([axis], tangent.rank)[0]
    return [stacked(context, node, context.op("Gather", rows, indices, axis=axis)), *[None] * (len(node.outputs) - 1)]


def _with_k(use: Use) -> str:
    return "" if use.opset >= 11 else "before opset 11 its order is not stated"


# ---- axes ---------------------------------------------------------------------------------------------------------


def _split_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None] * len(node.outputs)
    at = node.attributes["axis"].as_int() % len(axes) if "axis" in node.attributes else 0
    start, out = 0, []
    for value in node.outputs:
        sizes = tracker.sizes(value)
        if sizes is None:
            return [None] * len(node.outputs)
        out.append(replaced(axes, at, slice_axis(axes[at], start, 1, sizes[at])))
        start += sizes[at]
    return list(out)


def _slice_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    starts = tracker.ints(node, "starts", 1)
    if axes is None or sizes is None:
        return [None]
    at = tracker.ints(node, "axes", 3)
    if at is None:
        at = list(range(len(starts or ())))
    steps = tracker.ints(node, "steps", 4) or [1] * len(at)
    out = list(axes)
    for i, place in enumerate(at):
        axis = place % len(axes)
        size = size_of(axes[axis])
        if sizes[axis] == size and steps[i] == 1:
            continue
        if starts is None:
            out[axis] = plain("unknown", sizes[axis])
            continue
        start = min(max(starts[i] + size if starts[i] < 0 else starts[i], 0), size)
        out[axis] = sliced(axes[axis], start, steps[i], sizes[axis])
    return [normalise(tuple(out))]


def _gather_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    indices = tracker.constant(node.inputs[1])
    if axes is None or sizes is None or not tracker.varies(node.inputs[0]) or tracker.varies(node.inputs[1]):
        return [None]
    at = node.attributes["axis"].as_int() % len(axes) if "axis" in node.attributes else 0
    shape = tracker.sizes(node.inputs[1])
    if shape is None:
        return [None]
    size = size_of(axes[at])
    if indices is None:
        picked: Axes = tuple(plain("channel" if without_position(axes[at]) else "unknown", n) for n in shape)
    elif indices.ndim == 0:
        picked = ()
    else:
        flat = indices.reshape(-1) % size
        picked = (taken(axes[at], flat.tolist()),) if indices.ndim == 1 else tuple(plain("unknown", n) for n in shape)
    return [replaced(axes, at, *picked)]


def _subset_alike(tracker: Tracker, node: ir.Node) -> bool:
    """Prove it for a gain, under which a part of a grid is one, too."""
    return on_one_grid(subset)(tracker, node) or spatial(tracker, node)


_LAYOUT = "layout"
_SUBSET = on_one_grid(subset)

OPS = (
    Op("Split", tangent=Rule(_LAYOUT, split, outputs=ALL, ignored=(1,)), layout=_split_axes, geometric=_SUBSET,
       homogeneous=_subset_alike, copies=True, sized_by=(1,), linear=(0,),
       transpose=Transpose(rearrange_adjoint.split)),
    Op("Slice", tangent=Rule(_LAYOUT, slice_, ignored=(1, 2, 3, 4)), layout=_slice_axes, geometric=_SUBSET,
       homogeneous=_subset_alike, copies=True, sized_by=(1, 2, 4), linear=(0,),
       transpose=Transpose(adjoint.slice_)),
    Op("Gather", tangent=Rule(_LAYOUT, gather, ignored=(1,)), layout=_gather_axes, geometric=_SUBSET,
       homogeneous=_SUBSET, copies=True, linear=(0,),
       transpose=Transpose(adjoint.gather)),
    Op("GatherElements", tangent=Rule(_LAYOUT, gather_elements, ignored=(1,)), copies=True, linear=(0,),
       transpose=Transpose(adjoint.gather_elements)),
    Op("GatherND", tangent=Rule(_LAYOUT, gather_nd, ignored=(1,)), copies=True, linear=(0,),
       transpose=Transpose(adjoint.gather_nd)),
    Op("ReverseSequence", tangent=Rule(_LAYOUT, reverse_sequence, ignored=(1,)), copies=True, linear=(0,),
       transpose=Transpose(adjoint.reverse_sequence)),
    Op("Compress", tangent=Rule(_LAYOUT, compress, ignored=(1,)), copies=True, sized_by=(1,), linear=(0,),
       transpose=Transpose(adjoint.compress)),
    Op("Trilu", tangent=Rule(_LAYOUT, trilu, ignored=(1,)), layout=unary, linear=(0,),
       transpose=Transpose(adjoint.trilu)),
    Op("TopK", tangent=Rule("winner", top_k, ignored=(1,), accepts=_with_k), kinked=True, sized_by=(1,)),
    Op("Unique", tangent=Rule("winner", unique), sized_by=(0,)),
)  # fmt: skip
