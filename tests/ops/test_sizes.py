"""Operands that are said to decide a size do: two values of them give outputs of two shapes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit.ops import OPS


def _i(*values):
    return np.array(values, np.int64)


X = np.arange(24, dtype=np.float32).reshape(1, 1, 4, 6)
NONE = np.zeros(0, np.float32)
BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [5, 5, 6, 6]]], np.float32)
APART = np.array([[[0, 0, 1, 1], [2, 2, 3, 3], [5, 5, 6, 6]]], np.float32)
SCORES = np.array([[[0.9, 0.8, 0.7]]], np.float32)
KEPT = [BOXES, SCORES, _i(3), np.float32([0.5]), np.float32([0])]

# op, operands, which of them decides, another value of it, attributes, opset
CASES = [
    ("Reshape", [X, _i(4, 6)], 1, _i(6, 4), {}, 17),
    ("Expand", [X, _i(1, 1, 4, 6)], 1, _i(2, 1, 4, 6), {}, 17),
    ("Tile", [X, _i(1, 1, 1, 1)], 1, _i(1, 2, 1, 1), {}, 17),
    ("Pad", [X, _i(0, 0, 0, 0, 0, 0, 0, 1)], 1, _i(0, 0, 0, 0, 0, 0, 0, 2), {}, 17),
    ("Slice", [X, _i(0), _i(6), _i(3), _i(1)], 1, _i(2), {}, 17),
    ("Slice", [X, _i(0), _i(6), _i(3), _i(1)], 2, _i(2), {}, 17),
    ("Slice", [X, _i(0), _i(6), _i(3), _i(1)], 4, _i(2), {}, 17),
    ("Split", [X, _i(2, 4)], 1, _i(3, 3), {"axis": 3}, 17),
    ("Compress", [X, np.array([True, False])], 1, np.array([True, True]), {"axis": 3}, 17),
    ("TopK", [X, _i(2)], 1, _i(3), {}, 17),
    ("Unique", [X], 0, 0 * X, {}, 17),
    ("NonZero", [X], 0, 0 * X, {}, 17),
    ("OneHot", [_i(1, 0), np.array(3), np.float32([0, 1])], 1, np.array(4), {}, 17),
    ("Range", [np.float32(0), np.float32(4), np.float32(1)], 0, np.float32(2), {}, 17),
    ("Range", [np.float32(0), np.float32(4), np.float32(1)], 1, np.float32(2), {}, 17),
    ("Range", [np.float32(0), np.float32(4), np.float32(1)], 2, np.float32(2), {}, 17),
    ("ConstantOfShape", [_i(2, 3)], 0, _i(3, 3), {}, 17),
    ("Resize", [X, NONE, None, _i(1, 1, 8, 8)], 3, _i(1, 1, 8, 9), {}, 17),
    ("Resize", [X, NONE, np.float32([1, 1, 2, 2])], 2, np.float32([1, 1, 2, 3]), {}, 17),
    ("Resize", [X, np.float32([1, 1, 2, 2])], 1, np.float32([1, 1, 2, 3]), {}, 10),
    ("AffineGrid", [np.ones((1, 2, 3), np.float32), _i(1, 1, 4, 6)], 1, _i(1, 1, 4, 7), {}, 20),
    ("Upsample", [X, np.float32([1, 1, 2, 2])], 1, np.float32([1, 1, 2, 3]), {}, 9),
    ("Col2Im", [np.ones((1, 4, 9), np.float32), _i(4, 4), _i(2, 2)], 1, _i(2, 10), {}, 18),
    ("Col2Im", [np.ones((1, 40, 12), np.float32), _i(4, 7), _i(1, 5)], 2, _i(2, 4), {}, 18),
    ("NonMaxSuppression", KEPT, 0, APART, {}, 17),
    ("NonMaxSuppression", KEPT, 1, 0 * SCORES, {}, 17),
    ("NonMaxSuppression", KEPT, 2, _i(1), {}, 17),
    ("NonMaxSuppression", KEPT, 3, np.float32([1]), {}, 17),
    ("NonMaxSuppression", KEPT, 4, np.float32([0.75]), {}, 17),
]  # fmt: skip


def _shapes(op, operands, attributes, opset):
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(operands)]
    outputs = ["y", "z"][: 2 if op in {"Split", "TopK"} else 1]
    arrays = {n: np.asarray(a) for n, a in zip(names, operands, strict=True)}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays.items()
    ]
    whole = {("TopK", "z"), ("NonMaxSuppression", "y"), ("NonZero", "y")}
    made = [
        helper.make_tensor_value_info(n, TensorProto.INT64 if (op, n) in whole else TensorProto.FLOAT, None)
        for n in outputs
    ]
    graph = helper.make_graph([helper.make_node(op, names, outputs, **attributes)], "op", infos, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [a.shape for a in session.run(None, arrays)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[2]}")
def test_the_operand_decides_a_size(case):
    op, operands, index, other, attributes, opset = case
    changed = [other if i == index else a for i, a in enumerate(operands)]
    assert _shapes(op, operands, attributes, opset) != _shapes(op, changed, attributes, opset)
    assert index in OPS["", op].sized_by


IMAGES = np.arange(12, dtype=np.float32).reshape(1, 1, 2, 6)


@pytest.mark.parametrize("op", [op.name for op in OPS.values() if op.resolve is not None and op.sized_by])
def test_the_place_in_a_sequence_decides_a_size(op):
    """Of the elements left, or of the parts cut; the sequence holds two tensors of two sizes."""
    place = next(iter(OPS["", op].sized_by))
    first, second = (_i(2, 4), _i(1, 5)) if op == "SplitToSequence" else (np.array(0), np.array(1))
    operands = {"SequenceInsert": ["s", "three", "at"], "SplitToSequence": ["wide", "at"]}.get(op, ["s", "at"])
    assert operands[place] == "at"
    attributes = {"axis": 3} if op == "SplitToSequence" else {}
    nodes = [helper.make_node("SequenceConstruct", ["wide", "narrow"], ["s"])]
    if op == "SequenceAt":
        nodes.append(helper.make_node(op, operands, ["y"]))
    else:
        nodes += [
            helper.make_node(op, operands, ["t"], **attributes),
            helper.make_node("SequenceAt", ["t", "zero"], ["y"]),
        ]
    arrays = {"wide": IMAGES, "narrow": IMAGES[..., :3], "three": IMAGES[..., :1], "zero": np.array(0)}
    constants = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()]
    entry = helper.make_tensor_value_info("at", TensorProto.INT64, first.shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "sequences", [entry], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert session.run(None, {"at": first})[0].shape != session.run(None, {"at": second})[0].shape


def test_every_operand_that_decides_a_size_has_a_case():
    cases = {(c[0], c[2]) for c in CASES}
    for op in (op for op in OPS.values() if op.resolve is None and not op.domain):
        at = range(1 + max((i for name, i in cases if name == op.name), default=0))
        assert {(op.name, i) for i in (at if isinstance(op.sized_by, range) else op.sized_by) if op.sized_by} <= cases
        assert not op.sized_by or any(name == op.name for name, _ in cases)
