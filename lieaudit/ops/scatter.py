"""Ops that write elements into a tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.rows import repeat_stacked, rows_or_zeros, stacked, to_back
from lieaudit.graph.nodes import required
from lieaudit.ops.adjoints import selection as adjoint
from lieaudit.ops.elementwise_axes import unary
from lieaudit.ops.op import STEP_NOTE, Op, Outputs, Rule, Transpose, Use


def scatter_elements(context: Context, node: ir.Node) -> Outputs:
    """Scatter the tangents of the updates into the tangent of the data."""
    data, indices, updates = (required(node, i) for i in range(3))
    axis = context.shift([node.attributes.get_int("axis", 0)], context.rank(data))[0]
    attributes = {"reduction": node.attributes["reduction"]} if "reduction" in node.attributes else {}
    rows = context.op(
        node.op_type,
        rows_or_zeros(context, data),
        repeat_stacked(context, indices),
        rows_or_zeros(context, updates),
        attributes=attributes,
        axis=axis,
    )
    return stacked(context, node, rows)


def scatter_nd(context: Context, node: ir.Node) -> Outputs:
    """ScatterND on transposed rows: the directions go behind the indexed axes."""
    data, indices, updates = (required(node, i) for i in range(3))
    base, moved = rows_or_zeros(context, data), rows_or_zeros(context, updates)
    if context.lead:
        base, moved = to_back(context, base, context.rank(data)), to_back(context, moved, context.rank(updates))
    rows = context.op("ScatterND", base, indices, moved, attributes=node.attributes)
    if context.lead:
        rank = context.rank(data)
        rows = context.op("Transpose", rows, perm=[rank, *range(rank)])
    return stacked(context, node, rows)


def one_hot(context: Context, node: ir.Node) -> Outputs:
    """Return d off + (d on − d off) where the class is: linear in both values, a step in the classes."""
    indices, depth = required(node, 0), required(node, 1)
    x = node.outputs[0]
    units = context.const(np.array([0, 1], x.dtype.numpy() if x.dtype is not None else np.float32))
    chosen = context.op("OneHot", indices, depth, units, dtype=x.dtype, attributes=node.attributes)
    rank, rows = context.rank(x), context.stack(context.moving(node, 2))
    off, on = (
        context.op("Reshape", context.slice(rows, [i], [i + 1], [context.lead]), _ones(context, rank)) for i in (0, 1)
    )
    return stacked(context, node, context.op("Add", off, context.op("Mul", context.op("Sub", on, off), chosen)))


def _ones(context: Context, rank: int) -> ir.Value:
    """Return the shape of one number per direction, to broadcast against a value of this rank."""
    return context.ints([*([0] if context.lead else []), *[1] * rank])


def _plain(use: Use) -> str:
    reduction = use.node.attributes.get_string("reduction", "none")
    return "" if reduction in {"none", "add"} else f"its reduction is {reduction}"


OPS = (
    Op("ScatterElements", tangent=Rule("layout", scatter_elements, operands=(0, 2), ignored=(1,), accepts=_plain),
       layout=unary, shaped_by=(0,), linear=(0, 2),
       transpose=Transpose(adjoint.scatter_elements, (0, 2))),
    Op("Scatter", tangent=Rule("layout", scatter_elements, operands=(0, 2), ignored=(1,)), layout=unary,
       shaped_by=(0,), linear=(0, 2),
       transpose=Transpose(adjoint.scatter_elements, (0, 2))),
    Op("ScatterND", tangent=Rule("layout", scatter_nd, operands=(0, 2), ignored=(1,), accepts=_plain), layout=unary,
       shaped_by=(0,), linear=(0, 2),
       transpose=Transpose(adjoint.scatter_nd, (0, 2))),
    Op("OneHot", tangent=Rule("choice", one_hot, operands=(2,), steps=(0, 1), differentiable=False, note=STEP_NOTE),
       sized_by=(1,), linear=(2,),
       transpose=Transpose(operands=(), without="its tangent is written as products")),
)  # fmt: skip
