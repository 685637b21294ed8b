"""GridSample in its image: every sample adds to the pixels that it was made of."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.extents import product
from lieaudit.graph.nodes import required
from lieaudit.ops.adjoints.arithmetic import Outputs, first
from lieaudit.ops.adjoints.placing import added
from lieaudit.ops.interpolants import kernel_weights_and_changes, padded_points


def grid_sample(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Σ over the pixels of the kernel: x[pixel] += weight · u."""
    image, grid = required(node, 0), required(node, 1)
    extents, made = a.sizes_of(image), a.sizes_of(node.outputs[0])
    sizes = [a.fixed(image, 2 + k) for k in range(len(extents) - 2)]
    samples = product(made[2:])
    u = a.reshape(first(ys), [made[0], made[1], samples])
    points = a.reshape(grid, [made[0], 1, samples, len(sizes)])
    axes = [_axis(a, node, points, k, sizes) for k in range(len(sizes))]
    flat = (extents[0], extents[1], math.prod(sizes))
    total = a.zeros(flat, u)
    for pixel in itertools.product(*axes):
        place: ir.Value | None = None
        weight: ir.Value | None = None
        for (at, share), size in zip(pixel, sizes, strict=True):
            place = at if place is None else a.op("Add", a.op("Mul", place, a.number(size, place)), at)
            weight = share if weight is None else a.op("Mul", weight, share)
        if place is None or weight is None:
            continue
        places = a.op("Cast", place, dtype=ir.DataType.INT64, to=int(ir.DataType.INT64))
        places = a.op("Expand", places, a.shape([made[0], made[1], samples]), dtype=ir.DataType.INT64)
        total = added(a, total, places, a.op("Mul", u, weight), 2)
    return a.reshape(total, extents)


def _axis(a: Adjoint, node: ir.Node, points: ir.Value, k: int, sizes: list[int]) -> list[tuple[ir.Value, ir.Value]]:
    """Return (index, weight) of the kernel's pixels along one axis of the image; the grid names the last one first."""
    size, corners = sizes[k], node.attributes.get_int("align_corners", 0) == 1
    mode = node.attributes.get_string("mode", "linear")
    padding = node.attributes.get_string("padding_mode", "zeros")
    place = len(sizes) - 1 - k
    at = a.squeeze(a.slice(points, [place], [place + 1], [3]), [3])
    scale = (size - 1) / 2 if corners else size / 2
    offset = scale if corners else scale - 0.5
    at = a.op("Add", a.op("Mul", at, a.number(scale, at)), a.number(offset, at))
    if mode == "nearest":
        at = a.op("Round", at)
    if padding != "zeros" and "cubic" not in mode:  # a cubic kernel pads each of its pixels, not the point
        at = padded_points(a, at, padding, np.array(size, np.float64), corners=corners)[0]
    if mode == "nearest":
        return [_pixel(a, a.op("Round", at), None, padding, size, corners=corners)]
    first_pixel = a.op("Floor", at)
    beyond = a.op("Sub", at, first_pixel)
    weights, _ = kernel_weights_and_changes(a, beyond, 4 if "cubic" in mode else 2)
    start = 0 if len(weights) == 2 else -1
    return [
        _pixel(a, a.op("Add", first_pixel, a.number(start + j, at)), weight, padding, size, corners=corners)
        for j, weight in enumerate(weights)
    ]


def _pixel(
    a: Adjoint, index: ir.Value, weight: ir.Value | None, padding: str, size: int, *, corners: bool
) -> tuple[ir.Value, ir.Value]:
    """Return an index inside the image, and its weight: 0 outside where zeros are around."""
    low, high = a.number(0, index), a.number(size - 1, index)
    share = a.number(1, index) if weight is None else weight
    if padding == "reflection":
        period, first_one = (2 * (size - 1), 0) if corners else (2 * size, 1)
        if period == 0:
            return a.op("Mul", index, low), share
        turns = a.op("Floor", a.op("Div", index, a.number(period, index)))
        along = a.op("Sub", index, a.op("Mul", turns, a.number(period, index)))
        back = a.op("Sub", a.number(period - first_one, index), along)
        return a.op("Min", along, back), share
    inside = a.op("Max", a.op("Min", index, high), low)
    if padding == "zeros":
        share = a.op("Mul", share, a.cast(a.op("Equal", inside, index, dtype=ir.DataType.BOOL), index))
    return inside, share
