"""Activation functions, alone and with the bias before them."""

from __future__ import annotations

import math

from lieaudit.ops.body import Body, Expansion, NotCovered
from lieaudit.ops.elementwise_axes import unary
from lieaudit.ops.op import MICROSOFT, Kind, Op

_PARAMETERS = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "ThresholdedRelu": ("alpha",),
}
_WITHOUT = {"Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"}


def activate(b: Body, x: str, name: str, parameters: dict[str, float]) -> str:
    """Apply an activation by its ONNX name; parameters by their ONNX names, where they are given."""
    if name in _WITHOUT or name in _PARAMETERS:
        return b.op(name, x, **{key: parameters.get(key) for key in _PARAMETERS.get(name, ())})
    if name == "Clip":
        return _clip(b, x, parameters)
    if name == "HardSwish":  # the standard has it since opset 14
        return b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    if name:
        raise NotCovered(f"activation {name}")
    return x


def _clip(b: Body, x: str, bounds: dict[str, float]) -> str:
    if b.opset < 11:
        return b.op("Clip", x, min=bounds.get("min"), max=bounds.get("max"))
    return b.op("Clip", x, *(b.number(bounds[key]) if key in bounds else "" for key in ("min", "max")))


def gelu(b: Body, x: str) -> str:
    """Write x Φ(x) = x/2 (1 + erf(x/√2)) (Hendrycks and Gimpel 2016)."""
    grown = b.op("Add", b.op("Erf", b.scaled(x, math.sqrt(0.5))), b.number(1.0))
    return b.op("Mul", b.scaled(x, 0.5), grown)


def gelu_tanh(b: Body, x: str) -> str:
    """Write Gelu's approximation x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    cubed = b.op("Mul", b.op("Mul", x, x), x)
    inner = b.scaled(b.op("Add", x, b.scaled(cubed, 0.044715)), math.sqrt(2 / math.pi))
    return b.op("Mul", b.scaled(x, 0.5), b.op("Add", b.op("Tanh", inner), b.number(1.0)))


def _gelu(b: Body) -> None:
    b.result(gelu(b, _biased(b)))


def _fast_gelu(b: Body) -> None:
    b.result(gelu_tanh(b, _biased(b)))


def _quick_gelu(b: Body) -> None:
    """Write x σ(αx) (Hendrycks and Gimpel 2016)."""
    grown = b.op("Sigmoid", b.scaled(b.input(0), b.attributes.get_float("alpha", 1.702)))
    b.result(b.op("Mul", b.input(0), grown))


def _bias_split_gelu(b: Body) -> None:
    """Write the first half of the channels times the Gelu of the second (GEGLU, Shazeer 2020)."""
    size = b.array(1).shape[-1] // 2
    left, right = b.split(_biased(b), [size, size], axis=-1)
    b.result(b.op("Mul", left, gelu(b, right)))


def _bias_add(b: Body) -> None:
    b.result(b.op("Add", _biased(b), b.input(2)))


def _bias_softmax(b: Body) -> None:
    """Softmax over all axes from `axis` on, of the data plus a bias that broadcasts along inner or outer axes."""
    rank, other = b.rank(0), b.rank(1)
    axis = b.attributes.get_int("axis", 1) % rank
    if axis != rank - 1 or (other != rank and b.flag("is_inner_broadcast")):
        raise NotCovered("softmax over several axes")
    total = b.op("Add", b.input(0), b.input(1))
    b.result(b.op("Softmax", total, axis=rank - 1))


def _biased(b: Body) -> str:
    return b.op("Add", b.input(0), b.input(1)) if b.has(1) else b.input(0)


def _activation(name: str, expansion: Expansion) -> Op:
    return Op(name, MICROSOFT, expansion=expansion, layout=unary, kind=Kind.NONLINEARITY)


OPS = (
    _activation("Gelu", _gelu),
    _activation("BiasGelu", _gelu),
    _activation("FastGelu", _fast_gelu),
    _activation("QuickGelu", _quick_gelu),
    Op("BiasSplitGelu", MICROSOFT, expansion=_bias_split_gelu, kind=Kind.NONLINEARITY),
    Op("BiasAdd", MICROSOFT, expansion=_bias_add, kind=Kind.SUM),
    Op("BiasSoftmax", MICROSOFT, expansion=_bias_softmax, kind=Kind.NONLINEARITY),
)
