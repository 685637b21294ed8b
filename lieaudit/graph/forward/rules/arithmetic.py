"""Sums, products, quotients, powers and choices of several tensors, with broadcasting."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context, broadcast_dims, constant
from lieaudit.graph.forward.rules import Outputs, rule
from lieaudit.graph.forward.tangent import Tangent


def _of(context: Context, node: ir.Node, index: int) -> Tangent | None:
    return context.tangent(node.inputs[index])


def times(context: Context, tangent: Tangent | None, factor: ir.Value, node: ir.Node) -> Tangent | None:
    """Give t ⊙ factor in the shape of the node's output; lazily where the shape stays."""
    if tangent is None:
        return None
    out = node.outputs[0]
    dims = context.dims(out)
    if tangent.dims == dims:
        return context.scaled(tangent, factor, context.dims(factor) if factor.shape is not None else dims)
    return context.stacked(context.op("Mul", context.align(tangent, len(dims)), factor), dims)


@rule("Add", "Sub", "Sum", "Mean", name="sum")
def total(context: Context, node: ir.Node) -> Outputs:
    """d(a ± b) = da ± db; Mean divides by the number of inputs."""
    out = node.outputs[0]
    result: Tangent | None = None
    for i in range(len(node.inputs)):
        tangent = _of(context, node, i)
        if tangent is None:
            continue
        tangent = context.broadcast(tangent, out)
        minus = node.op_type == "Sub" and i == 1
        result = context.subtract(result, tangent) if minus else context.add(result, tangent)
    if node.op_type == "Mean" and result is not None:
        result = context.scaled(result, context.number(1 / len(node.inputs), out), ())
    return result


@rule("Mul", name="product")
def product(context: Context, node: ir.Node) -> Outputs:
    """d(a b) = a db + b da."""
    a, b = node.inputs
    assert a is not None  # noqa: S101 - required inputs
    assert b is not None  # noqa: S101
    return context.add(times(context, context.tangent(a), b, node), times(context, context.tangent(b), a, node))


@rule("Div", name="quotient")
def quotient(context: Context, node: ir.Node) -> Outputs:
    """d(a / b) = (da − y db) / b."""
    _, b = node.inputs
    y = node.outputs[0]
    assert b is not None  # noqa: S101 - required input
    inverse = context.op("Reciprocal", b)
    inverse.shape = b.shape
    left = times(context, _of(context, node, 0), inverse, node)
    if context.tangent(b) is None:
        return left
    ratio = context.op("Mul", y, inverse)
    ratio.shape = y.shape
    return context.subtract(left, times(context, context.tangent(b), ratio, node))


@rule("Pow", name="power")
def power(context: Context, node: ir.Node) -> Outputs:
    """d(a^b) = b a^(b−1) da + y log(a) db."""
    a, b = node.inputs
    y = node.outputs[0]
    assert a is not None  # noqa: S101 - required inputs
    assert b is not None  # noqa: S101
    base: Tangent | None = None
    if context.tangent(a) is not None:
        array = constant(b)
        exponent = float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
        if exponent == 2:
            slope = context.op("Mul", a, context.number(2, a))
        elif exponent is not None:
            lowered = context.op("Pow", a, context.number(exponent - 1, a))
            slope = context.op("Mul", lowered, context.number(exponent, a))
        else:
            cast = context.cast(b, a)
            lowered = context.op("Pow", a, context.op("Sub", cast, context.number(1, a)))
            slope = context.op("Mul", lowered, cast)
        base = times(context, context.tangent(a), slope, node)
    if context.tangent(b) is None:
        return base
    growth = context.op("Mul", y, context.op("Log", a))
    growth.shape = y.shape
    return context.add(base, times(context, context.tangent(b), growth, node))


@rule("Max", "Min", name="choice")
def extremum(context: Context, node: ir.Node) -> Outputs:
    """Give the tangent of the winner; the first of equal inputs wins, so that exactly one is counted."""
    y = node.outputs[0]
    result: Tangent | None = None
    free: ir.Value | None = None  # 1 where no earlier input has won
    for i, x in enumerate(node.inputs):
        assert x is not None  # noqa: S101 - required inputs
        equal = context.op("Equal", x, y, dtype=ir.DataType.BOOL) if context.opset >= 11 else _equal(context, x, y)
        won = context.cast(equal, y)
        if free is not None:
            won = context.op("Mul", won, free)
        won.shape = y.shape
        result = context.add(result, times(context, context.tangent(x), won, node))
        if i + 1 < len(node.inputs):
            lost = context.op("Sub", context.number(1, y), won)
            free = lost if free is None else context.op("Mul", free, lost)
    return result


def _equal(context: Context, x: ir.Value, y: ir.Value) -> ir.Value:
    """Equality of floats before opset 11 had it."""
    above = context.op("Greater", x, y, dtype=ir.DataType.BOOL)
    below = context.op("Less", x, y, dtype=ir.DataType.BOOL)
    return context.op("Not", context.op("Or", above, below, dtype=ir.DataType.BOOL), dtype=ir.DataType.BOOL)


@rule("Where", name="choice")
def where(context: Context, node: ir.Node) -> Outputs:
    """Give the tangent of the branch taken."""
    condition, a, b = node.inputs
    y = node.outputs[0]
    left, right = context.tangent(a), context.tangent(b)
    rank = context.rank(y)
    zero = context.number(0, y)
    rows = context.op(
        "Where",
        condition,
        context.align(left, rank) if left is not None else zero,
        context.align(right, rank) if right is not None else zero,
        dtype=y.dtype,
    )
    assert condition is not None  # noqa: S101 - required input
    dims = broadcast_dims((1,) * rank, context.dims(condition))
    for tangent in (left, right):
        dims = broadcast_dims(dims, tangent.dims if tangent is not None else ())
    # A constant branch may be larger than the condition and the moving branch.
    return context.broadcast(context.stacked(rows, dims), y)


@rule("PRelu", name="pointwise", accepts=lambda context, node: context.tangent(node.inputs[1]) is None)
def prelu(context: Context, node: ir.Node) -> Outputs:
    """Slope 1 above zero, the learned slope below."""
    x, slope = node.inputs
    assert x is not None  # noqa: S101 - required inputs
    assert slope is not None  # noqa: S101
    above = context.cast(context.op("Greater", x, context.number(0, x), dtype=ir.DataType.BOOL), x)
    below = context.op("Mul", context.op("Sub", context.number(1, x), above), slope)
    factor = context.op("Add", above, below)
    factor.shape = node.outputs[0].shape
    return times(context, context.tangent(x), factor, node)
