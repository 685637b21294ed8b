"""Pooling: averages are linear, maxima follow the index of the winner."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import Outputs, rule


@rule("AveragePool", "GlobalAveragePool", name="average")
def average(context: Context, node: ir.Node) -> Outputs:
    """Give the same average on all directions as one batch."""
    tangent = context.tangent(node.inputs[0])
    assert tangent is not None  # noqa: S101 - the only input
    rows = context.op(node.op_type, context.fold(tangent), attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


@rule("MaxPool", name="winner")
def max_pool(context: Context, node: ir.Node) -> Outputs:
    """Give the tangent at the winner's index; the index runs over the whole tensor (N, C, …)."""
    x, y = node.inputs[0], node.outputs[0]
    tangent = context.tangent(x)
    assert tangent is not None  # noqa: S101 - the only input
    attributes = {name: a for name, a in node.attributes.items() if name != "storage_order"}
    indices = context.ops("MaxPool", x, outputs=2, attributes=attributes)[1]
    indices.type = ir.TensorType(ir.DataType.INT64)
    flat = context.op("Reshape", context.stack(tangent), context.ints([0, -1] if context.lead else [-1]))
    rows = context.op("Gather", flat, indices, axis=context.lead)
    return [context.stacked(rows, context.dims(y)), *[None] * (len(node.outputs) - 1)]


@rule("GlobalMaxPool", name="winner")
def global_max_pool(context: Context, node: ir.Node) -> Outputs:
    """Give the tangent at the winner, the mean over equal winners."""
    x, y = node.inputs[0], node.outputs[0]
    tangent = context.tangent(x)
    assert tangent is not None  # noqa: S101 - the only input
    assert x is not None  # noqa: S101
    below = context.op("Less", x, y, dtype=ir.DataType.BOOL)
    mask = context.cast(context.op("Not", below, dtype=ir.DataType.BOOL), x)
    axes = list(range(2, tangent.rank))
    mask = context.op("Div", mask, context.reduce("Sum", mask, axes))
    rows = context.stack(context.scaled(tangent, mask, tangent.dims))
    return context.stacked(context.reduce("Sum", rows, context.shift(axes, tangent.rank)), context.dims(y))


@rule("LpPool", "GlobalLpPool", name="average", accepts=lambda _c, n: _whole_windows(n))
def lp_pool(context: Context, node: ir.Node) -> Outputs:
    """d(Σ |x|^p)^(1/p) = Σ |x|^(p−1) sign(x) dx / y^(p−1); the window sum is an average that counts its padding."""
    x, y = node.inputs[0], node.outputs[0]
    tangent = context.tangent(x)
    assert tangent is not None  # noqa: S101 - the only input
    assert x is not None  # noqa: S101
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
    power = context.op("Pow", y, context.number(1 - p, x))
    return context.scaled(summed, power, context.dims(y))


def _whole_windows(node: ir.Node) -> bool:
    dilations = node.attributes.get_ints("dilations", [])
    return not node.attributes.get_int("ceil_mode", 0) and all(d == 1 for d in dilations)
