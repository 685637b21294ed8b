"""Sums and means over axes, and running sums."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.extents import product
from lieaudit.graph.nodes import has_input, ints_of, required
from lieaudit.ops.adjoints.arithmetic import Outputs, first


def reduced(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Repeat u along the axes that were summed; a mean divides by their number."""
    u, extents = first(ys), a.sizes_of(required(node, 0))
    axes = ints_of(node, "axes", 1)
    if not axes:
        idle = node.attributes.get_int("noop_with_empty_axes", 0) or (axes is None and has_input(node, 1))
        axes = [] if idle else list(range(len(extents)))
    axes = sorted(axis % len(extents) for axis in axes)
    if not node.attributes.get_int("keepdims", 1) and axes:
        u = a.unsqueeze(u, axes)
    if node.op_type == "ReduceMean" and axes:
        u = divided(a, u, a.size(product([extents[axis] for axis in axes])))
    return a.expand(u, extents)


def divided(a: Adjoint, u: ir.Value, count: ir.Value) -> ir.Value:
    """Divide by a number of elements."""
    return a.op("Div", u, a.cast(count, u))


def cumulative(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Sum from the other end."""
    turned = 1 - node.attributes.get_int("reverse", 0)
    exclusive = node.attributes.get_int("exclusive", 0)
    return a.op("CumSum", first(ys), required(node, 1), reverse=turned, exclusive=exclusive)
