"""Softmax and its logarithm."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.graph.nodes import required
from lieaudit.ops.elementwise_axes import unary
from lieaudit.ops.op import Kind, Op, Outputs, Rule


def _axes(context: Context, node: ir.Node) -> tuple[list[int], int]:
    rank = context.rank(required(node, 0))
    if context.opset >= 13:
        return [node.attributes.get_int("axis", -1) % rank], rank
    # Before opset 13 all axes from ``axis`` on are flattened to one.
    return list(range(node.attributes.get_int("axis", 1) % rank, rank)), rank


def softmax(context: Context, node: ir.Node) -> Outputs:
    """Dp = p (dx − Σ p dx)."""
    axes, rank = _axes(context, node)
    tangent, p = context.moving(node), node.outputs[0]
    weighted = context.op("Mul", context.stack(tangent), p)
    total = context.reduce("Sum", weighted, context.shift(axes, rank))
    return context.stacked(context.op("Sub", weighted, context.op("Mul", total, p)), context.dims(p))


def log_softmax(context: Context, node: ir.Node) -> Outputs:
    """D log p = dx − Σ p dx."""
    axes, rank = _axes(context, node)
    tangent, y = context.moving(node), node.outputs[0]
    rows = context.stack(tangent)
    total = context.reduce("Sum", context.op("Mul", rows, context.op("Exp", y)), context.shift(axes, rank))
    return context.stacked(context.op("Sub", rows, total), context.dims(y))


OPS = (
    Op(
        "Softmax",
        tangent=Rule("softmax", softmax),
        layout=unary,
        kind=Kind.NONLINEARITY,
        head="softmax",
        of_classes=True,
    ),
    Op("LogSoftmax", tangent=Rule("softmax", log_softmax), layout=unary, head="softmax", of_classes=True),
)
