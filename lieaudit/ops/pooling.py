"""Pooling: averages are linear, maxima follow the index of the winner."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.graph.nodes import required
from lieaudit.layouts.algebra import pooled, reduced
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import resampling as adjoint
from lieaudit.ops.commuting import spatial
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import STEP_NOTE, Kind, Op, Outputs, Rule, Transpose, Use


def average(context: Context, node: ir.Node) -> Outputs:
    """Return the same average on all directions as one batch."""
    rows = context.op(node.op_type, context.fold(context.moving(node)), attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


def max_pool(context: Context, node: ir.Node) -> Outputs:
    """Return the tangent at the winner's index; the index runs over the whole tensor (N, C, …)."""
    x, y, tangent = required(node, 0), node.outputs[0], context.moving(node)
    attributes = {name: a for name, a in node.attributes.items() if name != "storage_order"}
    indices = context.ops("MaxPool", x, outputs=2, attributes=attributes)[1]
    indices.type = ir.TensorType(ir.DataType.INT64)
    flat = context.op("Reshape", context.stack(tangent), context.ints([0, -1] if context.lead else [-1]))
    rows = context.op("Gather", flat, indices, axis=context.lead)
    return [context.stacked(rows, context.dims(y)), *[None] * (len(node.outputs) - 1)]


def global_max_pool(context: Context, node: ir.Node) -> Outputs:
    """Return the tangent at the winner, the mean over equal winners."""
    x, y, tangent = required(node, 0), node.outputs[0], context.moving(node)
    below = context.op("Less", x, y, dtype=ir.DataType.BOOL)
    mask = context.cast(context.op("Not", below, dtype=ir.DataType.BOOL), x)
    axes = list(range(2, tangent.rank))
    mask = context.op("Div", mask, context.reduce("Sum", mask, axes))
    rows = context.stack(context.scaled(tangent, mask, tangent.dims))
    return context.stacked(context.reduce("Sum", rows, context.shift(axes, tangent.rank)), context.dims(y))


def lp_pool(context: Context, node: ir.Node) -> Outputs:
    """d(Σ |x|^p)^(1/p) = Σ |x|^(p−1) sign(x) dx / y^(p−1); the window sum is an average that counts its padding."""
    x, y, tangent = required(node, 0), node.outputs[0], context.moving(node)
    p = node.attributes.get_int("p", 2)
    slope = context.op("Mul", context.op("Pow", context.op("Abs", x), context.number(p - 1, x)), context.op("Sign", x))
    weighted = context.scaled(tangent, slope, tangent.dims)
    if node.op_type == "GlobalLpPool":
        axes = list(range(2, tangent.rank))
        summed = context.stacked(
            context.reduce("Sum", context.stack(weighted), context.shift(axes, tangent.rank)), context.dims(y)
        )
    else:
        kernel = node.attributes["kernel_shape"].as_ints()
        attributes = {name: a for name, a in node.attributes.items() if name != "p"}
        attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        rows = context.op("AveragePool", context.fold(weighted), attributes=attributes)
        size = 1
        for k in kernel:
            size *= k
        summed = context.scaled(context.folded(rows, context.dims(y)), context.number(size, x), ())
    # The norm has no derivative at zero; 0 is taken there.
    power = context.op("Pow", _away_from_zero(context, y), context.number(1 - p, x))
    return context.scaled(summed, power, context.dims(y))


def _away_from_zero(context: Context, y: ir.Value) -> ir.Value:
    some = context.op("Cast", y, to=int(ir.DataType.BOOL), dtype=ir.DataType.BOOL)
    return context.op("Add", y, context.cast(context.op("Not", some, dtype=ir.DataType.BOOL), y))


def _whole_windows(use: Use) -> str:
    attributes = use.node.attributes
    if attributes.get_int("ceil_mode", 0):
        return "ceil_mode leaves windows unfinished"
    return "" if all(d == 1 for d in attributes.get_ints("dilations", [])) else "its windows are dilated"


def _pool(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    return [pooled(axes, sizes)] if axes is not None and sizes is not None else [None]


def _global_pool(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    return [None] if axes is None else [reduced(axes, range(2, len(axes)), keep=True)]


_AVERAGE, _WINNER = Rule("average", average), Rule("winner", max_pool)

OPS = (
    Op("AveragePool", tangent=_AVERAGE, layout=_pool, homogeneous=spatial, kind=Kind.POOLING, linear=(0,),
       transpose=Transpose(adjoint.average)),
    Op("GlobalAveragePool", tangent=_AVERAGE, layout=_global_pool, kind=Kind.POOLING, linear=(0,),
       transpose=Transpose(adjoint.average)),
    Op("MaxPool", tangent=_WINNER, layout=_pool, homogeneous=spatial, kind=Kind.POOLING, kinked=True),
    Op("GlobalMaxPool", tangent=Rule("winner", global_max_pool), layout=_global_pool, kind=Kind.POOLING, kinked=True),
    # its windows are of whole pixels; it gives no indices of the winners, by which tangents could be taken
    Op("MaxRoiPool", tangent=Rule("winner", operands=(), steps=(1,), differentiable=False, note=STEP_NOTE),
       kind=Kind.POOLING, kinked=True),
    Op("LpPool", tangent=Rule("average", lp_pool, accepts=_whole_windows), layout=_pool, homogeneous=spatial,
       kind=Kind.POOLING),
    Op("GlobalLpPool", tangent=Rule("average", lp_pool), layout=_global_pool, kind=Kind.POOLING),
)  # fmt: skip
