"""Ops that rename, move or repeat the elements of a tensor: linear, applied to the rows as to the values."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.rows import reshaped, stacked, zeros
from lieaudit.graph.nodes import constant, has_input, required
from lieaudit.layouts.algebra import expanded, joined, permuted, squeezed, unsqueezed
from lieaudit.layouts.axes import reshape as reshape_axes
from lieaudit.layouts.axes import size_of
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import rearrange as adjoint
from lieaudit.ops.commuting import (
    always,
    at_inference,
    axis_has_grid,
    between_floats,
    constant_over_grid,
    constants,
    on_one_grid,
    spatial_operands,
)
from lieaudit.ops.elementwise_axes import Result, unary
from lieaudit.ops.op import ALL, FLOATS, Kind, Layout, Op, Outputs, Rule, Transpose, TransposeApply, Use


def identity(context: Context, node: ir.Node) -> Outputs:
    """Pass on the tangent; Dropout does nothing at inference."""
    return [context.moving(node), *[None] * (len(node.outputs) - 1)]


def cast(context: Context, node: ir.Node) -> Outputs:
    """Pass on the tangent: a cast between floats is the identity (its rounding is the value's own)."""
    tangent = context.tangent(node.inputs[0])
    y = node.outputs[0]
    if tangent is None or y.dtype not in FLOATS:
        return None
    if required(node, 0).dtype == y.dtype:
        return tangent
    return stacked(context, node, context.cast(context.stack(tangent), y))


def transpose(context: Context, node: ir.Node) -> Outputs:
    """Transpose of the axes behind the directions."""
    tangent = context.moving(node)
    perm = node.attributes.get_ints("perm", list(reversed(range(tangent.rank))))
    lead = list(range(context.lead))
    rows = context.op("Transpose", context.stack(tangent), perm=lead + [p + context.lead for p in perm])
    return stacked(context, node, rows)


def reshape(context: Context, node: ir.Node) -> Outputs:
    """Reshape with the axis of directions kept in front."""
    tangent, shape = context.moving(node), required(node, 1)
    rows = context.stack(tangent)
    if not context.lead:
        return stacked(context, node, context.op("Reshape", rows, shape, attributes=node.attributes))
    if node.attributes.get_int("allowzero", 0):
        # A zero is a size here: the number of directions has to be given.
        target = context.op("Concat", context.count, shape, axis=0)
        return stacked(context, node, context.op("Reshape", rows, target, attributes=node.attributes))
    array = constant(shape)
    # 0 keeps the size at its place, and every place moved by one on both sides.
    target = (
        context.op("Concat", context.ints([0]), shape, axis=0)
        if array is None
        else context.ints([0, *(int(v) for v in array.reshape(-1))])
    )
    return stacked(context, node, context.op("Reshape", rows, target))


def flatten(context: Context, node: ir.Node) -> Outputs:
    """Reshape to the output's shape."""
    return reshaped(context, context.moving(node), node.outputs[0])


def squeeze(context: Context, node: ir.Node) -> Outputs:
    """Drop or insert axes of size 1: a reshape to the output's shape."""
    return reshaped(context, context.moving(node), node.outputs[0])


def concat_rows(context: Context, node: ir.Node) -> Outputs:
    """Concatenate the tangents, zeros where an input does not move."""
    out = node.outputs[0]
    rank = context.rank(out)
    axis = node.attributes.get_int("axis", 1) % rank
    tangents = [context.tangent(value) for value in node.inputs]
    bare = [None if t is None else context.multiplied(t) for t in tangents]
    if axis > 0 and all(t is not None and t.folded is not None for t in bare):
        folded = [t.folded for t in bare if t is not None]
        return context.folded(context.op("Concat", *folded, axis=axis), context.dims(out))
    like = next(t for t in bare if t is not None)
    parts = [
        zeros(context, value, context.stack(like)) if t is None else context.stack(t)
        for value, t in zip(node.inputs, bare, strict=True)
        if value is not None
    ]
    return stacked(context, node, context.op("Concat", *parts, axis=axis + context.lead))


def tile(context: Context, node: ir.Node) -> Outputs:
    """Tile, once along the directions."""
    repeats = node.inputs[1]
    if context.lead:
        repeats = context.op("Concat", context.ints([1]), repeats, axis=0)
    return stacked(context, node, context.op("Tile", context.stack(context.moving(node)), repeats))


def expand(context: Context, node: ir.Node) -> Outputs:
    """Broadcast to the output's shape."""
    return context.broadcast(context.moving(node), node.outputs[0])


def _inference(use: Use) -> str:
    return "it may be in training mode" if _drops(use) else ""


def _drops(use: Use) -> str:
    """Say that a Dropout is in training mode, or may be; one of nothing passes all on."""
    mode = use.node.inputs[2] if has_input(use.node, 2) else None
    ratio = constant(use.node.inputs[1]) if has_input(use.node, 1) else None
    trains = constant(mode)
    if mode is None or (trains is not None and not trains.any()) or (ratio is not None and not ratio.any()):
        return ""
    return "drops at random" if trains is not None else f"drops at random where {mode.name!r} says so"


# ---- axes ---------------------------------------------------------------------------------------------------------


def _transpose_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None]
    perm = tracker.ints(node, "perm") or list(range(len(axes)))[::-1]
    return [permuted(axes, perm)]


def _reshape_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    return [reshape_axes(axes, sizes)] if axes is not None and sizes is not None else [None]


def _squeeze_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None]
    dropped = tracker.ints(node, "axes", 1)
    gone = (
        {i % len(axes) for i in dropped} if dropped is not None else {i for i, a in enumerate(axes) if size_of(a) == 1}
    )
    return [squeezed(axes, gone)]


def _unsqueeze_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, added = tracker.of(node.inputs[0]), tracker.ints(node, "axes", 1)
    if axes is None or added is None:
        return [None]
    rank = len(axes) + len(added)
    return [unsqueezed(axes, {i % rank for i in added})]


def _expand_axes(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None:
        return [None]
    return [expanded(axes, sizes)]


def _concat_axes(tracker: Tracker, node: ir.Node) -> Result:
    operands = [tracker.of(value) for value in node.inputs]
    if any(o is None for o in operands):
        return [None]
    known = [o for o in operands if o is not None]
    return [joined(known, node.attributes["axis"].as_int() % len(known[0]))]


# ---- commuting ----------------------------------------------------------------------------------------------------


def _joined(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a Concat of channels, or of prefix tokens before or after a grid."""
    at = node.attributes["axis"].as_int()
    if _prefixed(tracker, node):
        axes = tracker.of(node.outputs[0]) or ()
        return any(atom.role == "tokens" for atom in axes[at])
    return constant_over_grid(tracker, node)


def _prefixed(tracker: Tracker, node: ir.Node) -> bool:
    return axis_has_grid(tracker, node.outputs[0], node.attributes["axis"].as_int())


def _joined_alike(tracker: Tracker, node: ir.Node) -> bool:
    """Prove the same for a gain, under which constant channels stay what they are."""
    if on_one_grid(_joined)(tracker, node):
        return _prefixed(tracker, node) or not constants(tracker, node)
    return spatial_operands(tracker, node)


_ALWAYS, _FLOATING, _INFERENCE = on_one_grid(always), on_one_grid(between_floats), on_one_grid(at_inference)
_LAYOUT = "layout"


def _same(
    name: str, rule: Rule, layout: Layout, back: TransposeApply, *, view: bool = True, sized_by: Container[int] = ()
) -> Op:
    """Return the entry of an op that keeps every element."""
    return Op(name, tangent=rule, layout=layout, geometric=_ALWAYS, homogeneous=_ALWAYS, kind=Kind.REARRANGEMENT,
              view=view, copies=True, sized_by=sized_by,
              linear=(0,), transpose=Transpose(back))  # fmt: skip


OPS = (
    _same("Identity", Rule("identity", identity), unary, adjoint.identity),
    _same("Reshape", Rule(_LAYOUT, reshape, ignored=(1,)), _reshape_axes, adjoint.renamed, sized_by=(1,)),
    _same("Flatten", Rule(_LAYOUT, flatten), _reshape_axes, adjoint.renamed),
    _same("Squeeze", Rule(_LAYOUT, squeeze, ignored=(1,)), _squeeze_axes, adjoint.renamed),
    _same("Unsqueeze", Rule(_LAYOUT, squeeze, ignored=(1,)), _unsqueeze_axes, adjoint.renamed),
    _same("Transpose", Rule(_LAYOUT, transpose), _transpose_axes, adjoint.transpose, view=False),
    Op("Dropout", tangent=Rule("identity", identity, ignored=(1, 2), accepts=_inference), layout=unary,
       geometric=_INFERENCE, homogeneous=_INFERENCE, kind=Kind.REARRANGEMENT, linear=(0,),
       transpose=Transpose(adjoint.identity), random=_drops),
    Op("Cast", tangent=Rule("cast", cast), layout=unary, geometric=_FLOATING, homogeneous=_FLOATING,
       kind=Kind.REARRANGEMENT, linear=(0,),
       transpose=Transpose(adjoint.cast)),
    Op("CastLike", tangent=Rule("cast", cast, ignored=(1,)), layout=unary, geometric=_FLOATING,
       homogeneous=_FLOATING, kind=Kind.REARRANGEMENT, linear=(0,),
       transpose=Transpose(adjoint.cast)),
    Op("Concat", tangent=Rule(_LAYOUT, concat_rows, operands=ALL), layout=_concat_axes, geometric=on_one_grid(_joined),
       homogeneous=_joined_alike, linear=ALL,
       transpose=Transpose(adjoint.concat, ALL)),
    Op("Tile", tangent=Rule(_LAYOUT, tile, ignored=(1,)), layout=_expand_axes, copies=True, sized_by=(1,), linear=(0,),
       transpose=Transpose(adjoint.tile)),
    Op("Expand", tangent=Rule(_LAYOUT, expand, ignored=(1,)), layout=_expand_axes, copies=True, sized_by=(1,),
       linear=(0,),
       transpose=Transpose(adjoint.expand)),
)  # fmt: skip
