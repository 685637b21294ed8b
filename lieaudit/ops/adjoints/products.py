"""Matrix products, and sums of products in index notation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.nodes import required
from lieaudit.ops.adjoints.arithmetic import Outputs, first


def matmul(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Multiply by the other matrix, transposed: Aᵀ U, U Bᵀ; sum over the batches that an operand was repeated for."""
    u, x, other = first(ys), required(node, i), required(node, 1 - i)
    sizes, rank = a.sizes_of(x), a.rank_of(other)
    made = list(a.sizes_of(node.outputs[0]))
    # a vector is a column on the right, and a row on the left
    if a.rank_of(required(node, 1)) == 1:
        u, made = a.unsqueeze(u, [-1]), [*made, 1]
    if a.rank_of(required(node, 0)) == 1:
        u, made = a.unsqueeze(u, [-2]), [*made[:-1], 1, made[-1]]
    if rank == 1:
        turned = a.unsqueeze(other, [0 if i == 0 else 1])
    else:
        turned = a.op("Transpose", other, perm=[*range(rank - 2), rank - 1, rank - 2])
    whole = a.op("MatMul", u, turned) if i == 0 else a.op("MatMul", turned, u)
    if len(sizes) > 1:
        return a.sum_to(whole, (*made[:-2], *sizes[-2:]), sizes)
    matrix = (1, *sizes) if i == 0 else (*sizes, 1)
    return a.reshape(a.sum_to(whole, (*made[:-2], *matrix), matrix), sizes)


def gemm(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """α A B + β C, in each operand, with the transpositions of the node."""
    u = first(ys)
    if i == 2:
        beta = node.attributes.get_float("beta", 1.0)
        scaled = u if beta == 1 else a.op("Mul", u, a.number(beta, u))
        return a.sum_to(scaled, a.sizes_of(node.outputs[0]), a.sizes_of(required(node, 2)))
    turn_a, turn_b = node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0)
    alpha = node.attributes.get_float("alpha", 1.0)
    other = required(node, 1 - i)
    if i == 0:
        operands, turns = ((u, other), (0, 1 - turn_b)) if not turn_a else ((other, u), (turn_b, 1))
    else:
        operands, turns = ((other, u), (1 - turn_a, 0)) if not turn_b else ((u, other), (1, turn_a))
    return a.op("Gemm", *operands, alpha=alpha, transA=turns[0], transB=turns[1])


def einsum(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Put the output in the operand's place; a letter that only the operand has is repeated by ones."""
    u, x = first(ys), required(node, i)
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left.replace(",", "").replace("...", "")))
        right = ("..." if "..." in left else "") + "".join(c for c in letters if left.count(c) == 1)
    rest = [term for k, term in enumerate(terms) if k != i]
    operands = [u, *(value for k, value in enumerate(node.inputs) if k != i and value is not None)]
    term = _without_diagonals(a, x, terms[i], equation, rest, operands)
    own = term.replace("...", "")
    lonely = [c for c in own if c not in right and all(c not in other for other in rest)]
    if lonely:
        sizes = [a.sizes_of(x)[_place(term, c)] for c in lonely]
        operands.append(a.expand(a.number(1, u), sizes))
        rest.append("".join(lonely))
    dots = "..." in right and "..." in term
    target = term if dots or "..." not in right else "..." + own
    made = a.op("Einsum", *operands, equation=f"{','.join([right, *rest])}->{target}")
    return _unbroadcast(a, node, i, made, right, term) if "..." in right else made


def _place(term: str, letter: str) -> int:
    """Return the axis of a letter, from the end where it stands behind axes without a name."""
    before, dots, behind = term.partition("...")
    return before.index(letter) if letter in before or not dots else behind.index(letter) - len(behind)


def _without_diagonals(
    a: Adjoint, x: ir.Value, term: str, equation: str, rest: list[str], operands: list[ir.Value]
) -> str:
    """Return a repeated letter a second name, with a unit matrix between the two."""
    names = iter(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation)
    seen: set[str] = set()
    made = ""
    for c in term:
        if c != "." and c in seen:
            size, new = a.fixed(x, _place(term, c)), next(names)
            dtype = x.dtype.numpy() if x.dtype is not None else np.dtype(np.float32)
            operands.append(a.const(np.eye(size, dtype=dtype)))
            rest.append(c + new)
            c = new  # noqa: PLW2901 - the letter under its second name
        seen.add(c)
        made += c
    return made


def _unbroadcast(a: Adjoint, node: ir.Node, i: int, made: ir.Value, right: str, term: str) -> ir.Value:
    """Sum over the unnamed axes that an operand was repeated along; they lead in what einsum made."""
    sizes, out = a.sizes_of(required(node, i)), a.sizes_of(node.outputs[0])
    place = right.index("...")
    count = len(out) - len(right.replace("...", ""))
    unnamed = out[place : place + count]
    if term.startswith("...") or "..." not in term:
        named = len(term.replace("...", ""))
        kept = sizes[len(sizes) - named :] if named else ()
        return a.sum_to(made, (*unnamed, *kept), sizes)
    own = len(sizes) - len(term.replace("...", ""))
    at = term.index("...")
    if tuple(sizes[at : at + own]) != tuple(unnamed):
        raise UnsupportedOpError(
            f"{node.op_type} {node.name!r} repeats axes in the middle of an operand",
            reason="NO_TRANSPOSE",
            subject=node.name or node.op_type,
            hint="put the unnamed axes first",
        )
    return made
