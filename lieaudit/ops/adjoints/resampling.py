"""Padding, pooling and resizing: axis by axis, by slices or by the matrix of the axis.

Averages over windows and interpolations are products of one matrix per axis. The matrix is what onnxruntime itself
makes of the unit vectors, so that its modes, roundings and borders need no second description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.extents import Extent, product, ratio
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.nodes import constant, has_input, ints_input, ints_of, required
from lieaudit.ops.adjoints.arithmetic import Outputs, first
from lieaudit.ops.adjoints.placing import picked
from lieaudit.ops.adjoints.reduction import divided

Matrix = np.ndarray[Any, Any]


def pad(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Cut the border off; add it where a mode has taken it from. Of the value padded with: the sum of the border."""
    u, extents = first(ys), a.sizes_of(required(node, 0))
    rank = len(extents)
    if i == 2:
        inside = a.op("Pad", a.expand(a.number(1, u), extents), *_pads(node), attributes=node.attributes)
        around = a.op("Mul", u, a.op("Sub", a.number(1, u), inside))
        total = a.reduce("Sum", around, list(range(rank)), keepdims=False)
        return a.reshape(total, a.sizes_of(required(node, 2)))
    mode = node.attributes.get_string("mode", "constant")
    pads = ints_of(node, "pads", 1)
    if pads is None:
        return _by_run(a, node, u)
    axes = [axis % rank for axis in ints_input(node, 3)] if has_input(node, 3) else list(range(rank))
    before = {axis: pads[k] for k, axis in enumerate(axes)}
    after = {axis: pads[len(axes) + k] for k, axis in enumerate(axes)}
    if mode == "constant":
        return a.pad(u, rank, {k: -v for k, v in before.items()}, {k: -v for k, v in after.items()})
    sizes = list(a.sizes_of(node.outputs[0]))
    for axis in axes:
        if before[axis] or after[axis]:
            size = a.fixed(required(node, 0), axis)
            sizes[axis] = size
            wide = min(before[axis], 0), min(after[axis], 0)
            numbers = np.arange(-wide[0], size + wide[1])
            taken = np.pad(numbers, (max(before[axis], 0), max(after[axis], 0)), mode)  # type: ignore[call-overload]
            u = picked(a, u, tuple(sizes), axis, taken)
    return u


def _pads(node: ir.Node) -> list[ir.Value | None]:
    return [node.inputs[1], None, *node.inputs[3:]]


def _by_run(a: Adjoint, node: ir.Node, u: ir.Value) -> ir.Value:
    if node.attributes.get_string("mode", "constant") != "constant" or has_input(node, 3):
        raise UnsupportedOpError(
            f"the graph computes what {node.op_type} {node.name!r} adds",
            reason="NO_TRANSPOSE",
            subject=node.name or node.op_type,
            hint="export the model with fixed sizes",
        )
    return a.op("Pad", u, a.op("Neg", required(node, 1), dtype=ir.DataType.INT64))


def average(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Share u among the pixels of its window."""
    u, extents = first(ys), a.sizes_of(required(node, 0))
    if node.op_type == "GlobalAveragePool":
        return a.expand(divided(a, u, a.size(product(extents[2:]))), extents)
    kernel = list(node.attributes["kernel_shape"].as_ints())
    made = a.sizes_of(node.outputs[0])
    if _apart(node, kernel, extents, made):
        share = a.op("Mul", u, a.number(1 / math.prod(kernel), u))
        return _repeated(a, share, made, kernel)
    for k in range(len(kernel)):
        u = a.along(u, len(extents), 2 + k, _const(a, _pooling(a, node, k, kernel), u))
    return u


def _apart(node: ir.Node, kernel: list[int], extents: tuple[Extent, ...], made: tuple[Extent, ...]) -> bool:
    """Say whether the windows lie side by side and cover the image."""
    attributes = node.attributes
    plain = not any(attributes.get_ints("pads", [])) and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    close = list(attributes.get_ints("strides", [1] * len(kernel))) == kernel
    dense = all(d == 1 for d in attributes.get_ints("dilations", []))
    whole = all(ratio(e, m) == k for e, m, k in zip(extents[2:], made[2:], kernel, strict=True))
    return plain and close and dense and whole


def _repeated(a: Adjoint, u: ir.Value, made: tuple[Extent, ...], kernel: list[int]) -> ir.Value:
    apart: list[Extent] = list(made[:2])
    wide, whole = list(made[:2]), list(made[:2])
    for size, k in zip(made[2:], kernel, strict=True):
        apart += [size, 1]
        wide += [size, k]
        whole.append(product([size, k]))
    return a.reshape(a.expand(a.reshape(u, apart), wide), whole)


def _pooling(a: Adjoint, node: ir.Node, k: int, kernel: list[int]) -> Matrix:
    """Return (pixels, windows) of one axis."""
    n, attributes = len(kernel), node.attributes
    own: dict[str, Any] = {"kernel_shape": [kernel[k]]}
    for name in ("strides", "dilations"):
        if name in attributes:
            own[name] = [attributes[name].as_ints()[k]]
    if "pads" in attributes:
        pads = attributes["pads"].as_ints()
        own["pads"] = [pads[k], pads[n + k]]
    for name in ("ceil_mode", "count_include_pad"):
        if name in attributes:
            own[name] = attributes[name].as_int()
    if "auto_pad" in attributes:
        own["auto_pad"] = attributes["auto_pad"].as_string()
    size = a.fixed(required(node, 0), 2 + k)
    unit = np.eye(size, dtype=np.float32)[:, None]
    return _ran(a, "AveragePool", [unit], own).reshape(size, -1)


def resize(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Multiply every axis that was resampled by its interpolation matrix."""
    u, extents, made = first(ys), a.sizes_of(required(node, 0)), a.sizes_of(node.outputs[0])
    rank = len(extents)
    for axis in range(rank):
        scale = _scale(node, axis, rank)
        if extents[axis] == made[axis] and (scale is None or scale == 1) and _region(node, axis, rank) == (0, 1):
            continue
        matrix = _interpolation(a, node, axis, scale)
        times = _times(matrix)
        if times > 1:
            u = _summed(a, u, (*extents[:axis], *made[axis:]), axis, times)
        elif not np.array_equal(matrix, np.eye(len(matrix))):
            u = a.along(u, rank, axis, _const(a, matrix, u))
    return u


def _times(matrix: Matrix) -> int:
    """Return how often every pixel is repeated, 1 where they are not repeated alike."""
    size, made = matrix.shape
    times = made // size if size and made % size == 0 else 1
    return times if np.array_equal(matrix, np.repeat(np.eye(size), times, axis=1)) else 1


def _summed(a: Adjoint, u: ir.Value, sizes: tuple[Extent, ...], axis: int, times: int) -> ir.Value:
    whole = sizes[axis]
    count = whole // times if isinstance(whole, int) else whole
    apart = a.reshape(u, [*sizes[:axis], count, times, *sizes[axis + 1 :]])
    return a.reduce("Sum", apart, [axis + 1], keepdims=False)


def _place(node: ir.Node, axis: int, rank: int) -> int | None:
    axes = node.attributes.get_ints("axes", list(range(rank)))
    places = [a % rank for a in axes]
    return places.index(axis) if axis in places else None


def _scale(node: ir.Node, axis: int, rank: int) -> float | None:
    """Return the scale that the node states for an axis; None where it states sizes."""
    place = _place(node, axis, rank)
    if place is None:
        return 1.0
    at = 2 if node.op_type == "Resize" else 1
    scales = constant(node.inputs[at]) if has_input(node, at) else None
    return None if scales is None or not scales.size else float(scales.reshape(-1)[place])


def _region(node: ir.Node, axis: int, rank: int) -> tuple[float, float]:
    """Return the part of an axis that a crop takes, (0, 1) without one."""
    place = _place(node, axis, rank)
    crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    region = constant(node.inputs[1]) if crops and has_input(node, 1) else None
    if region is None or not region.size or place is None:
        return 0, 1
    return float(region[place]), float(region[len(region) // 2 + place])


def _interpolation(a: Adjoint, node: ir.Node, axis: int, scale: float | None) -> Matrix:
    """Return (pixels, samples) of one axis."""
    x, y = required(node, 0), node.outputs[0]
    rank = a.rank_of(x)
    size, made = a.fixed(x, axis), a.fixed(y, axis)
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if scale is None and policy != "stretch":
        scale = _common_scale(a, node, policy, rank)
    names = (
        "mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias",
        "extrapolation_value",
    )  # fmt: skip
    own = {name: node.attributes[name].value for name in names if name in node.attributes}
    roi = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    roi[2], roi[6] = _region(node, axis, rank)
    unit = np.eye(size, dtype=np.float32).reshape(size, 1, size, 1)
    if scale is None:
        inputs: list[np.ndarray | None] = [unit, roi, None, np.array([size, 1, made, 1], np.int64)]
    else:
        inputs = [unit, roi, np.array([1, 1, scale, 1], np.float32)]
    matrix = _ran(a, "Resize", inputs, own).reshape(size, -1)
    if matrix.shape[1] != made:
        raise UnsupportedOpError(
            f"axis {axis} of {node.op_type} {node.name!r} is resampled by a scale that the graph computes",
            reason="NO_TRANSPOSE",
            subject=node.name or node.op_type,
            hint="export the model with fixed sizes",
        )
    return matrix


def _common_scale(a: Adjoint, node: ir.Node, policy: str, rank: int) -> float:
    wanted = ints_input(node, 3)
    axes = [axis % rank for axis in node.attributes.get_ints("axes", list(range(rank)))]
    scales = [size / a.fixed(required(node, 0), axis) for size, axis in zip(wanted, axes, strict=True)]
    return min(scales) if policy == "not_larger" else max(scales)


def _const(a: Adjoint, matrix: Matrix, like: ir.Value) -> ir.Value:
    return a.const(matrix.astype(like.dtype.numpy() if like.dtype is not None else np.float32))


def _ran(a: Adjoint, op: str, inputs: list[np.ndarray | None], attributes: Mapping[str, Any]) -> Matrix:
    """Run one node on onnxruntime."""
    names = ["" if array is None else f"in{i}" for i, array in enumerate(inputs)]
    arrays = [onnx.numpy_helper.from_array(x, n) for x, n in zip(inputs, names, strict=True) if x is not None]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, names, ["y"], **attributes)],
        op,
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        arrays,
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", a.opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0], np.float64)
