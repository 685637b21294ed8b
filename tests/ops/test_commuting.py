"""Every proof of commuting is measured: an op that is said to commute must, whatever tensors it is given.

Here X h is half the difference of a tensor moved one pixel either way, cyclically, along the tracked axes: linear, zero
on constants, and what a claim for v · ∇h must hold for, too. The gain is X h = h on every grid tensor.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lieaudit.layerwise.commute import Prover
from lieaudit.layouts.axes import WIDTH, size_of
from lieaudit.layouts.layout import layout_of
from lieaudit.ops import OPS

RNG = np.random.default_rng(8)
N, C, H, W = 2, 4, 6, 6


def _f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def _ints(*values):
    return np.array(values, np.int64)


# op, kind of the operands that move (one letter each: m a map, t tokens, r rows of pixels), fixed operands, attributes,
# whether it commutes with a geometric generator and with a gain
# ruff: noqa: E501 - a table
CASES = [
    ("Identity", "m", {}, {}, True, True),
    ("Neg", "m", {}, {}, True, True),
    ("Transpose", "m", {}, {"perm": [0, 2, 3, 1]}, True, True),
    ("Reshape", "m", {"s": _ints(0, C, H * W)}, {}, True, True),
    ("Flatten", "m", {}, {"axis": 2}, True, True),
    ("Unsqueeze", "m", {"a": _ints(1)}, {}, True, True),
    ("Squeeze", "m", {"a": _ints()}, {}, True, True),
    ("Cast", "m", {}, {"to": TensorProto.DOUBLE}, True, True),
    ("Cast", "m", {}, {"to": TensorProto.INT32}, False, False),
    ("CastLike", "m", {"t": np.zeros(1, np.int32)}, {}, False, False),
    ("CastLike", "m", {"t": np.zeros(1, np.float64)}, {}, True, True),
    ("Dropout", "m", {}, {}, True, True),
    ("Add", "mm", {}, {}, True, True),
    ("Add", "m", {"b": _f(C, 1, 1)}, {}, True, False),
    ("Add", "m", {"b": _f(1, H, W)}, {}, False, False),
    ("Add", "t", {"b": _f(H * W, C)}, {}, False, False),
    ("Sub", "mm", {}, {}, True, True),
    ("Sub", "m", {"b": _f(H, 1)}, {}, False, False),
    ("Sum", "mm", {}, {}, True, True),
    ("Mean", "mm", {}, {}, True, True),
    ("Mul", "mm", {}, {}, False, False),
    ("Mul", "m", {"b": _f(C, 1, 1)}, {}, True, True),
    ("Mul", "m", {"b": _f(1, H, W)}, {}, False, False),
    ("Div", "m", {"b": _f(C, 1, 1)}, {}, True, True),
    ("Div", "mm", {}, {}, False, False),
    ("Max", "mm", {}, {}, False, True),
    ("Min", "mm", {}, {}, False, True),
    ("Max", "m", {"b": _f(C, 1, 1)}, {}, False, False),
    ("PRelu", "m", {"s": _f(C, 1, 1)}, {}, False, True),
    ("PRelu", "mm", {}, {}, False, False),
    ("Abs", "m", {}, {}, False, True),
    ("Relu", "m", {}, {}, False, True),
    ("LeakyRelu", "m", {}, {}, False, True),
    ("Clip", "m", {"lo": np.float32(0)}, {}, False, False),
    ("Conv", "m", {"w": _f(3, C, 1, 1)}, {}, True, True),
    ("Conv", "m", {"w": _f(3, C, 1, 1), "b": _f(3)}, {}, True, False),
    ("Conv", "m", {"w": _f(3, C, 1, 1)}, {"pads": [1, 1, 1, 1]}, False, True),
    ("Conv", "m", {"w": _f(3, C, 1, 1)}, {"strides": [2, 2]}, False, True),
    ("Conv", "m", {"w": _f(3, C, 3, 3)}, {"pads": [1, 1, 1, 1]}, False, True),
    ("Conv", "m", {"w": _f(4, 1, 1, 1)}, {"group": 4, "auto_pad": "SAME_UPPER"}, True, True),
    ("ConvTranspose", "m", {"w": _f(C, 3, 3, 3)}, {"pads": [1, 1, 1, 1]}, False, True),
    ("ConvTranspose", "m", {"w": _f(C, 3, 3, 3), "b": _f(3)}, {"pads": [1, 1, 1, 1]}, False, False),
    ("MatMul", "t", {"b": _f(C, 3)}, {}, True, True),
    ("MatMul", "m", {"b": _f(W, W)}, {}, False, False),
    ("MatMul", "t", {"b": _f(1, C, 3)}, {}, True, True),
    ("Gemm", "r", {"b": _f(C, 3)}, {}, True, True),
    ("Gemm", "r", {"b": _f(3, C), "c": _f(3)}, {"transB": 1}, True, False),
    ("Gemm", "r", {"b": _f(C, 3), "c": _f(N * H * W, 3)}, {}, False, False),
    ("Concat", "t", {"p": _f(N, 1, C)}, {"axis": 1}, True, True),
    ("BatchNormalization", "m", {k: np.abs(_f(C)) for k in "sbmv"}, {}, True, False),
    ("BatchNormalization", "m", {k: np.abs(_f(C)) for k in "sbmv"}, {"training_mode": 1}, False, False),
    ("BatchNormalization", "t", {k: np.abs(_f(H * W)) for k in "sbmv"}, {}, False, False),
    ("ReduceMean", "m", {}, {"axes": [1]}, True, True),
    ("ReduceSum", "m", {"a": _ints(1)}, {"keepdims": 0}, True, True),
    ("ReduceSum", "m", {}, {"noop_with_empty_axes": 1}, True, True),
    ("ReduceMean", "m", {}, {"axes": [2]}, False, True),
    ("ReduceMax", "m", {}, {"axes": [1]}, False, True),
    ("ReduceMin", "m", {}, {"axes": [1]}, False, True),
    ("ReduceL1", "m", {}, {"axes": [1]}, False, True),
    ("ReduceL2", "m", {}, {"axes": [1]}, False, True),
    ("ReduceSumSquare", "m", {}, {"axes": [1]}, False, False),
    ("Slice", "m", {"s": _ints(1), "e": _ints(3), "a": _ints(1)}, {}, True, True),
    ("Slice", "m", {"s": _ints(1), "e": _ints(5), "a": _ints(3)}, {}, False, True),
    ("Slice", "m", {"s": _ints(0), "e": _ints(6), "a": _ints(3), "k": _ints(2)}, {}, False, True),
    ("Slice", "m", {"s": _ints(-1), "e": _ints(-9), "a": _ints(3), "k": _ints(-1)}, {}, False, False),
    ("Split", "m", {}, {"axis": 1}, True, True),
    ("Split", "m", {}, {"axis": 3}, False, True),
    ("Gather", "m", {"i": _ints(2, 0)}, {"axis": 1}, True, True),
    ("Gather", "m", {"i": _ints(2, 0, 1, 3, 5, 4)}, {"axis": 3}, False, False),
    ("Gather", "m", {"i": _ints(2, 3, 4, 5, 0, 1)}, {"axis": 3}, True, True),
    ("Concat", "mm", {}, {"axis": 1}, True, True),
    ("Concat", "m", {"b": np.ones((N, 1, H, W), np.float32)}, {"axis": 1}, True, False),
    ("Concat", "m", {"b": _f(N, 1, H, W)}, {"axis": 1}, False, False),
    ("Pad", "m", {"p": _ints(0, 0, 0, 0, 0, 0, 0, 0)}, {}, True, True),
    ("Pad", "m", {"p": _ints(0, 0, 0, 1, 0, 0, 0, -1)}, {}, False, False),
    ("Pad", "m", {"p": _ints(0, 0, 0, 1, 0, 0, 0, 1)}, {"mode": "reflect"}, False, False),
    ("AveragePool", "m", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, False, True),
    ("MaxPool", "m", {}, {"kernel_shape": [2, 2]}, False, True),
    ("LpPool", "m", {}, {"kernel_shape": [2, 2]}, False, True),
    ("Resize", "m", {"r": np.zeros(0, np.float32), "k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}, False, True),
    ("Resize", "m", {"r": np.array([0, 0, 0, 0, 1, 1, 1.5, 1], np.float32), "k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}, False, False),
    ("DepthToSpace", "m", {}, {"blocksize": 2}, False, True),
    ("SpaceToDepth", "m", {}, {"blocksize": 2}, False, True),
    ("Upsample", "m", {"k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "nearest"}, False, True),
    ("Softmax", "m", {}, {"axis": 1}, False, False),
    ("LayerNormalization", "t", {"s": _f(C)}, {}, False, False),
]  # fmt: skip


def _act(array, axes, generator):
    """Apply X to an array with tracked axes: along the image's width, or the gain."""
    layout = layout_of(axes)
    assert layout.known or any(atom.role == "prefix" for axis in axes for atom in axis)
    if not layout.spatial:
        return np.zeros_like(array)
    atoms = [atom for axis in axes for atom in axis]
    at = next((i for i, axis in enumerate(axes) if any(atom.parts for atom in axis)), None)
    if at is not None:  # tokens: each part by itself
        parts = axes[at][0].parts
        pieces = np.split(array, np.cumsum([size_of(part) for part in parts])[:-1], at)
        own = [(*axes[:at], part, *axes[at + 1 :]) for part in parts]
        return np.concatenate([_act(p, a, generator) for p, a in zip(pieces, own, strict=True)], at)
    if generator == "gain":
        return array
    at = [i for i, atom in enumerate(atoms) if atom.role == WIDTH]
    assert len(at) == 1
    view = array.reshape([atom.size for atom in atoms])
    order = np.argsort((np.arange(W) + atoms[at[0]].shift) % W)
    straight = np.take(view, order, at[0]) if atoms[at[0]].size == W else view
    moved = (np.roll(straight, -1, at[0]) - np.roll(straight, 1, at[0])) / 2
    back = np.take(moved, np.argsort(order), at[0]) if atoms[at[0]].size == W else moved
    return back.reshape([size_of(axis) for axis in axes])


def _prover(model, tracker):
    """What the op makes is not the output, to which other rules apply."""
    return Prover(tracker, model.graph.outputs[0], spatial=True)


def _difference(proto, tracker, generator):
    """Return ‖D f[X h] − X f(h)‖ / ‖X f(h)‖ of the op in float32, by differences of the op alone."""
    model = ir.from_proto(proto)
    node = next(n for n in model.graph if n.name == "op")
    inner = {v.name: v for v in tracker.axes}
    moving = [v.name for v in node.inputs if v is not None and v.name.startswith("h")]
    single = helper.make_graph(
        [ir.to_proto(node)],
        "op",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [size_of(a) for a in tracker.axes[inner[n]]])
            for n in moving
        ],
        [helper.make_tensor_value_info(n, int(inner[n].dtype), None) for n in (v.name for v in node.outputs)],
        [t for t in proto.graph.initializer if t.name in [v.name for v in node.inputs if v is not None]],
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    alone = helper.make_model(single, opset_imports=proto.opset_import, ir_version=8)
    session = onnxruntime.InferenceSession(ir.to_proto(ir.from_proto(alone)).SerializeToString(), options)
    point = {n: _f(*(size_of(a) for a in tracker.axes[inner[n]])) for n in moving}
    speed = {n: _act(point[n], tracker.axes[inner[n]], generator) for n in moving}
    step, worst = 2.0**-6, 0.0

    def run(sign):
        made = session.run(None, {n: (point[n] + sign * step * speed[n]).astype(np.float32) for n in moving})
        return [np.asarray(a, np.float64) for a in made]

    for value, ahead, here, behind in zip(node.outputs, run(1), run(0), run(-1), strict=True):
        axes = tracker.axes[inner[value.name]]
        pushed = (ahead - behind) / (2 * step)
        acted = _act(here, axes, generator)
        worst = max(worst, float(np.linalg.norm(pushed - acted) / (np.linalg.norm(acted) + 1e-9)))
    return worst


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'-'.join([*c[2], *map(str, c[3].items())])}")
def test_claims_hold_and_are_made(imaged, case):
    op, kinds, fixed, attributes, geometric, gain = case
    proto = imaged.graph(op, kinds, fixed, attributes)
    model, tracker = imaged.prepared(proto)
    node = next(n for n in model.graph if n.name == "op")
    prover = _prover(model, tracker)
    assert (prover.geometric(node), prover.gain(node)) == (geometric, gain)
    for claimed, generator in ((geometric, "move"), (gain, "gain")):
        if claimed:
            # float32 differences at a step of 2^-6 of a linear op: rounding only
            assert _difference(proto, tracker, generator) < 1e-4


def test_every_claim_has_a_case():
    claiming = {o.name for o in OPS.values() if not o.domain and (o.geometric or o.homogeneous)}
    proved = {c[0] for c in CASES if c[4]}
    scaled = {c[0] for c in CASES if c[5]}
    assert {o.name for o in OPS.values() if o.geometric} <= proved
    assert {o.name for o in OPS.values() if o.homogeneous} <= scaled
    assert claiming <= {c[0] for c in CASES}


def test_a_namesake_of_another_domain_proves_nothing(imaged):
    proto = imaged.graph("Relu", "m", {}, {})
    model, tracker = imaged.prepared(proto)
    node = next(n for n in model.graph if n.name == "op")
    assert _prover(model, tracker).gain(node)
    node.domain = "of.someone"
    assert not _prover(model, tracker).gain(node)
    node.domain = "ai.onnx"
    assert _prover(model, tracker).gain(node)
