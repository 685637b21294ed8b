"""Drawing the rounding errors of a graph anew: the same function to within rounding, other last bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.derivatives.base import Float32Array, Float64Array
from lieaudit.ops import lookup


def jittered(values: Float32Array, draw: int = 0) -> Float32Array:
    """Move every number but 0 by one unit in the last place, up or down as a hash of its value and ``draw`` says.

    Equal numbers move alike: on the flat background of a digit maxima are tied, the derivative there is what the order
    of indices makes it, and breaking ties would measure that instead of rounding.
    """
    up = _hash(values, draw) % np.uint32(2) == 1
    towards = np.where(up, np.inf, -np.inf).astype(np.float32)
    return np.where(values == 0, values, np.nextafter(values, towards))


def _hash(values: Float32Array, draw: int) -> npt.NDArray[np.uint32]:
    """Return well mixed bits of every number (two rounds of a multiplicative hash)."""
    mixed = np.ascontiguousarray(values, np.float32).view(np.uint32) + np.uint32(draw * 0x9E3779B1 & 0xFFFFFFFF)
    for factor in (2654435761, 2246822519):
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(factor)
    return np.asarray(mixed >> np.uint32(16), np.uint32)


def jittered_weights(model: ir.Model, draw: int) -> ir.Model:
    """Return a copy of a graph whose float32 weights are moved by one unit in the last place.

    Every sum then rounds elsewhere, while the function moves by less than its rounding; moved pixels alone would leave
    the errors of the first layers as they were, or drown them. ``draw`` says which weight goes which way, equal ones
    alike.
    """
    copy = model.clone()
    weights = {
        value
        for node in copy.graph
        if (op := lookup(node)) is not None and op.sums_products
        for value in node.inputs
        if value is not None and value.is_initializer() and value.dtype == ir.DataType.FLOAT
    }
    for value in weights:
        if value.const_value is not None and len(value.const_value.shape) > 1:
            array = np.asarray(value.const_value.numpy(), np.float32)
            value.const_value = ir.Tensor(jittered(array, draw), name=value.name)
    return copy


def combined(
    directions: Float32Array, scales: Float64Array, draw: int
) -> tuple[Float32Array, Float64Array, Float64Array]:
    """Combine the directions of every image into one, with signs drawn at random.

    Parameters
    ----------
    directions, scales
        (n, D, C, H, W) and (n, D): each is divided by its scale, so that all weigh alike.
    draw
        Which signs.

    Returns
    -------
    The combination (n, C, H, W); its weights (n, D), the largest of magnitude 1; and per image the factor (n,) that
    turns an error of its derivative into one relative to the scales, as a single direction has it.
    """
    signs = np.random.default_rng(draw).choice([-1.0, 1.0], scales.shape)
    weights = signs / np.where(scales > 0, scales, np.inf)
    largest = np.abs(weights).max(axis=1, keepdims=True)
    weights /= np.where(largest > 0, largest, 1.0)
    rows = np.einsum("nd,nd...->n...", weights.astype(np.float32), directions)
    taking_part = np.maximum(np.sum(scales > 0, axis=1), 1)
    return rows, weights, largest[:, 0] / np.sqrt(taking_part)
