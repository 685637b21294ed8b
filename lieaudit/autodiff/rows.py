"""Rows of tangents as rules ask for them: in the shape of another value, repeated, or zero where nothing moves."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent


def stacked(context: Context, node: ir.Node, rows: ir.Value, index: int = 0) -> Tangent:
    """Return rows (D, …) as the tangent of a node's output."""
    return context.stacked(rows, context.dims(node.outputs[index]))


def reshaped(context: Context, tangent: Tangent, like: ir.Value) -> Tangent:
    """Return a tangent in the shape of a value with the same elements."""
    rows, dims = context.stack(tangent), context.dims(like)
    free = [i for i, size in enumerate(dims) if not isinstance(size, int)]
    if len(free) <= 1:
        fixed = [-1 if i in free else int(size) for i, size in enumerate(dims)]
        target = context.ints([*([0] if context.lead else []), *fixed])
    else:
        target = context.op("Shape", like, dtype=ir.DataType.INT64)
        if context.lead:
            target = context.op("Concat", context.ints([0]), target, axis=0)
    return context.stacked(context.op("Reshape", rows, target), dims)


def rows_or_zeros(context: Context, value: ir.Value) -> ir.Value:
    """Return the stacked rows of a value, zeros where it does not move."""
    tangent = context.tangent(value)
    return context.stack(tangent) if tangent is not None else zeros(context, value, value)


def zeros(context: Context, value: ir.Value, like: ir.Value) -> ir.Value:
    """Return zero rows for a value that does not move."""
    shape = context.op("Shape", value, dtype=ir.DataType.INT64)
    if context.lead:
        shape = context.op("Concat", context.count, shape, axis=0)
    return context.op("Expand", context.number(0, like), shape)


def repeat_stacked(context: Context, value: ir.Value) -> ir.Value:
    """Repeat a value for every direction: (D, *shape)."""
    if not context.lead:
        return value
    sizes = context.op("Shape", value, dtype=ir.DataType.INT64)
    return context.op("Expand", value, context.op("Concat", context.count, sizes, axis=0))


def to_back(context: Context, rows: ir.Value, rank: int) -> ir.Value:
    """Move the axis of directions behind the axes of a value of this rank."""
    return context.op("Transpose", rows, perm=[*range(1, rank + 1), 0])


def times(context: Context, tangent: Tangent | None, factor: ir.Value, node: ir.Node) -> Tangent | None:
    """Return t ⊙ factor in the shape of the node's output; lazily where the shape stays."""
    if tangent is None:
        return None
    out = node.outputs[0]
    dims = context.dims(out)
    if tangent.dims == dims:
        return context.scaled(tangent, factor, context.dims(factor) if factor.shape is not None else dims)
    return context.stacked(context.op("Mul", context.align(tangent, len(dims)), factor), dims)
