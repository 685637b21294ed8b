"""Matrix products with one or two moving operands, and sums of products in index notation."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.graph.nodes import has_input, required
from lieaudit.layouts.algebra import contracted, multiplied
from lieaudit.layouts.axes import Axis, has_grid, normalise, unify
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import products as adjoint
from lieaudit.ops.commuting import axis_has_grid, on_one_grid, varies_over_grid
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import ALL, Kind, Op, Outputs, Rule, Transpose, Use


def matmul(context: Context, node: ir.Node) -> Outputs:
    """d(A B) = dA B + A dB; batch axes broadcast against the leading axis of directions."""
    a, b = required(node, 0), required(node, 1)
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


def gemm(context: Context, node: ir.Node) -> Outputs:
    """d(α A B + β C) = α (dA B + A dB) + β dC, with the transpositions of the node."""
    a, b = required(node, 0), required(node, 1)
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


def einsum(context: Context, node: ir.Node) -> Outputs:
    """D of a multilinear form: one term per moving operand, that operand with one more index in front."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left.replace(",", "").replace("...", "")))
        right = ("..." if "..." in left else "") + "".join(x for x in letters if left.count(x) == 1)
    free = next(letter for letter in "zyxwvutsrqponmlkjihgfedcba" if letter not in equation)
    result: Tangent | None = None
    for i, value in enumerate(node.inputs):
        tangent = context.tangent(value)
        if tangent is None:
            continue
        inputs = list(node.inputs)
        inputs[i] = context.stack(tangent)
        new = [free + term if j == i and context.lead else term for j, term in enumerate(terms)]
        target = free + right if context.lead else right
        rows = context.op("Einsum", *inputs, equation=f"{','.join(new)}->{target}")
        result = context.add(result, context.stacked(rows, context.dims(node.outputs[0])))
    return result


def matmul_axes(tracker: Tracker, node: ir.Node) -> Result:
    """Return the axes of a matrix product: the contracted one goes, batch axes broadcast."""
    a, b, sizes = tracker.of(node.inputs[0]), tracker.of(node.inputs[1]), tracker.sizes(node.outputs[0])
    if a is None or b is None or sizes is None or len(a) < 2 or len(b) < 2:
        return [None]
    for name, which in (("transA", 0), ("transB", 1)):
        if name in node.attributes and node.attributes[name].as_int():
            a, b = ((*a[:-2], a[-1], a[-2]), b) if which == 0 else (a, (*b[:-2], b[-1], b[-2]))
    return [multiplied(a, b, sizes, varies=(tracker.varies(node.inputs[0]), tracker.varies(node.inputs[1])))]


def _gemm(tracker: Tracker, node: ir.Node) -> Result:
    a, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if a is None or sizes is None or tracker.varies(node.inputs[1]):
        return [None]
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
    rows, columns = (a[1], a[0]) if transposed else (a[0], a[1])
    return [contracted((rows, ()), columns, at=1, size=sizes[1])]


def _einsum(tracker: Tracker, node: ir.Node) -> Result:
    equation = node.attributes["equation"].as_string().replace(" ", "")
    sizes = tracker.sizes(node.outputs[0])
    if "." in equation or "->" not in equation or sizes is None:
        return [None]
    left, right = equation.split("->")
    terms = left.split(",")
    found: dict[str, Axis] = {}
    own: set[str] = set()
    for value, term in zip(node.inputs, terms, strict=True):
        axes = tracker.of(value)
        if axes is None or len(axes) != len(term):
            return [None]
        if tracker.varies(value):
            own.update(term)
        for letter, axis in zip(term, axes, strict=True):
            found[letter] = unify(found[letter], axis) if letter in found else axis
    if len([v for v in node.inputs if tracker.varies(v)]) > 1:
        return [normalise(tuple(found[letter] for letter in right))]
    gone = tuple(atom for letter in sorted(own - set(right)) for atom in found[letter])
    fresh = [i for i, letter in enumerate(right) if letter not in own]
    kept = tuple(found[letter] if letter in own else () for letter in right)
    if len(fresh) == 1:
        return [contracted(kept, gone, at=fresh[0], size=sizes[fresh[0]])]
    return [None if fresh or has_grid(gone) else normalise(kept)]


def _shown(use: Use) -> str:
    """Refuse scalars, which MatMul does not take, and ranks that are not known."""
    ranks = [None if v is None or v.shape is None else len(v.shape) for v in use.node.inputs[:2]]
    return "" if all(ranks) else "the rank of an operand is not known"


def _fixed_matrix(tracker: Tracker, node: ir.Node) -> bool:
    first, second = node.inputs[:2]
    if tracker.varies(first) and tracker.varies(second):
        return False
    if not tracker.varies(second):
        transposed = node.op_type == "Gemm" and bool(node.attributes.get_int("transA", 0))
        weights = tracker.sizes(second) or (0, 0, 0)
        # a stack of weight matrices may differ from pixel to pixel
        stacked = any(size != 1 for size in weights[:-2])
        return not stacked and not axis_has_grid(tracker, first, 0 if transposed else -1)
    return len(tracker.sizes(first) or ()) == 2 and not axis_has_grid(tracker, second, -2)


def _fixed_gemm(tracker: Tracker, node: ir.Node) -> bool:
    if not tracker.varies(node.inputs[0]) or not _fixed_matrix(tracker, node):
        return False
    third = node.inputs[2] if has_input(node, 2) else None
    return not tracker.varies(third) and not varies_over_grid(tracker, third, node.outputs[0])


def _without_bias(tracker: Tracker, node: ir.Node) -> bool:
    return not has_input(node, 2) and _fixed_gemm(tracker, node)


OPS = (
    Op("MatMul", tangent=Rule("matrix product", matmul, operands=(0, 1), accepts=_shown), layout=matmul_axes,
       geometric=on_one_grid(_fixed_matrix), homogeneous=on_one_grid(_fixed_matrix), kind=Kind.MATRIX_PRODUCT,
       linear=(0, 1),
       transpose=Transpose(adjoint.matmul, (0, 1))),
    Op("Gemm", tangent=Rule("matrix product", gemm, operands=(0, 1, 2)), layout=_gemm,
       geometric=on_one_grid(_fixed_gemm), homogeneous=on_one_grid(_without_bias), kind=Kind.MATRIX_PRODUCT,
       linear=(0, 1, 2),
       transpose=Transpose(adjoint.gemm, (0, 1, 2))),
    Op("Einsum", tangent=Rule("matrix product", einsum, operands=ALL), layout=_einsum, kind=Kind.MATRIX_PRODUCT,
       linear=ALL,
       transpose=Transpose(adjoint.einsum, ALL)),
)  # fmt: skip
