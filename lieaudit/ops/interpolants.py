"""What sampling between pixels is made of: padding of points, and the kernels' weights with their derivatives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import Context

_CUBIC = -0.75
"""Slope of the cubic convolution kernel at distance 1 (Keys 1981), as onnxruntime and torch have it."""


def padded_points(
    context: Context, at: ir.Value, padding: str, sizes: np.ndarray, *, corners: bool
) -> tuple[ir.Value, ir.Value]:
    """Return where a point is after padding, and 1, 0 or −1 as it moves with the grid, not at all, or against it."""
    if padding == "border":
        last = vector(context, at, sizes - 1)
        zero = context.number(0.0, at)
        held = context.op("Max", context.op("Min", at, last), zero)
        same = context.op("Equal", held, at, dtype=ir.DataType.BOOL)
        return held, context.cast(same, at)
    # a wave of period 2 (max − min): up along one half, down along the other
    low = np.zeros_like(sizes) if corners else np.full_like(sizes, -0.5)
    span = np.maximum(sizes - 1, 1) if corners else sizes
    period = vector(context, at, 2 * span)
    along = context.op("Sub", at, vector(context, at, low))
    along = context.op("Sub", along, context.op("Mul", context.op("Floor", context.op("Div", along, period)), period))
    back = context.op("Greater", along, vector(context, at, span), dtype=ir.DataType.BOOL)
    place = context.op("Where", back, context.op("Sub", period, along), along, dtype=at.dtype)
    turn = context.op("Where", back, context.number(-1.0, at), context.number(1.0, at), dtype=at.dtype)
    return context.op("Add", place, vector(context, at, low)), turn


def kernel_weights_and_changes(context: Context, t: ir.Value, size: int) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the weights w_i(t) and their derivatives, i = 0 … size − 1, as polynomials of t in 0 … 1."""
    a = _CUBIC
    if size == 2:
        polynomials = [[1.0, -1.0], [0.0, 1.0]]
    else:
        polynomials = [
            [0.0, a, -2 * a, a],
            [1.0, 0.0, -(a + 3), a + 2],
            [0.0, -a, 2 * a + 3, -(a + 2)],
            [0.0, 0.0, a, -a],
        ]
    derived = [[k * c for k, c in enumerate(p)][1:] for p in polynomials]
    return [_polynomial(context, t, p) for p in polynomials], [_polynomial(context, t, p) for p in derived]


def _polynomial(context: Context, t: ir.Value, coefficients: list[float]) -> ir.Value:
    """Evaluate Σ c_k t^k after Horner."""
    total = context.op("Add", context.op("Mul", t, context.number(0.0, t)), context.number(coefficients[-1], t))
    for coefficient in coefficients[-2::-1]:
        total = context.op("Add", context.op("Mul", total, t), context.number(coefficient, t))
    return total


def vector(context: Context, like: ir.Value, values: np.ndarray) -> ir.Value:
    """Return constants of the dtype of another tensor."""
    dtype = like.dtype.numpy() if like.dtype is not None else np.dtype(np.float32)
    return context.const(np.asarray(values, dtype))
