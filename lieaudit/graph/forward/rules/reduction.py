"""Reductions over axes."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context, has_input, ints_of
from lieaudit.graph.forward.rules import Outputs, rule
from lieaudit.graph.forward.rules.layout import reshaped
from lieaudit.graph.forward.tangent import Tangent


def axes_of(context: Context, node: ir.Node) -> list[int] | None:
    """Give the reduced axes (not negative), or None where the graph computes them."""
    x = node.inputs[0]
    assert x is not None  # noqa: S101 - required input
    rank = context.rank(x)
    axes = ints_of(node, "axes", 1)
    if axes is None and has_input(node, 1):
        return None
    if not axes:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(a % rank for a in axes)


def _known(context: Context, node: ir.Node) -> bool:
    return axes_of(context, node) is not None


def reduce_rows(context: Context, kind: str, tangent: Tangent, axes: list[int]) -> ir.Value:
    """Reduce the rows of a tangent over axes of its value, keeping them as size 1: (D, …)."""
    rows = context.stack(tangent)
    return context.reduce(kind, rows, context.shift(axes, tangent.rank)) if axes else rows


def _kept(context: Context, node: ir.Node, axes: list[int]) -> tuple[int | str, ...]:
    x = node.inputs[0]
    assert x is not None  # noqa: S101 - required input
    return tuple(1 if i in axes else size for i, size in enumerate(context.dims(x)))


def _finish(context: Context, node: ir.Node, rows: ir.Value, axes: list[int]) -> Tangent:
    kept = _kept(context, node, axes)
    tangent = context.stacked(rows, kept)
    return tangent if kept == context.dims(node.outputs[0]) else reshaped(context, tangent, node.outputs[0])


def _keep(context: Context, node: ir.Node, value: ir.Value, axes: list[int]) -> ir.Value:
    """Give the node's output with the reduced axes as size 1, so that it broadcasts against the input."""
    if node.attributes.get_int("keepdims", 1) or not axes:
        return value
    return context.unsqueeze(value, axes)


@rule("ReduceSum", "ReduceMean", name="reduction", accepts=_known)
def linear(context: Context, node: ir.Node) -> Outputs:
    """Give the sum or mean of the tangent."""
    axes, tangent = axes_of(context, node), context.tangent(node.inputs[0])
    assert axes is not None  # noqa: S101 - accepted only so
    assert tangent is not None  # noqa: S101
    rows = context.stack(tangent)
    if not axes:
        return context.stacked(rows, context.dims(node.outputs[0]))
    keep = bool(node.attributes.get_int("keepdims", 1))
    made = context.reduce(node.op_type.removeprefix("Reduce"), rows, context.shift(axes, tangent.rank), keepdims=keep)
    return context.stacked(made, context.dims(node.outputs[0]))


@rule("ReduceMax", "ReduceMin", name="winner", accepts=_known)
def winner(context: Context, node: ir.Node) -> Outputs:
    """Give the tangent at the winner; the mean over winners where several are equal."""
    axes, x, y = axes_of(context, node), node.inputs[0], node.outputs[0]
    assert axes is not None  # noqa: S101 - accepted only so
    assert x is not None  # noqa: S101
    tangent = context.tangent(x)
    assert tangent is not None  # noqa: S101
    best = _keep(context, node, y, axes)
    above = context.op("Less" if node.op_type == "ReduceMax" else "Greater", x, best, dtype=ir.DataType.BOOL)
    mask = context.cast(context.op("Not", above, dtype=ir.DataType.BOOL), x)
    if axes:
        mask = context.op("Div", mask, context.reduce("Sum", mask, axes))
    picked = context.scaled(tangent, mask, tangent.dims)
    return _finish(context, node, reduce_rows(context, "Sum", picked, axes), axes)


@rule("ReduceProd", name="reduction", accepts=lambda c, n: _known(c, n) and len(axes_of(c, n) or []) > 0)
def prod(context: Context, node: ir.Node) -> Outputs:
    """Σ_i dx_i y / x_i (no element may be zero)."""
    axes, x, y = axes_of(context, node), node.inputs[0], node.outputs[0]
    assert axes is not None  # noqa: S101 - accepted only so
    assert x is not None  # noqa: S101
    tangent = context.tangent(x)
    assert tangent is not None  # noqa: S101
    slope = context.op("Div", _keep(context, node, y, axes), x)
    return _finish(context, node, reduce_rows(context, "Sum", context.scaled(tangent, slope, tangent.dims), axes), axes)


@rule("ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", name="reduction", accepts=_known)
def nonlinear(context: Context, node: ir.Node) -> Outputs:
    """Σ f'(x) dx times the outer function's derivative, which depends on the reduced value only."""
    axes, x, y = axes_of(context, node), node.inputs[0], node.outputs[0]
    assert axes is not None  # noqa: S101 - accepted only so
    assert x is not None  # noqa: S101
    tangent = context.tangent(x)
    assert tangent is not None  # noqa: S101
    best = _keep(context, node, y, axes)
    match node.op_type:
        case "ReduceSumSquare":
            slope = context.op("Mul", x, context.number(2, x))
        case "ReduceL1":
            slope = context.op("Sign", x)
        case "ReduceL2":
            # The norm has no derivative at zero; 0 is taken there, as torch does.
            zero = context.cast(
                context.op(
                    "Not",
                    context.op("Cast", best, to=int(ir.DataType.BOOL), dtype=ir.DataType.BOOL),
                    dtype=ir.DataType.BOOL,
                ),
                x,
            )
            slope = context.op("Div", x, context.op("Add", best, zero))
        case "ReduceLogSum":
            slope = context.op("Exp", context.op("Neg", best))
        case _:
            slope = context.op("Exp", context.op("Sub", x, best))
    return _finish(context, node, reduce_rows(context, "Sum", context.scaled(tangent, slope, tangent.dims), axes), axes)
