"""Matrix products with one or two moving operands."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import Outputs, rule
from lieaudit.graph.forward.tangent import Tangent


@rule("MatMul", name="matrix product", accepts=lambda c, n: all(c.rank(v) > 0 for v in n.inputs if v is not None))
def matmul(context: Context, node: ir.Node) -> Outputs:
    """d(A B) = dA B + A dB; batch axes broadcast against the leading axis of directions."""
    a, b = node.inputs
    assert a is not None  # noqa: S101 - required inputs
    assert b is not None  # noqa: S101
    dims = context.dims(node.outputs[0])
    left, right = context.tangent(a), context.tangent(b)
    result: Tangent | None = None
    ranks = context.rank(a), context.rank(b)
    if left is not None:
        rows = _product(context, left, ranks[0], b, ranks[1], tangent_first=True)
        result = context.stacked(rows, dims)
    if right is not None:
        rows = _product(context, right, ranks[1], a, ranks[0], tangent_first=False)
        result = context.add(result, context.stacked(rows, dims))
    return result


def _product(
    context: Context, tangent: Tangent, rank: int, other: ir.Value, other_rank: int, *, tangent_first: bool
) -> ir.Value:
    """Multiply rows by a value, as MatMul treats vectors: a 1-D operand is a row (left) or a column (right)."""
    if not context.lead:
        rows = context.stack(tangent)
        return context.op("MatMul", rows, other) if tangent_first else context.op("MatMul", other, rows)
    rows = context.stack(tangent)
    dropped = []
    if rank == 1:
        # (D, K) → (D, 1, K) on the left, (D, K, 1) on the right; the axis is dropped again afterwards.
        rows = context.unsqueeze(rows, [1] if tangent_first else [2])
        dropped.append(-2 if tangent_first else -1)
        rank = 2
    if other_rank == 1:
        other = context.unsqueeze(other, [1] if tangent_first else [0])
        dropped.append(-1 if tangent_first else -2)
        other_rank = 2
    if other_rank > rank:
        rows = context.unsqueeze(rows, range(1, 1 + other_rank - rank))
    product = context.op("MatMul", rows, other) if tangent_first else context.op("MatMul", other, rows)
    if dropped:
        total = 1 + max(rank, other_rank)
        product = context.squeeze(product, sorted(total + axis for axis in dropped))
    return product


@rule("Gemm", name="matrix product")
def gemm(context: Context, node: ir.Node) -> Outputs:
    """d(α A B + β C) = α (dA B + A dB) + β dC, with the transpositions of the node."""
    a, b = node.inputs[:2]
    assert a is not None  # noqa: S101 - required inputs
    assert b is not None  # noqa: S101
    out = node.outputs[0]
    dims = context.dims(out)
    attributes = {name: node.attributes[name] for name in ("alpha", "transB") if name in node.attributes}
    alpha = node.attributes.get_float("alpha", 1.0)
    trans_a, trans_b = node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0)
    left, right = context.tangent(a), context.tangent(b)
    result: Tangent | None = None
    if left is not None and not trans_a and right is None:
        rows = context.op("Gemm", context.fold(left), b, *_no_bias(context, a), attributes=attributes)
        result = context.folded(rows, dims)
    elif left is not None or right is not None:
        lead = context.lead
        swap = [0, 2, 1] if lead else [1, 0]
        if left is not None:
            rows = context.stack(left)
            rows = context.op("Transpose", rows, perm=swap) if trans_a else rows
            result = context.stacked(context.op("MatMul", rows, _turned(context, b, turn=trans_b)), dims)
        if right is not None:
            rows = context.stack(right)
            rows = context.op("Transpose", rows, perm=swap) if trans_b else rows
            second = context.stacked(context.op("MatMul", _turned(context, a, turn=trans_a), rows), dims)
            result = context.add(result, second)
        if alpha != 1 and result is not None:
            result = context.scaled(result, context.number(alpha, out), ())
    third = context.tangent(node.inputs[2]) if len(node.inputs) > 2 else None
    if third is not None:
        third = context.broadcast(third, out)
        beta = node.attributes.get_float("beta", 1.0)
        result = context.add(result, context.scaled(third, context.number(beta, out), ()) if beta != 1 else third)
    return result


def _no_bias(context: Context, like: ir.Value) -> tuple[ir.Value, ...]:
    """Gemm needs its third input before opset 11."""
    return () if context.opset >= 11 else (context.number(0, like),)


def _turned(context: Context, value: ir.Value, *, turn: int) -> ir.Value:
    return context.op("Transpose", value, perm=[1, 0]) if turn else value
