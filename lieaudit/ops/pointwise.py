"""Functions of one variable applied to every element: dy = f'(x) dx."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.graph.nodes import constant, has_input, required
from lieaudit.ops.adjoints import arithmetic as adjoint
from lieaudit.ops.commuting import always, on_one_grid, spatial
from lieaudit.ops.elementwise_axes import unary
from lieaudit.ops.fused.experimental import thresholded_relu
from lieaudit.ops.op import Kind, Op, Rule, Transpose

_STEEP = 2.0**100

Slope = Callable[[Context, ir.Node, ir.Value, ir.Value], ir.Value]
"""(context, node, x, y) → f'(x), a value of the shape of x."""


def _pointwise(slope: Slope) -> Callable[[Context, ir.Node], Tangent]:
    def apply(context: Context, node: ir.Node) -> Tangent:
        x, y = required(node, 0), node.outputs[0]
        return context.scaled(context.moving(node), slope(context, node, x, y), context.dims(y))

    return apply


def _step(c: Context, above: ir.Value, x: ir.Value) -> ir.Value:
    """Cast a boolean mask to x's dtype."""
    return c.cast(above, x)


def _affine(c: Context, x: ir.Value, scale: float, offset: float) -> ir.Value:
    scaled = x if scale == 1 else c.op("Mul", x, c.number(scale, x))
    return scaled if offset == 0 else c.op("Add", scaled, c.number(offset, x))


def above(c: Context, y: ir.Value, bound: float) -> ir.Value:
    """Return 1 where y > bound, else 0, as an op that onnxruntime computes in its blocked layout of convolutions.

    HardSigmoid with a slope that is a power of two: 2^100 (y − bound) has the exact sign of y − bound.
    """
    return c.op("HardSigmoid", y, alpha=_STEEP, beta=-bound * _STEEP)


def below(c: Context, y: ir.Value, bound: float) -> ir.Value:
    """Return 1 where y < bound, else 0; see `above`."""
    return c.op("HardSigmoid", y, alpha=-_STEEP, beta=bound * _STEEP)


def _relu(c: Context, _n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    # From y, not x: the value path keeps its fusion of Conv and Relu.
    if c.blocked(y):
        return above(c, y, 0.0)
    if c.opset >= 9:
        return c.op("Sign", y)
    return _step(c, c.op("Greater", y, c.number(0, x), dtype=ir.DataType.BOOL), x)


def _two_sided(c: Context, x: ir.Value, negative: ir.Value) -> ir.Value:
    """Return 1 where x > 0, ``negative`` elsewhere."""
    above = _step(c, c.op("Greater", x, c.number(0, x), dtype=ir.DataType.BOOL), x)
    return c.op("Add", above, c.op("Mul", c.op("Sub", c.number(1, x), above), negative))


def _leaky_relu(c: Context, n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return _two_sided(c, x, c.number(n.attributes.get_float("alpha", 0.01), x))


def _thresholded_relu(c: Context, n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    alpha = c.number(n.attributes.get_float("alpha", 1.0), x)
    return _step(c, c.op("Greater", x, alpha, dtype=ir.DataType.BOOL), x)


def _shrink(c: Context, n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    bound = c.number(n.attributes.get_float("lambd", 0.5), x)
    return _step(c, c.op("Greater", c.op("Abs", x), bound, dtype=ir.DataType.BOOL), x)


def _elu(c: Context, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    # For x ≤ 0, y = α (e^x − 1), so f' = y + α.
    return _two_sided(c, x, _affine(c, y, 1, n.attributes.get_float("alpha", 1.0)))


def _selu(c: Context, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    alpha = n.attributes.get_float("alpha", 1.67326319217681884765625)
    gamma = n.attributes.get_float("gamma", 1.05070102214813232421875)
    above = _step(c, c.op("Greater", x, c.number(0, x), dtype=ir.DataType.BOOL), x)
    below = c.op("Mul", c.op("Sub", c.number(1, x), above), _affine(c, y, 1, alpha * gamma))
    return c.op("Add", c.op("Mul", above, c.number(gamma, x)), below)


def _celu(c: Context, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    # For x ≤ 0, y = α (e^(x/α) − 1), so f' = y/α + 1.
    return _two_sided(c, x, _affine(c, y, 1 / n.attributes.get_float("alpha", 1.0), 1))


def _normal_density(c: Context, x: ir.Value) -> ir.Value:
    """φ(x), the density of the standard normal distribution."""
    square = c.op("Mul", c.op("Mul", x, x), c.number(-0.5, x))
    return c.op("Mul", c.op("Exp", square), c.number(1 / math.sqrt(2 * math.pi), x))


def _gelu(c: Context, n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    if n.attributes.get_string("approximate", "none") == "tanh":
        # u = √(2/π) (x + 0.044715 x³), y = x (1 + tanh u) / 2
        k = math.sqrt(2 / math.pi)
        square = c.op("Mul", x, x)
        u = c.op("Mul", x, _affine(c, square, 0.044715 * k, k))
        du = _affine(c, square, 3 * 0.044715 * k, k)
        t = c.op("Tanh", u)
        sech2 = c.op("Sub", c.number(1, x), c.op("Mul", t, t))
        tail = c.op("Mul", c.op("Mul", x, sech2), c.op("Mul", du, c.number(0.5, x)))
        return c.op("Add", _affine(c, t, 0.5, 0.5), tail)
    cumulative = _affine(c, c.op("Erf", c.op("Mul", x, c.number(1 / math.sqrt(2), x))), 0.5, 0.5)
    return c.op("Add", cumulative, c.op("Mul", x, _normal_density(c, x)))


def _erf(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    square = c.op("Neg", c.op("Mul", x, x))
    return c.op("Mul", c.op("Exp", square), c.number(2 / math.sqrt(math.pi), x))


def _one_minus_logistic(c: Context, x: ir.Value) -> ir.Value:
    """Return 1 − s(x) = s(−x) = 1 / (1 + exp(x)): right to the last digits also where it is small, unlike Sigmoid's.

    Where exp overflows, the reciprocal of infinity is the 0 that is meant.
    """
    return c.op("Reciprocal", _affine(c, c.op("Exp", x), 1, 1))


def _logistic(c: Context, x: ir.Value) -> ir.Value:
    return _one_minus_logistic(c, c.op("Neg", x))


def _sech2(c: Context, x: ir.Value) -> ir.Value:
    """Return 1 − tanh² x as 4e/(1 + e)² with e = exp(−2 |x|): where tanh is nearly 1, its distance from 1 is lost."""
    e = c.op("Exp", c.op("Mul", c.op("Abs", x), c.number(-2, x)))
    root = _affine(c, e, 1, 1)
    return c.op("Div", _affine(c, e, 4, 0), c.op("Mul", root, root))


def _sigmoid(c: Context, _n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    # y (1 − y) with a right tail where y is nearly 1. Where y is small it errs by 7e-6 of itself at x = −5, by 2e-4 at
    # −10; the slope that errs alike keeps the quotient right, which is what a Log behind it takes.
    return c.op("Mul", y, _one_minus_logistic(c, x))


def _hard_sigmoid(c: Context, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    # y = max(0, min(1, αx + β)): the slope is α where 0 < y < 1.
    inside = _between(c, y, c.number(0, x), c.number(1, x))
    return c.op("Mul", inside, c.number(n.attributes.get_float("alpha", 0.2), x))


def _between(c: Context, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    above = c.op("Greater", x, low, dtype=ir.DataType.BOOL)
    below = c.op("Less", x, high, dtype=ir.DataType.BOOL)
    return c.cast(c.op("And", above, below, dtype=ir.DataType.BOOL), x)


def _hard_swish(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    # y = x · max(0, min(1, x/6 + 1/2)): slope x/3 + 1/2 inside (−3, 3), 1 above.
    inside = _between(c, x, c.number(-3, x), c.number(3, x))
    over = c.cast(c.op("Not", c.op("Less", x, c.number(3, x), dtype=ir.DataType.BOOL), dtype=ir.DataType.BOOL), x)
    return c.op("Add", c.op("Mul", inside, _affine(c, x, 1 / 3, 0.5)), over)


def _swish(c: Context, n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    alpha = n.attributes.get_float("alpha", 1.0)
    u = _affine(c, x, alpha, 0)
    s = _logistic(c, u)
    return c.op("Mul", s, _affine(c, c.op("Mul", u, _one_minus_logistic(c, u)), 1, 1))


def _mish(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    # y = x tanh(softplus x): y' = tanh(sp) + x (1 − tanh²(sp)) sigmoid(x)
    softplus = c.op("Softplus", x)
    rest = c.op("Mul", _sech2(c, softplus), _logistic(c, x))
    return c.op("Add", c.op("Tanh", softplus), c.op("Mul", x, rest))


def _softplus(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return _logistic(c, x)


def _softsign(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    inverse = c.op("Reciprocal", _affine(c, c.op("Abs", x), 1, 1))
    return c.op("Mul", inverse, inverse)


def _tanh(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return _sech2(c, x)


def _exp(_c: Context, _n: ir.Node, _x: ir.Value, y: ir.Value) -> ir.Value:
    return y


def _log(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Reciprocal", x)


def _sqrt(c: Context, _n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    return c.op("Div", c.number(0.5, x), y)


def _reciprocal(c: Context, _n: ir.Node, _x: ir.Value, y: ir.Value) -> ir.Value:
    return c.op("Neg", c.op("Mul", y, y))


def _abs(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    if c.opset >= 9:
        return c.op("Sign", x)
    above = _step(c, c.op("Greater", x, c.number(0, x), dtype=ir.DataType.BOOL), x)
    return c.op("Sub", above, _step(c, c.op("Less", x, c.number(0, x), dtype=ir.DataType.BOOL), x))


def _neg(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.number(-1, x)


def _fixed(bounds: list[ir.Value | None], arrays: list[np.ndarray[Any, Any] | None]) -> bool:
    """Say whether every bound that is there is a constant of moderate size."""
    return all(b is None or (a is not None and abs(float(a)) < 1e6) for b, a in zip(bounds, arrays, strict=True))


def clip_slope(c: Context, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return 1 strictly inside the bounds; y equals x there, so y serves and the value path keeps its fusions."""
    bounds: list[ir.Value | None] = [None, None]
    for i, name in enumerate(("min", "max")):
        if name in n.attributes:
            bounds[i] = c.number(n.attributes.get_float(name), x)
        elif has_input(n, i + 1):
            array = constant(n.inputs[i + 1])
            bounds[i] = n.inputs[i + 1] if array is None else c.number(float(array.reshape(())), x)
    low, high = bounds
    if c.blocked(y) and (fixed := [None if b is None else constant(b) for b in bounds]) and _fixed(bounds, fixed):
        masks = [above(c, y, float(fixed[0]))] if fixed[0] is not None else []
        masks += [below(c, y, float(fixed[1]))] if fixed[1] is not None else []
        if masks:
            return masks[0] if len(masks) == 1 else c.op("Mul", *masks)
    if low is not None and high is not None:
        return _between(c, y, low, high)
    if low is not None:
        return _step(c, c.op("Greater", y, low, dtype=ir.DataType.BOOL), x)
    if high is not None:
        return _step(c, c.op("Less", y, high, dtype=ir.DataType.BOOL), x)
    return c.number(1, x)


def _sin(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Cos", x)


def _cos(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Neg", c.op("Sin", x))


def _tan(c: Context, _n: ir.Node, _x: ir.Value, y: ir.Value) -> ir.Value:
    return _affine(c, c.op("Mul", y, y), 1, 1)


def _one_minus_square(c: Context, x: ir.Value) -> ir.Value:
    return c.op("Sub", c.number(1, x), c.op("Mul", x, x))


def _asin(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Reciprocal", c.op("Sqrt", _one_minus_square(c, x)))


def _acos(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Neg", c.op("Reciprocal", c.op("Sqrt", _one_minus_square(c, x))))


def _atan(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Reciprocal", _affine(c, c.op("Mul", x, x), 1, 1))


def _sinh(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Cosh", x)


def _cosh(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Sinh", x)


def _asinh(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Reciprocal", c.op("Sqrt", _affine(c, c.op("Mul", x, x), 1, 1)))


def _acosh(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Reciprocal", c.op("Sqrt", _affine(c, c.op("Mul", x, x), 1, -1)))


def _atanh(c: Context, _n: ir.Node, x: ir.Value, _y: ir.Value) -> ir.Value:
    return c.op("Reciprocal", _one_minus_square(c, x))


_SLOPES: dict[str, Slope] = {
    # nonlinearities, as layers have them
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded_relu,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "Erf": _erf,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Mish": _mish,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Tanh": _tanh,
    "Abs": _abs,
    "Sin": _sin,
    # functions that formulas are written in
    "Shrink": _shrink,
    "Exp": _exp,
    "Log": _log,
    "Sqrt": _sqrt,
    "Reciprocal": _reciprocal,
    "Neg": _neg,
    "Cos": _cos,
    "Tan": _tan,
    "Asin": _asin,
    "Acos": _acos,
    "Atan": _atan,
    "Sinh": _sinh,
    "Cosh": _cosh,
    "Asinh": _asinh,
    "Acosh": _acosh,
    "Atanh": _atanh,
}
_FUNCTIONS = {
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Exp", "Log", "Neg", "Reciprocal", "Shrink",
    "Sinh", "Sqrt", "Tan",
}  # fmt: skip
"""Not by themselves the nonlinearity of a layer."""

_HOMOGENEOUS = {"Abs", "LeakyRelu", "Relu"}
_KINKED = {
    "Abs", "Celu", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Shrink", "Softsign",
    "ThresholdedRelu",
}  # fmt: skip

OPS = (
    *(
        Op(name, tangent=Rule("pointwise", _pointwise(slope)), layout=unary,
           geometric=on_one_grid(always) if name == "Neg" else None,
           homogeneous=on_one_grid(always) if name == "Neg" else spatial if name in _HOMOGENEOUS else None,
           kind=None if name in _FUNCTIONS else Kind.NONLINEARITY, kinked=name in _KINKED,
           linear=(0,) if name == "Neg" else (),
           transpose=Transpose(adjoint.negative) if name == "Neg" else None,
           expansion=thresholded_relu if name == "ThresholdedRelu" else None,
           head="sigmoid" if name == "Sigmoid" else "")
        for name, slope in _SLOPES.items()
    ),
)  # fmt: skip
