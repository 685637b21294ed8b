"""Convolutions: linear in the input, without the bias; affine per-channel maps."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import Outputs, rule


def _only_first(context: Context, node: ir.Node) -> bool:
    return context.active(node) == [0]


@rule("Conv", "ConvTranspose", name="convolution", accepts=_only_first)
def convolution(context: Context, node: ir.Node) -> Outputs:
    """Apply the same convolution without bias, on all directions as one batch."""
    tangent = context.tangent(node.inputs[0])
    assert tangent is not None  # noqa: S101 - accepted only so
    rows = context.op(node.op_type, context.fold(tangent), node.inputs[1], attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


@rule("DeformConv", name="convolution", accepts=_only_first)
def deformable(context: Context, node: ir.Node) -> Outputs:
    """Apply the same deformable convolution without bias, offsets and mask repeated for every direction."""
    tangent = context.tangent(node.inputs[0])
    assert tangent is not None  # noqa: S101 - accepted only so
    x = node.inputs[0]
    assert x is not None  # noqa: S101
    rest = [context.repeat(v) if i in {2, 4} and v is not None else v for i, v in enumerate(node.inputs)]
    rest[0] = context.fold(tangent)
    if len(rest) > 3:
        rest[3] = None
    rows = context.op(node.op_type, *rest, attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))
