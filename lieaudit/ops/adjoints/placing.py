"""Putting elements back where they were picked from: slices into zeros, and adding where indices repeat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.extents import Extent

_MOST_RUNS = 8
"""Pieces of consecutive indices up to which a pick is a few slices; more go through a scatter."""


def picked(a: Adjoint, u: ir.Value, extents: tuple[Extent, ...], axis: int, indices: np.ndarray) -> ir.Value:
    """Return x of sizes ``extents`` with x[indices[j]] += u[j] along an axis, for constant indices."""
    rank, size = len(extents), extents[axis]
    if not isinstance(size, int) or not len(indices):
        return scattered(a, u, extents, axis, a.ints(indices.tolist()))
    indices = np.where(indices < 0, indices + size, indices)
    runs = list(_runs(indices))
    if len(runs) > _MOST_RUNS:
        return scattered(a, u, extents, axis, a.ints(indices.tolist()))
    parts = []
    for start, count, step in runs:
        part = u if count == len(indices) else a.slice(u, [start], [start + count], [axis])
        first = int(indices[start])
        wide = (count - 1) * abs(step) + 1
        if step == 0:
            part = a.reduce("Sum", part, [axis])
        elif step < 0:
            part, first = a.reverse(part, [axis]), first + step * (count - 1)
        if abs(step) > 1 and count > 1:
            part = spread(a, part, extents, axis, count, abs(step))
        parts.append(a.pad(part, rank, {axis: first}, {axis: size - first - wide}))
    return a.total(parts)


def _runs(indices: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Return (start, count, step) of the longest pieces with a constant step."""
    start = 0
    while start < len(indices):
        count, step = 1, 1
        if start + 1 < len(indices):
            step, count = int(indices[start + 1] - indices[start]), 2
            while start + count < len(indices) and indices[start + count] - indices[start + count - 1] == step:
                count += 1
        yield start, count, step
        start += count


def spread(a: Adjoint, u: ir.Value, extents: tuple[Extent, ...], axis: int, count: int, step: int) -> ir.Value:
    """Put step − 1 zeros between the ``count`` elements of an axis; the other axes have the sizes of ``extents``."""
    before, after = list(extents[:axis]), list(extents[axis + 1 :])
    apart = a.reshape(u, [*before, count, 1, *after])
    padded = a.pad(apart, len(extents) + 1, {}, {axis + 1: step - 1})
    joined = a.reshape(padded, [*before, count * step, *after])
    return a.slice(joined, [0], [(count - 1) * step + 1], [axis])


def scattered(a: Adjoint, u: ir.Value, extents: tuple[Extent, ...], axis: int, indices: ir.Value) -> ir.Value:
    """Return x of sizes ``extents`` with x[indices[j]] += u[j] along an axis, for indices that a run brings."""
    rank = len(extents)
    places = a.op("Reshape", indices, a.ints([-1 if i == axis else 1 for i in range(rank)]), dtype=indices.dtype)
    shape = a.op("Shape", u, dtype=ir.DataType.INT64)
    places = a.op("Expand", places, shape, dtype=indices.dtype)
    return added(a, a.zeros(extents, u), places, u, axis)


def added(a: Adjoint, base: ir.Value, places: ir.Value, u: ir.Value, axis: int) -> ir.Value:
    """Add elements at places along an axis, as often as a place is named."""
    return a.op("ScatterElements", base, places, u, axis=axis, reduction="add")
