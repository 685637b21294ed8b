"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.rows import reshaped, stacked
from lieaudit.autodiff.tangent import Tangent
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.names import called
from lieaudit.graph.nodes import has_input, ints_input, ints_of, required
from lieaudit.layouts.algebra import reduced
from lieaudit.layouts.axes import has_grid
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import reduction as adjoint
from lieaudit.ops.commuting import on_one_grid, spatial
from lieaudit.ops.elementwise_axes import Result, unary
from lieaudit.ops.op import ALL, INTEGER_RULE, Apply, Kind, Op, Outputs, Rule, Transpose, Use, is_op


def _reduced(node: ir.Node) -> list[int] | None:
    """Return the reduced axes (not negative), or None where the graph computes them or the rank is not known."""
    shape = required(node, 0).shape
    axes = ints_of(node, "axes", 1)
    if shape is None or (axes is None and has_input(node, 1)):
        return None
    if not axes:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(len(shape)))
    return sorted(a % len(shape) for a in axes)


def _axes(node: ir.Node) -> list[int]:
    axes = _reduced(node)
    if axes is None:
        raise UnsupportedOpError(
            f"the axes of {called(node)} are computed by the graph",
            reason="DYNAMIC_AXES",
            subject=node.name or node.op_type,
            hint="export with constant axes",
        )
    return axes


def _fixed_axes(use: Use) -> str:
    return "its axes are computed by the graph" if _reduced(use.node) is None else ""


def _some_axes(use: Use) -> str:
    return _fixed_axes(use) or ("" if _reduced(use.node) else "it reduces no axis")


def reduce_rows(context: Context, kind: str, tangent: Tangent, axes: list[int]) -> ir.Value:
    """Reduce the rows of a tangent over axes of its value, keeping them as size 1: (D, …)."""
    rows = context.stack(tangent)
    return context.reduce(kind, rows, context.shift(axes, tangent.rank)) if axes else rows


def _kept(context: Context, node: ir.Node, axes: list[int]) -> tuple[int | str, ...]:
    return tuple(1 if i in axes else size for i, size in enumerate(context.dims(required(node, 0))))


def _finish(context: Context, node: ir.Node, rows: ir.Value, axes: list[int]) -> Tangent:
    kept = _kept(context, node, axes)
    tangent = context.stacked(rows, kept)
    return tangent if kept == context.dims(node.outputs[0]) else reshaped(context, tangent, node.outputs[0])


def _keep(context: Context, node: ir.Node, value: ir.Value, axes: list[int]) -> ir.Value:
    """Return the node's output with the reduced axes as size 1, so that it broadcasts against the input."""
    if node.attributes.get_int("keepdims", 1) or not axes:
        return value
    return context.unsqueeze(value, axes)


def linear(context: Context, node: ir.Node) -> Outputs:
    """Return the sum or mean of the tangent."""
    axes, tangent = _axes(node), context.moving(node)
    rows = context.stack(tangent)
    if not axes:
        return context.stacked(rows, context.dims(node.outputs[0]))
    keep = bool(node.attributes.get_int("keepdims", 1))
    made = context.reduce(node.op_type.removeprefix("Reduce"), rows, context.shift(axes, tangent.rank), keepdims=keep)
    return context.stacked(made, context.dims(node.outputs[0]))


def winner(context: Context, node: ir.Node) -> Outputs:
    """Return the tangent at the winner; the mean over winners where several are equal."""
    axes, x, y, tangent = _axes(node), required(node, 0), node.outputs[0], context.moving(node)
    best = _keep(context, node, y, axes)
    above = context.op("Less" if node.op_type == "ReduceMax" else "Greater", x, best, dtype=ir.DataType.BOOL)
    mask = context.cast(context.op("Not", above, dtype=ir.DataType.BOOL), x)
    if axes:
        mask = context.op("Div", mask, context.reduce("Sum", mask, axes))
    picked = context.scaled(tangent, mask, tangent.dims)
    return _finish(context, node, reduce_rows(context, "Sum", picked, axes), axes)


def prod(context: Context, node: ir.Node) -> Outputs:
    """Σ_i dx_i Π_{j≠i} x_j: y / x_i, but for a single zero the product of the others, and 0 beside a zero."""
    axes, x, tangent = _axes(node), required(node, 0), context.moving(node)
    present = context.cast(context.op("Cast", x, to=int(ir.DataType.BOOL), dtype=ir.DataType.BOOL), x)
    zero = context.op("Sub", context.number(1, x), present)
    others = context.op("Add", x, zero)  # 1 in the place of a zero
    alone = context.op("Sub", context.reduce("Sum", zero, axes), zero)  # zeros among the others
    slope = context.op("Div", context.reduce("Prod", others, axes), others)
    slope = context.op("Mul", slope, context.cast(_none(context, alone), x))
    return _finish(context, node, reduce_rows(context, "Sum", context.scaled(tangent, slope, tangent.dims), axes), axes)


def nonlinear(context: Context, node: ir.Node) -> Outputs:
    """Σ f'(x) dx times the outer function's derivative, which depends on the reduced value only."""
    axes, x, y, tangent = _axes(node), required(node, 0), node.outputs[0], context.moving(node)
    best = _keep(context, node, y, axes)
    match node.op_type:
        case "ReduceSumSquare":
            slope = context.op("Mul", x, context.number(2, x))
        case "ReduceL1":
            slope = context.op("Sign", x)
        case "ReduceL2":
            # The norm has no derivative at zero; 0 is taken there, as torch does.
            zero = context.cast(_none(context, best), x)
            slope = context.op("Div", x, context.op("Add", best, zero))
        case "ReduceLogSum":
            slope = context.op("Exp", context.op("Neg", best))
        case _:
            slope = context.op("Exp", context.op("Sub", x, best))
    return _finish(context, node, reduce_rows(context, "Sum", context.scaled(tangent, slope, tangent.dims), axes), axes)


def _none(context: Context, value: ir.Value) -> ir.Value:
    """Say where a value is zero."""
    some = context.op("Cast", value, to=int(ir.DataType.BOOL), dtype=ir.DataType.BOOL)
    return context.op("Not", some, dtype=ir.DataType.BOOL)


def cumulative(context: Context, node: ir.Node) -> Outputs:
    """Sum running along the shifted axis."""
    tangent = context.moving(node)
    axis = context.shift(ints_input(node, 1), tangent.rank)[0]
    rows = context.op(
        "CumSum", context.stack(tangent), context.const(np.array(axis, np.int64)), attributes=node.attributes
    )
    return stacked(context, node, rows)


def _layout(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    gone = None if axes is None else reduced_axes(tracker, node, len(axes))
    if axes is None or gone is None:
        return [None]
    return [reduced(axes, gone, keep=bool(node.attributes.get_int("keepdims", 1)))]


def reduced_axes(tracker: Tracker, node: ir.Node, rank: int) -> set[int] | None:
    """Return the reduced axes; None where they are not known."""
    if is_op(node, "ArgMax", "ArgMin"):
        return {node.attributes.get_int("axis", 0) % rank}
    at = tracker.ints(node, "axes", 1)
    if at is None and has_input(node, 1):
        return None
    if not at:
        return set() if node.attributes.get_int("noop_with_empty_axes", 0) else set(range(rank))
    return {i % rank for i in at}


def _off_the_grid(tracker: Tracker, node: ir.Node) -> bool:
    axes = tracker.of(node.inputs[0]) or ()
    gone = reduced_axes(tracker, node, len(axes)) if axes else None
    return gone is not None and not any(has_grid(axes[i]) for i in gone)


_HOMOGENEOUS = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}


def _op(name: str, family: str, apply: Apply, accepts: Callable[[Use], str] = _fixed_axes) -> Op:
    averages = name in {"ReduceMean", "ReduceSum"}
    return Op(
        name,
        tangent=Rule(family, apply, ignored=(1,), accepts=accepts),
        layout=_layout,
        geometric=on_one_grid(_off_the_grid) if averages else None,
        homogeneous=spatial if name in _HOMOGENEOUS else None,
        kind=Kind.REDUCTION,
        kinked=name in {"ReduceL1", "ReduceMax", "ReduceMin"},
        linear=(0,) if averages else (),
        transpose=Transpose(adjoint.reduced) if averages else None,
    )


OPS = (
    _op("ReduceSum", "reduction", linear),
    _op("ReduceMean", "reduction", linear),
    _op("ReduceMax", "winner", winner),
    _op("ReduceMin", "winner", winner),
    _op("ReduceProd", "reduction", prod, _some_axes),
    *(
        _op(name, "reduction", nonlinear)
        for name in ("ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
    ),
    *(
        Op(
            name,
            tangent=Rule(INTEGER_RULE, operands=(), outputs=ALL, steps=ALL),
            layout=_layout,
            of_classes=name == "ArgMax",
        )
        for name in ("ArgMax", "ArgMin")
    ),
    Op(
        "CumSum",
        tangent=Rule("layout", cumulative, ignored=(1,)),
        layout=unary,
        linear=(0,),
        transpose=Transpose(adjoint.cumulative),
    ),
)
