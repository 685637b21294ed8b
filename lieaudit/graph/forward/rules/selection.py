"""Selection by order: the tangents of the elements chosen."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import Outputs, rule
from lieaudit.graph.forward.rules.layout import repeat_stacked


@rule("TopK", name="winner", accepts=lambda c, n: c.opset >= 11 and c.active(n) == [0])
def top_k(context: Context, node: ir.Node) -> Outputs:
    """Give the tangents at the chosen indices."""
    tangent = context.tangent(node.inputs[0])
    assert tangent is not None  # noqa: S101 - accepted only so
    axis = context.shift([node.attributes.get_int("axis", -1)], tangent.rank)[0]
    indices = node.outputs[1]
    rows = context.op("GatherElements", context.stack(tangent), repeat_stacked(context, indices), axis=axis)
    return [context.stacked(rows, context.dims(node.outputs[0])), None]
