"""Every layout rule is measured: what a moved entry of the operand changes most lies where the tracked axes say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lieaudit.layouts.axes import GRID, size_of
from lieaudit.ops import OPS

RNG = np.random.default_rng(12)
N, C, H, W = 2, 4, 6, 6


def _f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def _p(*shape):
    return np.abs(_f(*shape)) + np.float32(0.5)


def _i(*values):
    return np.array(values, np.int64)


def _kernel(out, into, size):
    """A kernel whose middle weighs most, so that the largest change is where it should be."""
    w = 0.1 * _f(out, into, size, size)
    w[:, :, size // 2, size // 2] += 1
    return w


# op, kinds of the operands that move (m map, t tokens, r rows), fixed operands, attributes, pixels that it may be off
# ruff: noqa: E501 - a table
CASES = [
    *((name, "m", {}, {}, 0) for name in (
        "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
        "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tan", "Tanh", "Reciprocal",
        "ThresholdedRelu", "Shrink", "Sinh", "Cosh", "Atan", "Asinh", "LogSoftmax", "Softmax", "Hardmax", "Dropout",
        "MeanVarianceNormalization", "LpNormalization", "Trilu", "IsNaN", "IsInf",
    )),
    *((name, "mm", {}, {}, 0) for name in (
        "Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "PRelu", "Equal", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual",
    )),
    ("Acos", "m", {}, {}, 0), ("Asin", "m", {}, {}, 0), ("Atanh", "m", {}, {}, 0), ("Acosh", "m", {}, {}, 0),
    ("Log", "m", {}, {}, 0), ("Sqrt", "m", {}, {}, 0),
    ("Pow", "m", {"b": np.float32(2)}, {}, 0), ("Mod", "m", {"b": np.float32(2)}, {"fmod": 1}, 0),
    ("Clip", "m", {"lo": np.float32(-9)}, {}, 0), ("Cast", "m", {}, {"to": TensorProto.DOUBLE}, 0),
    ("CastLike", "m", {"t": np.zeros(1)}, {}, 0), ("CumSum", "m", {"a": np.array(1)}, {}, 0),
    ("LRN", "m", {}, {"size": 3}, 0),
    ("BatchNormalization", "m", {k: _p(C) for k in "sbmv"}, {}, 0),
    ("InstanceNormalization", "m", {k: _p(C) for k in "sb"}, {}, 0),
    ("LayerNormalization", "t", {"s": _p(C)}, {}, 0),
    ("Transpose", "m", {}, {"perm": [3, 0, 2, 1]}, 0),
    ("Reshape", "m", {"s": _i(2, C, H, 2, 3)}, {}, 0), ("Reshape", "t", {"s": _i(2, 3, 2, 6, C)}, {}, 0),
    ("Flatten", "m", {}, {"axis": 2}, 0), ("Squeeze", "m", {"a": _i()}, {}, 0), ("Unsqueeze", "m", {"a": _i(2)}, {}, 0),
    ("Expand", "m", {"s": _i(3, 1, 1, 1, 1)}, {}, 0), ("Tile", "m", {"s": _i(1, 3, 1, 1)}, {}, 0),
    ("Concat", "mm", {}, {"axis": 1}, 0), ("Split", "m", {}, {"axis": 1}, 0), ("Split", "m", {}, {"axis": 3}, 0),
    ("Slice", "m", {"s": _i(0), "e": _i(6), "a": _i(2), "k": _i(2)}, {}, 0.5),
    ("Slice", "m", {"s": _i(1), "e": _i(6), "a": _i(1)}, {}, 0),
    ("Gather", "m", {"i": _i(2, 3, 4, 5, 0, 1)}, {"axis": 3}, 0), ("Gather", "m", {"i": _i(3, 1)}, {"axis": 1}, 0),
    ("Pad", "m", {"p": _i(0, 0, 0, 0, 0, 0, 0, 0)}, {}, 0),
    ("Conv", "m", {"w": _kernel(3, C, 3)}, {"pads": [1, 1, 1, 1]}, 0),
    ("Conv", "m", {"w": _kernel(3, C, 3)}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 1),
    ("Conv", "m", {"w": _kernel(C, 1, 1)}, {"group": 4}, 0),
    ("ConvTranspose", "m", {"w": _kernel(C, 3, 3)}, {"pads": [1, 1, 1, 1]}, 0),
    ("ConvTranspose", "m", {"w": _kernel(C, 3, 3)}, {"strides": [2, 2], "pads": [1, 1, 0, 0]}, 1),
    ("MaxPool", "m", {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, 0.5),
    ("AveragePool", "m", {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, 0.5),
    ("LpPool", "m", {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, 0.5),
    ("GlobalAveragePool", "m", {}, {}, 0), ("GlobalMaxPool", "m", {}, {}, 0), ("GlobalLpPool", "m", {}, {}, 0),
    ("Resize", "m", {"r": np.zeros(0, np.float32), "k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}, 1),
    ("Upsample", "m", {"k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "nearest"}, 1),
    ("DepthToSpace", "m", {}, {"blocksize": 2}, 1), ("SpaceToDepth", "m", {}, {"blocksize": 2}, 0.5),
    *((f"Reduce{name}", "m", {}, {"axes": [1]}, 0) for name in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare",
    ) if name != "Sum"),
    ("ReduceSum", "m", {"a": _i(1)}, {"keepdims": 0}, 0), ("ReduceMean", "m", {}, {"axes": [2, 3]}, 0),
    ("ArgMax", "m", {}, {"axis": 1}, 0), ("ArgMin", "m", {}, {"axis": 1, "keepdims": 0}, 0),
    ("MatMul", "t", {"b": _f(C, 3)}, {}, 0), ("MatMul", "m", {"b": np.eye(W, dtype=np.float32)}, {}, 0),
    ("Gemm", "r", {"b": _f(C, 3)}, {}, 0), ("Einsum", "t", {"b": _f(C, 3)}, {"equation": "bnc,cd->bdn"}, 0),
    ("Where", "mm", {"c": np.ones(1, bool)}, {}, 0),
    ("QuantizeLinear", "m", {"s": np.float32(0.01)}, {}, 0),
    ("ScatterElements", "m", {"i": np.zeros((1, 1, 1, 1), np.int64), "u": np.zeros((1, 1, 1, 1), np.float32)}, {"axis": 1}, 0),
    ("ScatterND", "m", {"i": _i(0).reshape(1, 1)[:0], "u": np.zeros((0, C, H, W), np.float32)}, {}, 0),
]  # fmt: skip

_ELSEWHERE = {
    # of integers or truth values only: as the ops beside them, which take floats
    "And", "BitShift", "ConvInteger", "DequantizeLinear", "Not", "Or", "Xor",
    # of opsets that tests/ops/imaged.py does not make; registered beside ops that it does
    "Attention", "Gelu", "GroupNormalization", "Mish", "RMSNormalization", "SimplifiedLayerNormalization", "Swish",
    "Scatter", "DeformConv",
}  # fmt: skip


_VALUES = {
    "Acos": (0.1, 0.7, 0.9),
    "Asin": (0.1, 0.7, 0.9),
    "Atanh": (0.1, 0.7, 0.9),
    "Equal": (1.5, 1.5, 2.3),
    "IsInf": (1.1, 2.1, np.inf),
    "IsNaN": (1.1, 2.1, np.nan),
    "ArgMin": (1.1, 2.1, 0.3),
    "Min": (1.1, 2.1, 0.3),
    "ReduceMin": (1.1, 2.1, 0.3),
    "Sign": (-2.1, -1.1, 2.3),
}
"""From where to where values are drawn, and what one of them becomes."""


def coordinates(axes, role):
    """Return the coordinate of every entry that the atoms of a role assign; None where there are none."""
    atoms = [atom for axis in axes for atom in axis]
    value, found = np.zeros([atom.size for atom in atoms], int), None
    for i, atom in enumerate(atoms):
        if atom.role == role:
            shape = [1] * len(atoms)
            shape[i] = atom.size
            value, found = value + atom.unit * np.arange(atom.size).reshape(shape), atom
    if found is None:
        return None
    if role in GRID:
        start = found.crop[2] if found.crop is not None else 0
        value = (value + found.shift) % found.total + start
    return value.reshape([size_of(axis) for axis in axes]), found


def _alone(proto, node, tracker):
    """Return a session of the op alone."""
    names = {v.name: v for v in tracker.axes}
    read = [v.name for v in node.inputs if v is not None]
    moving = [n for n in read if n.startswith("h")]
    graph = helper.make_graph(
        [ir.to_proto(node)],
        "op",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, list(map(size_of, tracker.axes[names[n]])))
            for n in moving
        ],
        [helper.make_tensor_value_info(v.name, int(names[v.name].dtype), None) for v in node.outputs],
        [t for t in proto.graph.initializer if t.name in read],
    )
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString()), {n: names[n] for n in moving}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'-'.join([*c[2], *map(str, c[3].items())])}")
def test_axes_are_where_changes_are(imaged, case):
    op, kinds, fixed, attributes, off = case
    proto = imaged.graph(op, kinds, fixed, attributes)
    model, tracker = imaged.prepared(proto)
    node = next(n for n in model.graph if n.name == "op")
    session, moving = _alone(proto, node, tracker)
    for output in node.outputs:
        assert all(atom.role != "unknown" for axis in tracker.axes[output] for atom in axis)
    low, high, new = _VALUES.get(op, (1.1, 2.1, 2.3))
    compared = 0
    for name, value in moving.items():
        axes = tracker.axes[value]
        point = {
            n: RNG.uniform(low, high, list(map(size_of, tracker.axes[v]))).astype(np.float32) for n, v in moving.items()
        }
        before = session.run(None, point)
        for _ in range(6):
            at = tuple(RNG.integers(0, size) for size in map(size_of, axes))
            moved = {**point, name: point[name].copy()}
            moved[name][at] = new
            for output, x, y in zip(node.outputs, before, session.run(None, moved), strict=True):
                change = np.abs(y.astype(np.float64) - x.astype(np.float64))
                if not change.any():
                    continue
                compared += 1
                _compare(axes, at, tracker.axes[output], change, off)
    assert compared


def _compare(axes, at, after, change, off):
    largest = change >= change.max() * (1 - 1e-6)
    for role in ("batch", *GRID):
        here, there = coordinates(axes, role), coordinates(after, role)
        if here is None or there is None:
            continue
        (values, atom), (places, other) = here, there
        scale = 1.0 if role == "batch" or other.crop is not None else other.total / atom.total
        expected = (values[at] + 0.5) * scale - 0.5
        distance = np.abs(places[largest] - expected)
        assert distance.min() <= off + 1e-9, role


@pytest.mark.parametrize("wrong", [lambda a: (a[1], a[0], *a[2:]), lambda a: (*a[:2], a[3], a[2])], ids=["n-c", "h-w"])
def test_a_wrong_rule_is_seen(imaged, monkeypatch, wrong):
    """Swapped axes of equal size: nothing but a measurement tells."""
    monkeypatch.setitem(OPS, ("", "Relu"), replace(OPS["", "Relu"], layout=lambda t, n: [wrong(t.of(n.inputs[0]))]))
    monkeypatch.setattr(imaged, "C", N)
    with pytest.raises(AssertionError):
        test_axes_are_where_changes_are(imaged, ("Relu", "m", {}, {}, 0))


def test_every_layout_rule_has_a_case():
    tracked = {o.name for o in OPS.values() if not o.domain and o.layout is not None}
    assert tracked - {c[0] for c in CASES} <= _ELSEWHERE
