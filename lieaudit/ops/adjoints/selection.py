"""Ops that pick elements, and those that write them."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.extents import Extent, product
from lieaudit.graph.nodes import constant, has_input, ints_of, required
from lieaudit.ops.adjoints.arithmetic import Outputs, first
from lieaudit.ops.adjoints.placing import added, picked, scattered


def slice_(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Put the slice back among zeros, one axis after the other."""
    u, extents = first(ys), a.sizes_of(required(node, 0))
    rank = len(extents)
    sizes = list(a.sizes_of(node.outputs[0]))
    if 0 in sizes:
        return a.zeros(extents, u)
    count = a.fixed(required(node, 1), 0)
    axes = ints_of(node, "axes", 3) if has_input(node, 3) else list(range(count))
    if axes is None:
        raise ValueError("axes of a Slice are constant wherever a tangent passes one")
    for k, axis in enumerate(axis % rank for axis in axes):
        if sizes[axis] == extents[axis] and _forward(node, k):
            continue
        sizes[axis] = extents[axis]
        u = _unsliced(a, node, k, u, tuple(sizes), axis)
    return u


def _forward(node: ir.Node, k: int) -> bool:
    steps = ints_of(node, "steps", 4) if has_input(node, 4) else [1] * (k + 1)
    return steps is not None and steps[k] == 1


def _unsliced(a: Adjoint, node: ir.Node, k: int, u: ir.Value, extents: tuple[Extent, ...], axis: int) -> ir.Value:
    size = extents[axis]
    bounds = [constant(required(node, place)) for place in (1, 2)]
    steps = constant(node.inputs[4]) if has_input(node, 4) else np.ones(k + 1, np.int64)
    if isinstance(size, int) and steps is not None and all(b is not None for b in bounds):
        start, end = (int(b.reshape(-1)[k]) for b in bounds if b is not None)
        step = int(steps.reshape(-1)[k])
        beyond = end < 0 and step < 0 and end < -size  # runs to the first element
        taken = np.arange(size)[slice(start, None if beyond else end, step)]
        return picked(a, u, extents, axis, taken)
    numbers = a.op("Range", a.scalar(0), a.squeeze(a.size(size), [0]), a.scalar(1), dtype=ir.DataType.INT64)
    ends = [_at(a, required(node, place), k) for place in (1, 2)]
    step_of = _at(a, required(node, 4), k) if has_input(node, 4) else a.ints([1])
    taken_at = a.op("Slice", numbers, *ends, a.ints([0]), step_of, dtype=ir.DataType.INT64)
    return scattered(a, u, extents, axis, taken_at)


def _at(a: Adjoint, value: ir.Value, k: int) -> ir.Value:
    return a.op("Cast", a.slice(value, [k], [k + 1], [0]), dtype=ir.DataType.INT64, to=int(ir.DataType.INT64))


def gather(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Add every slice where it was taken from."""
    x, indices = required(node, 0), required(node, 1)
    extents = a.sizes_of(x)
    axis = node.attributes.get_int("axis", 0) % len(extents)
    shape = a.measured.get(indices)
    count = -1 if shape is None else product(shape)
    flat = a.reshape(first(ys), [*extents[:axis], count, *extents[axis + 1 :]])
    array = constant(indices)
    if array is not None:
        return picked(a, flat, extents, axis, array.reshape(-1))
    return scattered(a, flat, extents, axis, indices)


def gather_elements(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Add every element where it was taken from."""
    x, u = required(node, 0), first(ys)
    axis = node.attributes.get_int("axis", 0) % a.rank_of(x)
    return added(a, a.zeros(a.sizes_of(x), u), required(node, 1), u, axis)


def gather_nd(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Add every slice where it was taken from: batch, indexed and further axes each as one."""
    x, indices = required(node, 0), required(node, 1)
    extents, shape = a.sizes_of(x), a.sizes_of(indices)
    batch, depth = node.attributes.get_int("batch_dims", 0), a.fixed(indices, -1)
    lead, rest = product(extents[:batch]), product(extents[batch + depth :])
    wide = [a.fixed(x, batch + k) for k in range(depth)]
    count = product(shape[batch:-1])
    strides = a.ints(math.prod(wide[k + 1 :]) for k in range(depth))
    places = a.op("Cast", indices, dtype=ir.DataType.INT64, to=int(ir.DataType.INT64))
    negative = a.op("Less", places, a.scalar(0), dtype=ir.DataType.BOOL)
    places = a.op("Where", negative, a.op("Add", places, a.ints(wide)), places, dtype=ir.DataType.INT64)
    flat = a.reduce("Sum", a.op("Mul", places, strides), [len(shape) - 1], keepdims=False)
    flat = a.reshape(flat, [lead, count, 1])
    sizes = (lead, math.prod(wide), rest)
    u = a.reshape(first(ys), [lead, count, rest])
    flat = a.op("Expand", flat, a.shape([lead, count, rest]), dtype=ir.DataType.INT64)
    return a.reshape(added(a, a.zeros(sizes, u), flat, u, 1), extents)


def compress(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Put what was kept back among zeros."""
    x, kept = required(node, 0), required(node, 1)
    extents = a.sizes_of(x)
    places = a.op("Reshape", a.op("NonZero", kept, dtype=ir.DataType.INT64), a.ints([-1]))
    axis = node.attributes.get_int("axis", None)
    if axis is None:
        return a.reshape(scattered(a, first(ys), (product(extents),), 0, places), extents)
    return scattered(a, first(ys), extents, axis % len(extents), places)


def reverse_sequence(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Reverse again."""
    return a.op("ReverseSequence", first(ys), required(node, 1), attributes=node.attributes)


def trilu(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Take the same triangle."""
    return a.op("Trilu", first(ys), *node.inputs[1:], attributes=node.attributes)


def scatter_elements(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Pick what was written; what was overwritten gets none."""
    u, indices = first(ys), required(node, 1)
    axis = node.attributes.get_int("axis", 0)
    if i == 2:
        return a.op("GatherElements", u, indices, axis=axis)
    if node.attributes.get_string("reduction", "none") == "add":
        return u
    return a.op("ScatterElements", u, indices, a.zeros(a.sizes_of(required(node, 2)), u), axis=axis)


def scatter_nd(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Pick what was written; what was overwritten gets none."""
    u, indices = first(ys), required(node, 1)
    if i == 2:
        return a.op("GatherND", u, indices)
    if node.attributes.get_string("reduction", "none") == "add":
        return u
    return a.op("ScatterND", u, indices, a.zeros(a.sizes_of(required(node, 2)), u))
