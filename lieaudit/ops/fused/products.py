"""Convolutions and matrix products with a scale, a transpose, a sum or an activation inside."""

from __future__ import annotations

from typing import Any

from lieaudit.ops.body import Body, NotCovered
from lieaudit.ops.convolution import convolution_axes
from lieaudit.ops.fused.activations import activate, gelu_tanh
from lieaudit.ops.matmul import matmul_axes
from lieaudit.ops.op import MICROSOFT, Kind, Op

_WINDOW = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "pads", "strides")

_CONVOLUTION_PARAMETERS = {"LeakyRelu": ("alpha",), "Clip": ("min", "max"), "HardSigmoid": ("alpha", "beta")}
"""What ``activation_params`` holds, in order."""


def window(b: Body) -> dict[str, Any]:
    """Return the attributes that convolutions and pooling share with their standard namesakes."""
    return {name: b.attributes[name].value for name in _WINDOW if name in b.attributes}


def activated(b: Body, x: str) -> str:
    """Apply the activation of a fused convolution."""
    name = b.attributes.get_string("activation", "")
    given = b.attributes.get_floats("activation_params", [])
    return activate(b, x, name, dict(zip(_CONVOLUTION_PARAMETERS.get(name, ()), given, strict=False)))


def convolution(b: Body, x: str, weight: str, bias: str, total: str = "") -> str:
    """Write activation(conv(x) + total)."""
    y = b.op("Conv", x, weight, *([bias] if bias else []), **window(b))
    return activated(b, b.op("Add", y, total) if total else y)


def _fused_conv(b: Body) -> None:
    b.result(convolution(b, b.input(0), b.input(1), b.input(2), b.input(3)))


def _nhwc_conv(b: Body) -> None:
    """Write a convolution of (N, H, W, C), whose weights are (M, H, W, C/group)."""
    total = b.op("Transpose", b.input(3), perm=[0, 3, 1, 2]) if b.has(3) else ""
    x, weight = (b.op("Transpose", b.input(i), perm=[0, 3, 1, 2]) for i in (0, 1))
    b.result(b.op("Transpose", convolution(b, x, weight, b.input(2), total), perm=[0, 2, 3, 1]))


def _nhwc_max_pool(b: Body) -> None:
    pooled = b.op("MaxPool", b.op("Transpose", b.input(0), perm=[0, 3, 1, 2]), **window(b))
    b.result(b.op("Transpose", pooled, perm=[0, 2, 3, 1]))


def _fused_gemm(b: Body) -> None:
    names = ("alpha", "beta", "transA", "transB")
    attributes = {name: b.attributes[name].value for name in names if name in b.attributes}
    if not b.has(2) and b.opset < 11:
        raise NotCovered("Gemm without C")
    y = b.op("Gemm", *(b.input(i) for i in range(3) if b.has(i)), **attributes)
    given = {
        name: b.attributes.get_float(f"activation_{name}", 0.0)
        for name in ("alpha", "beta", "gamma")
        if f"activation_{name}" in b.attributes
    }
    b.result(activate(b, y, b.attributes.get_string("activation", ""), given))


def _gemm_fast_gelu(b: Body) -> None:
    y = b.op("MatMul", b.input(0), b.input(1))
    b.result(gelu_tanh(b, b.op("Add", y, b.input(2)) if b.has(2) else y))


def _fused_matmul(b: Body) -> None:
    b.result(_product(b))


def _fused_matmul_activation(b: Body) -> None:
    name = b.attributes.get_string("activation", "")
    given = {key: b.attributes.get_float(f"activation_{key}", 0.0) for key in ("alpha", "beta", "gamma")}
    given = {key: value for key, value in given.items() if f"activation_{key}" in b.attributes}
    if name == "Softmax":
        b.result(b.op("Softmax", _product(b), axis=b.attributes.get_int("activation_axis", -1)))
    else:
        b.result(activate(b, _product(b), name, given))


def _product(b: Body) -> str:
    """Write alpha · A B, each transposed as its attributes say."""
    sides = [_transposed(b, i, batch=b.flag(f"transBatch{s}"), last=b.flag(f"trans{s}")) for i, s in enumerate("AB")]
    return b.scaled(b.op("MatMul", *sides), b.attributes.get_float("alpha", 1.0))


def _transposed(b: Body, index: int, *, batch: bool, last: bool) -> str:
    """Transpose a factor: `batch` moves its first axis behind the others but the last, `last` swaps the last two."""
    if not batch and not last:
        return b.input(index)
    rank = b.rank(index)
    if rank < 2:
        return b.input(index)
    perm = list(range(rank))
    if batch:
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if last:
        perm[-2:] = perm[:-3:-1]
    return b.op("Transpose", b.input(index), perm=perm)


OPS = (
    Op("FusedConv", MICROSOFT, expansion=_fused_conv, layout=convolution_axes, kind=Kind.CONVOLUTION),
    *(Op(name, MICROSOFT, expansion=_nhwc_conv, kind=Kind.CONVOLUTION) for name in ("NhwcConv", "NhwcFusedConv")),
    Op("NhwcMaxPool", MICROSOFT, expansion=_nhwc_max_pool, kind=Kind.POOLING),
    Op("FusedGemm", MICROSOFT, expansion=_fused_gemm, kind=Kind.MATRIX_PRODUCT),
    Op("GemmFastGelu", MICROSOFT, expansion=_gemm_fast_gelu, kind=Kind.MATRIX_PRODUCT),
    Op("FusedMatMul", MICROSOFT, expansion=_fused_matmul, layout=matmul_axes, kind=Kind.MATRIX_PRODUCT),
    Op("TransposeMatMul", MICROSOFT, expansion=_fused_matmul, kind=Kind.MATRIX_PRODUCT),
    Op("FusedMatMulActivation", MICROSOFT, expansion=_fused_matmul_activation, kind=Kind.MATRIX_PRODUCT),
)
