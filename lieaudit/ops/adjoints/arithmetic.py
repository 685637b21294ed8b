"""Sums, and products with a value."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.graph.nodes import required

Outputs = Sequence[ir.Value | None]


def first(ys: Outputs) -> ir.Value:
    """Return the cotangent of a node's first output; a node without one is never transposed."""
    found = ys[0]
    if found is None:
        raise ValueError("the cotangent of the first output is missing")
    return found


def _to(a: Adjoint, node: ir.Node, i: int, u: ir.Value) -> ir.Value:
    return a.sum_to(u, a.sizes_of(node.outputs[0]), a.sizes_of(required(node, i)))


def total(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Σ x_i: the same u for every operand, −u for what is subtracted, u/n for a mean."""
    u = first(ys)
    if node.op_type == "Sub" and i == 1:
        u = a.op("Neg", u)
    if node.op_type == "Mean":
        u = a.op("Mul", u, a.number(1 / len(node.inputs), u))
    return _to(a, node, i, u)


def negative(a: Adjoint, _node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """−x: −u."""
    return a.op("Neg", first(ys))


def product(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """B ⊙ x: b ⊙ u."""
    return _to(a, node, i, a.op("Mul", first(ys), required(node, 1 - i)))


def quotient(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """X / b: u / b."""
    return _to(a, node, i, a.op("Div", first(ys), required(node, 1)))


def where(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Pass u on where the branch was taken."""
    u = first(ys)
    zero = a.number(0, u)
    branches = (u, zero) if i == 1 else (zero, u)
    return _to(a, node, i, a.op("Where", required(node, 0), *branches, dtype=u.dtype))
