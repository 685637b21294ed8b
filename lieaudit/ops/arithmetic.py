"""Sums, products, quotients, powers and choices of several tensors, with broadcasting."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.rows import times
from lieaudit.autodiff.sizes import broadcast_dims
from lieaudit.autodiff.tangent import Tangent
from lieaudit.graph.nodes import constant, has_input, required
from lieaudit.ops import commuting
from lieaudit.ops.adjoints import arithmetic as adjoint
from lieaudit.ops.commuting import constant_over_grid, on_one_grid, spatial, spatial_operands
from lieaudit.ops.elementwise_axes import nary, unary
from lieaudit.ops.op import ALL, STEP_NOTE, Kind, Op, Outputs, Rule, Transpose
from lieaudit.ops.pointwise import clip_slope


def _of(context: Context, node: ir.Node, index: int) -> Tangent | None:
    return context.tangent(node.inputs[index])


def total(context: Context, node: ir.Node) -> Outputs:
    """d(a ± b) = da ± db; Mean divides by the number of inputs."""
    out = node.outputs[0]
    result: Tangent | None = None
    for i in range(len(node.inputs)):
        tangent = _of(context, node, i)
        if tangent is None:
            continue
        tangent = context.broadcast(tangent, out)
        minus = node.op_type == "Sub" and i == 1
        result = context.subtract(result, tangent) if minus else context.add(result, tangent)
    if node.op_type == "Mean" and result is not None:
        result = context.scaled(result, context.number(1 / len(node.inputs), out), ())
    return result


def product(context: Context, node: ir.Node) -> Outputs:
    """d(a b) = a db + b da."""
    a, b = required(node, 0), required(node, 1)
    return context.add(times(context, context.tangent(a), b, node), times(context, context.tangent(b), a, node))


def quotient(context: Context, node: ir.Node) -> Outputs:
    """d(a / b) = (da − y db) / b."""
    b = required(node, 1)
    y = node.outputs[0]
    inverse = context.op("Reciprocal", b)
    inverse.shape = b.shape
    left = times(context, _of(context, node, 0), inverse, node)
    if context.tangent(b) is None:
        return left
    ratio = context.op("Mul", y, inverse)
    ratio.shape = y.shape
    return context.subtract(left, times(context, context.tangent(b), ratio, node))


def power(context: Context, node: ir.Node) -> Outputs:
    """d(a^b) = b a^(b−1) da + y log(a) db."""
    a, b = required(node, 0), required(node, 1)
    y = node.outputs[0]
    base: Tangent | None = None
    if context.tangent(a) is not None:
        array = constant(b)
        exponent = float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
        if exponent == 2:
            slope = context.op("Mul", a, context.number(2, a))
        elif exponent == 0:
            slope = context.number(0, a)
        elif exponent is not None:
            lowered = context.op("Pow", a, context.number(exponent - 1, a))
            slope = context.op("Mul", lowered, context.number(exponent, a))
        else:
            cast = context.cast(b, a)
            lowered = context.op("Pow", a, context.op("Sub", cast, context.number(1, a)))
            slope = context.op("Mul", lowered, cast)
        base = times(context, context.tangent(a), slope, node)
    if context.tangent(b) is None:
        return base
    # 0^b does not move with b > 0; log 1 = 0 says so.
    zero = context.cast(_equal(context, a, context.number(0, a)), a)
    growth = context.op("Mul", y, context.op("Log", context.op("Add", a, zero)))
    growth.shape = y.shape
    return context.add(base, times(context, context.tangent(b), growth, node))


def extremum(context: Context, node: ir.Node) -> Outputs:
    """Return the tangent of the winner; the first of equal inputs wins, so that exactly one is counted."""
    y = node.outputs[0]
    result: Tangent | None = None
    free: ir.Value | None = None  # 1 where no earlier input has won
    for i in range(len(node.inputs)):
        x = required(node, i)
        won = context.cast(_equal(context, x, y), y)
        if free is not None:
            won = context.op("Mul", won, free)
        won.shape = y.shape
        result = context.add(result, times(context, context.tangent(x), won, node))
        if i + 1 < len(node.inputs):
            lost = context.op("Sub", context.number(1, y), won)
            free = lost if free is None else context.op("Mul", free, lost)
    return result


def _equal(context: Context, x: ir.Value, y: ir.Value) -> ir.Value:
    """Equality of floats, which opsets before 11 lack."""
    if context.opset >= 11:
        return context.op("Equal", x, y, dtype=ir.DataType.BOOL)
    above = context.op("Greater", x, y, dtype=ir.DataType.BOOL)
    below = context.op("Less", x, y, dtype=ir.DataType.BOOL)
    return context.op("Not", context.op("Or", above, below, dtype=ir.DataType.BOOL), dtype=ir.DataType.BOOL)


def where(context: Context, node: ir.Node) -> Outputs:
    """Return the tangent of the branch taken."""
    condition, a, b = (required(node, i) for i in range(3))
    y = node.outputs[0]
    left, right = context.tangent(a), context.tangent(b)
    rank = context.rank(y)
    zero = context.number(0, y)
    rows = context.op(
        "Where",
        condition,
        context.align(left, rank) if left is not None else zero,
        context.align(right, rank) if right is not None else zero,
        dtype=y.dtype,
    )
    dims = broadcast_dims((1,) * rank, context.dims(condition))
    for tangent in (left, right):
        dims = broadcast_dims(dims, tangent.dims if tangent is not None else ())
    # A constant branch may be larger than the condition and the moving branch.
    return context.broadcast(context.stacked(rows, dims), y)


def prelu(context: Context, node: ir.Node) -> Outputs:
    """D max(x, 0) + s min(x, 0) = ([x > 0] + [x ≤ 0] s) dx + min(x, 0) ds."""
    x, slope = required(node, 0), required(node, 1)
    above = context.cast(context.op("Greater", x, context.number(0, x), dtype=ir.DataType.BOOL), x)
    outside = context.op("Sub", context.number(1, x), above)
    result: Tangent | None = None
    if context.tangent(x) is not None:
        factor = context.op("Add", above, context.op("Mul", outside, slope))
        factor.shape = node.outputs[0].shape
        result = times(context, context.tangent(x), factor, node)
    if context.tangent(slope) is not None:
        negative = context.op("Mul", outside, x)
        negative.shape = x.shape
        result = context.add(result, times(context, context.tangent(slope), negative, node))
    return result


def clip(context: Context, node: ir.Node) -> Outputs:
    """D min(max(x, low), high): one of dx, d low, d high, as x lies inside, below or above."""
    x, y = required(node, 0), node.outputs[0]
    low, high = (node.inputs[i] if has_input(node, i) else None for i in (1, 2))
    if context.tangent(low) is None and context.tangent(high) is None:
        return context.scaled(context.moving(node), clip_slope(context, node, x, y), context.dims(y))
    kept: ir.Value | None = None
    result: Tangent | None = None
    for bound, beyond in ((high, "Less"), (low, "Greater")):  # the upper bound wins where they cross
        if bound is None:
            continue
        inside = context.cast(context.op(beyond, y, bound, dtype=ir.DataType.BOOL), y)
        taken = context.op("Sub", context.number(1, y), inside)
        if kept is not None:
            taken = context.op("Mul", taken, kept)
        taken.shape = y.shape
        result = context.add(result, times(context, context.tangent(bound), taken, node))
        kept = inside if kept is None else context.op("Mul", kept, inside)
    if kept is not None:
        kept.shape = y.shape
        result = context.add(result, times(context, context.tangent(x), kept, node))
    return result


def modulo(context: Context, node: ir.Node) -> Outputs:
    """d(a − b n) = da − n db, n = trunc(a / b): the number of whole b in a (fmod = 1, the form for floats)."""
    a, b = required(node, 0), required(node, 1)
    y = node.outputs[0]
    result: Tangent | None = None
    if (tangent := context.tangent(a)) is not None:
        result = context.broadcast(tangent, y)
    if context.tangent(b) is not None:
        whole = context.op("Div", context.op("Sub", a, y), b)
        whole.shape = y.shape
        result = context.subtract(result, times(context, context.tangent(b), whole, node))
    return result


def sequence(context: Context, node: ir.Node) -> Outputs:
    """d(start + i delta) = d start + i d delta; how many there are is a step in all three."""
    start, delta, y = required(node, 0), required(node, 2), node.outputs[0]
    count = context.op("Div", context.op("Sub", y, start), delta)
    count.shape = y.shape
    tangent = context.tangent(start)
    first = None if tangent is None else context.broadcast(tangent, y)
    return context.add(first, times(context, context.tangent(delta), count, node))


_SUM = on_one_grid(constant_over_grid)
_PRODUCT = on_one_grid(commuting.product)

OPS = (
    *(
        Op(name, tangent=Rule("sum", total, operands=ALL), layout=nary, geometric=_SUM,
           homogeneous=spatial_operands, kind=kind, linear=ALL,
           transpose=Transpose(adjoint.total, ALL))
        for name, kind in (("Add", Kind.SUM), ("Sub", Kind.AFFINE), ("Sum", Kind.SUM), ("Mean", None))
    ),
    Op("Mul", tangent=Rule("product", product, operands=(0, 1)), layout=nary, geometric=_PRODUCT,
       homogeneous=_PRODUCT, kind=Kind.PRODUCT, linear=(0, 1),
       transpose=Transpose(adjoint.product, (0, 1))),
    Op("Div", tangent=Rule("quotient", quotient, operands=(0, 1)), layout=nary, geometric=_PRODUCT,
       homogeneous=_PRODUCT, kind=Kind.AFFINE, linear=(0,),
       transpose=Transpose(adjoint.quotient)),
    Op("Range", tangent=Rule("sum", sequence, operands=(0, 2), steps=(1,), differentiable=False, note=STEP_NOTE),
       sized_by=ALL, linear=(0, 2),
       transpose=Transpose(operands=(), without="its tangent is written as products")),
    Op("Mod", tangent=Rule("remainder", modulo, operands=(0, 1)), layout=nary),
    Op("Pow", tangent=Rule("power", power, operands=(0, 1)), layout=nary),
    *(
        Op(name, tangent=Rule("choice", extremum, operands=ALL), layout=nary, homogeneous=spatial_operands,
           kind=Kind.NONLINEARITY, kinked=True)
        for name in ("Max", "Min")
    ),
    Op("Where", tangent=Rule("choice", where, operands=(1, 2), ignored=(0,)), layout=nary, kinked=True,
       linear=(1, 2),
       transpose=Transpose(adjoint.where, (1, 2))),
    Op("PRelu", tangent=Rule("pointwise", prelu, operands=(0, 1)), layout=nary, homogeneous=spatial,
       kind=Kind.NONLINEARITY, kinked=True),
    Op("Clip", tangent=Rule("pointwise", clip, operands=(0, 1, 2)), layout=unary, kind=Kind.NONLINEARITY,
       kinked=True),
)  # fmt: skip
