"""Softmax and its logarithm."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import Outputs, rule


def _axes(context: Context, node: ir.Node) -> tuple[list[int], int]:
    x = node.inputs[0]
    assert x is not None  # noqa: S101 - required input
    rank = context.rank(x)
    if context.opset >= 13:
        return [node.attributes.get_int("axis", -1) % rank], rank
    # Before opset 13 all axes from ``axis`` on are flattened to one.
    return list(range(node.attributes.get_int("axis", 1) % rank, rank)), rank


@rule("Softmax", name="softmax")
def softmax(context: Context, node: ir.Node) -> Outputs:
    """Dp = p (dx − Σ p dx)."""
    axes, rank = _axes(context, node)
    tangent, p = context.tangent(node.inputs[0]), node.outputs[0]
    assert tangent is not None  # noqa: S101 - the only input
    weighted = context.op("Mul", context.stack(tangent), p)
    total = context.reduce("Sum", weighted, context.shift(axes, rank))
    return context.stacked(context.op("Sub", weighted, context.op("Mul", total, p)), context.dims(p))


@rule("LogSoftmax", name="softmax")
def log_softmax(context: Context, node: ir.Node) -> Outputs:
    """D log p = dx − Σ p dx."""
    axes, rank = _axes(context, node)
    tangent, y = context.tangent(node.inputs[0]), node.outputs[0]
    assert tangent is not None  # noqa: S101 - the only input
    rows = context.stack(tangent)
    total = context.reduce("Sum", context.op("Mul", rows, context.op("Exp", y)), context.shift(axes, rank))
    return context.stacked(context.op("Sub", rows, total), context.dims(y))
