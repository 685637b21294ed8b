"""Ops that change the grid: padding, resizing, sampling, and weaving channels into positions."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.rows import stacked, times
from lieaudit.autodiff.tangent import Tangent
from lieaudit.graph.nodes import constant, has_input, ints_input, ints_of, required
from lieaudit.layouts.algebra import depth_to_space, padded, resampled, space_to_depth
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import convolution as convolution_adjoint
from lieaudit.ops.adjoints import rearrange as rearrange_adjoint
from lieaudit.ops.adjoints import resampling as adjoint
from lieaudit.ops.commuting import on_one_grid, only_first, spatial
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import Kind, Op, Outputs, Rule, Transpose, Use


def pad(context: Context, node: ir.Node) -> Outputs:
    """Return the padded tangent; where the graph computes the value to pad with, its tangent around it."""
    x, value = required(node, 0), node.inputs[2] if has_input(node, 2) else None
    tangent = context.tangent(x)
    result = None if tangent is None else _padded_rows(context, node, tangent)
    if context.tangent(value) is None:
        return result
    shape = context.op("Shape", x, dtype=ir.DataType.INT64)
    ones = context.op("Expand", context.number(1, x), shape)
    inside = context.op("Pad", ones, node.inputs[1], None, *node.inputs[3:], attributes=node.attributes)
    around = context.op("Sub", context.number(1, x), inside)
    around.shape = node.outputs[0].shape
    return context.add(result, times(context, context.tangent(value), around, node))


def _padded_rows(context: Context, node: ir.Node, tangent: Tangent) -> Tangent:
    """Pad with zeros where the values are padded with a constant; otherwise with the same mode."""
    rank, rows = tangent.rank, context.stack(tangent)
    mode = node.attributes.get_string("mode", "constant")
    pads = ints_of(node, "pads", 1)
    if pads is None:
        return stacked(context, node, context.op("Pad", rows, _dynamic_pads(context, node, rank), mode=mode))
    if has_input(node, 3):
        axes = [axis % rank for axis in ints_input(node, 3)]
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            full[axis], full[rank + axis] = pads[i], pads[len(axes) + i]
        pads = full
    lead = [0] * context.lead
    shifted = [*lead, *pads[:rank], *lead, *pads[rank:]]
    if context.opset >= 11:
        return stacked(context, node, context.op("Pad", rows, context.ints(shifted), mode=mode))
    return stacked(context, node, context.op("Pad", rows, pads=shifted, mode=mode))


def _dynamic_pads(context: Context, node: ir.Node, rank: int) -> ir.Value:
    """Return the pads with two zeros for the directions, where the graph computes them."""
    pads = required(node, 1)
    if has_input(node, 3):
        axes = context.ints(axis % rank for axis in ints_input(node, 3))
        count = context.length(pads)
        zeros = context.ints([0] * rank)
        halves = [context.slice(pads, [i * count // 2], [(i + 1) * count // 2], [0]) for i in range(2)]
        full = [context.op("ScatterElements", zeros, axes, half, axis=0) for half in halves]
    else:
        full = [context.slice(pads, [i * rank], [(i + 1) * rank], [0]) for i in range(2)]
    lead = [context.ints([0])] if context.lead else []
    return context.op("Concat", *lead, full[0], *lead, full[1], axis=0)


def folded(context: Context, node: ir.Node) -> Outputs:
    """Return the same op on all directions as one batch."""
    rows = context.op(node.op_type, context.fold(context.moving(node)), *node.inputs[1:], attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


def resize(context: Context, node: ir.Node) -> Outputs:
    """Return the same interpolation on all directions as one batch, zero outside where a crop extrapolates."""
    rows = context.fold(context.moving(node))
    inputs = list(node.inputs)
    inputs[0] = rows
    attributes = dict(node.attributes)
    if attributes.pop("extrapolation_value", None) is not None:
        attributes["extrapolation_value"] = ir.AttrFloat32("extrapolation_value", 0.0)
    if len(inputs) > 3 and inputs[3] is not None and ints_of(node, "axes") is None:
        # sizes names the batch too; N becomes D·N.
        sizes = inputs[3]
        rest = context.slice(sizes, [1], [len(context.dims(node.outputs[0]))], [0])
        inputs[3] = context.op("Concat", context.sizes(rows, 0, 1), rest, axis=0)
    made = context.op(node.op_type, *inputs, dtype=rows.dtype, attributes=attributes)
    return context.folded(made, context.dims(node.outputs[0]))


def _batch_kept(use: Use) -> str:
    """Refuse what resamples the first axis: the directions are folded into it."""
    if 0 not in use.active:
        return ""
    x, y, axes = required(use.node, 0), use.node.outputs[0], ints_of(use.node, "axes")
    if x.shape is None or y.shape is None or not len(x.shape):
        return "its rank is not known"
    if axes is not None and 0 not in {a % len(x.shape) for a in axes}:
        return ""
    place = 2 if use.node.op_type == "Resize" and use.opset > 10 else 1
    scales = constant(use.node.inputs[place]) if has_input(use.node, place) else None
    kept = x.shape[0] == y.shape[0] and (scales is None or scales.size == 0 or float(scales.reshape(-1)[0]) == 1)
    if not kept or axes is not None:
        return "it resamples the first axis"
    if use.node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        region = constant(use.node.inputs[1] if has_input(use.node, 1) else None)
        if region is None or region[0] != 0 or region[len(x.shape)] != 1:
            return "it crops the first axis"
    return ""


# ---- axes ---------------------------------------------------------------------------------------------------------


def _changes(tracker: Tracker, node: ir.Node, rank: int) -> list[tuple[int, int]] | None:
    """Return what a Pad adds before and after each axis; None where the graph computes it."""
    pads = tracker.ints(node, "pads", 1)
    axes = tracker.ints(node, "axes", 3) if has_input(node, 3) else list(range(rank))
    if pads is None or axes is None:
        return None
    changes = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        changes[axis] = (pads[i], pads[len(axes) + i])
    return changes


def _pad_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None or not tracker.varies(node.inputs[0]):
        return [None]
    changes = _changes(tracker, node, len(axes))
    return [resampled(axes, sizes) if changes is None else padded(axes, sizes, changes)]


def _adds_nothing(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a Pad that adds nothing, as exporters write it: equal sizes are no proof, what is cut may be put back."""
    changes = _changes(tracker, node, len(tracker.of(node.inputs[0]) or ()))
    return changes is not None and not any(map(any, changes)) and only_first(tracker, node)


def _resize_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    return [resampled(axes, sizes)] if axes is not None and sizes is not None else [None]


def _depth_to_space_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, block = tracker.of(node.inputs[0]), node.attributes["blocksize"].as_int()
    channels_first = node.attributes.get_string("mode", "DCR") == "CRD"
    return [None] if axes is None else [depth_to_space(axes, block, channels_first=channels_first)]


def _space_to_depth_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, block = tracker.of(node.inputs[0]), node.attributes["blocksize"].as_int()
    return [None] if axes is None else [space_to_depth(axes, block, channels_first=False)]


def _linear_resize(tracker: Tracker, node: ir.Node) -> bool:
    beyond = node.attributes.get_float("extrapolation_value", 0.0)
    crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    return not (crops and beyond) and spatial(tracker, node)


_RESIZE = Rule("resize", resize, ignored=(3,), nearest=(1, 2), mode="nearest", accepts=_batch_kept)
"""Of Upsample, and before opset 11, the scales are operand 1; later that is the region, which may decide sizes too."""

_FOLDED = Rule("layout", folded, ignored=(1, 2))

OPS = (
    Op("Pad", tangent=Rule("layout", pad, operands=(0, 2), ignored=(1, 3)), layout=_pad_axes,
       geometric=on_one_grid(_adds_nothing), homogeneous=on_one_grid(_adds_nothing), kind=Kind.PADDING,
       sized_by=(1,), linear=(0, 2),
       transpose=Transpose(adjoint.pad, (0, 2))),
    Op("Resize", tangent=_RESIZE, layout=_resize_axes, homogeneous=_linear_resize, kind=Kind.UPSAMPLING,
       sized_by=(1, 2, 3), linear=(0,),
       transpose=Transpose(adjoint.resize)),
    Op("Upsample", tangent=_RESIZE, layout=_resize_axes, homogeneous=_linear_resize, kind=Kind.UPSAMPLING,
       sized_by=(1,), linear=(0,),
       transpose=Transpose(adjoint.resize)),
    Op("DepthToSpace", tangent=_FOLDED, layout=_depth_to_space_axes, homogeneous=spatial, kind=Kind.UPSAMPLING,
       copies=True, linear=(0,),
       transpose=Transpose(rearrange_adjoint.depth_to_space)),
    Op("SpaceToDepth", tangent=_FOLDED, layout=_space_to_depth_axes, homogeneous=spatial, kind=Kind.DOWNSAMPLING,
       copies=True, linear=(0,),
       transpose=Transpose(rearrange_adjoint.space_to_depth)),
    Op("Col2Im", tangent=_FOLDED, sized_by=(1, 2), linear=(0,),
       transpose=Transpose(convolution_adjoint.columns)),
)  # fmt: skip
