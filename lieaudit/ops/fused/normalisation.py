"""Layer and group normalisation, alone and with the sums before them."""

from __future__ import annotations

from lieaudit.ops.body import Body, NotCovered
from lieaudit.ops.elementwise_axes import residual, unary
from lieaudit.ops.op import MICROSOFT, Kind, Op


def _skip_layer_normalization(b: Body) -> None:
    _normalised(b, _summed(b, bias=4), scale=2, bias=3, simplified=False)


def _skip_simplified_layer_normalization(b: Body) -> None:
    _normalised(b, _summed(b, bias=3), scale=2, bias=-1, simplified=True)


def _simplified_layer_normalization(b: Body) -> None:
    _normalised(b, b.input(0), scale=1, bias=-1, simplified=True)


def layer_normalization_before(b: Body) -> None:
    """Write the op as it was before the standard had it (opset 17)."""
    _normalised(b, b.input(0), scale=1, bias=2, simplified=False)


def _group_norm(b: Body) -> None:
    _grouped(b, b.input(0), scale=1, bias=2)


def _skip_group_norm(b: Body) -> None:
    """Normalise X + skip + bias."""
    if not b.flag("channels_last", default=1) or b.rank(3) != 4:
        raise NotCovered("a skip that is not (N, H, W, C)")
    total = b.op("Add", b.input(0), b.input(3))
    total = b.op("Add", total, b.input(4)) if b.has(4) else total
    if b.wants(1):
        b.result(total, 1)
    _grouped(b, total, scale=1, bias=2)


def _axes(b: Body) -> list[int]:
    """Return the axes from `axis` on, which is the last one where the op has no such attribute."""
    axis = b.attributes.get_int("axis", -1)
    if axis >= 0:
        axis -= b.rank(0)
    return list(range(axis, 0))


def _summed(b: Body, bias: int) -> str:
    """Write input + skip + bias, and give it as the fourth output."""
    total = b.op("Add", b.input(0), b.input(1))
    total = b.op("Add", total, b.input(bias)) if b.has(bias) else total
    if b.wants(3):
        b.result(total, 3)
    return total


def _normalised(b: Body, x: str, *, scale: int, bias: int, simplified: bool) -> None:
    """Normalise over the last axes; the mean stays in where `simplified` (Zhang and Sennrich 2019)."""
    # SkipLayerNormalization has 1e-12, the others 1e-5
    default = 1e-12 if b.node.op_type.startswith("Skip") else 1e-5
    epsilon = b.attributes.get_float("epsilon", default)
    beta = b.input(bias) if bias >= 0 else ""
    if b.opset >= 17 and not simplified and not b.wants(1) and not b.wants(2):
        given = [beta] if beta else []
        b.result(b.op("LayerNormalization", x, b.input(scale), *given, axis=_axes(b)[0], epsilon=epsilon))
        return
    axes = _axes(b)
    mean = "" if simplified else b.mean(x, axes)
    centred = b.op("Sub", x, mean) if mean else x
    variance = b.mean(b.op("Mul", centred, centred), axes)
    deviation = b.op("Sqrt", b.op("Add", variance, b.number(epsilon)))
    y = b.op("Mul", b.op("Div", centred, deviation), b.input(scale))
    b.result(b.op("Add", y, beta) if beta else y)
    # the simplified form has one statistic, which takes the place of the mean where there is no Skip
    alone = simplified and not b.node.op_type.startswith("Skip")
    if b.wants(1) and not alone:
        if not mean:
            raise NotCovered("the mean of a simplified normalisation")
        b.result(mean, 1)
    if b.wants(1 if alone else 2):
        b.result(b.op("Reciprocal", deviation), 1 if alone else 2)


def _grouped(b: Body, x: str, *, scale: int, bias: int) -> None:
    """Normalise each group of channels of (N, H, W, C) or (N, C, H, W), then scale, shift and perhaps apply SiLU."""
    last = b.flag("channels_last", default=1)
    groups = b.attributes["groups"].as_int()
    x = b.op("Transpose", x, perm=[0, 3, 1, 2]) if last else x
    parts = b.op("Reshape", x, b.ints(0, groups, -1))
    centred = b.op("Sub", parts, b.mean(parts, [2]))
    variance = b.mean(b.op("Mul", centred, centred), [2])
    epsilon = b.number(b.attributes.get_float("epsilon", 1e-5))
    normal = b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, epsilon)))
    y = b.op("Reshape", normal, b.op("Shape", x))
    gamma, beta = (b.op("Reshape", b.input(i), b.ints(-1, 1, 1)) for i in (scale, bias))
    y = b.op("Add", b.op("Mul", y, gamma), beta)
    if b.attributes["activation"].as_int() == 1:
        y = b.op("Mul", y, b.op("Sigmoid", y))
    b.result(b.op("Transpose", y, perm=[0, 2, 3, 1]) if last else y)


_OVER = Kind.NORMALISATION

OPS = (
    Op("SkipLayerNormalization", MICROSOFT, expansion=_skip_layer_normalization, layout=residual, kind=_OVER),
    Op("SkipSimplifiedLayerNormalization", MICROSOFT, expansion=_skip_simplified_layer_normalization, layout=residual,
       kind=_OVER),
    # onnxruntime keeps this one in the default domain
    *(
        Op("SimplifiedLayerNormalization", domain, expansion=_simplified_layer_normalization, layout=unary, kind=_OVER)
        for domain in ("", MICROSOFT)
    ),
    Op("GroupNorm", MICROSOFT, expansion=_group_norm, kind=_OVER),
    Op("SkipGroupNorm", MICROSOFT, expansion=_skip_group_norm, kind=_OVER),
)  # fmt: skip
