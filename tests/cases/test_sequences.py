"""Sequences and optionals whose places and lengths are constants: lists of tensors, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.forward import rewrite
from lieaudit.graph.load import load_model

# ruff: noqa: RUF005 - sums of lists, one a line
Nodes = Sequence[onnx.NodeProto]
_n = helper.make_node
_SEQUENCE = {"SequenceAt", "SequenceLength", "SplitToSequence", "ConcatFromSequence", "OptionalGetElement"}


def _model(nodes: Nodes, opset: int) -> onnx.ModelProto:
    """Return a graph from x, an image and its negative, to y; c0, c1 … are scalar constants, sizes is (1, 3, 2)."""
    constants = {f"c{i}": np.array(i, np.int64) for i in range(5)} | {"last": np.array(-1, np.int64)}
    constants |= {"sizes": np.array([1, 3, 2], np.int64)}
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            _n("Neg", ["image"], ["-"]),
            _n("Concat", ["image", "-"], ["x"], axis=1),
            *nodes,
            _n("GlobalAveragePool", ["y"], ["pooled"]),
            _n("Flatten", ["pooled"], ["features"]),
        ],
        "sequences",
        [info("image", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [info("features", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _split(*rest: str, **attributes: int) -> onnx.NodeProto:
    return _n("SplitToSequence", ["x", *rest], ["s"], axis=1, **attributes)


def _at(place: str, name: str, sequence: str = "s") -> onnx.NodeProto:
    return _n("SequenceAt", [sequence, place], [name])


def _typed_optional() -> onnx.NodeProto:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    return _n("Optional", [], ["o"], type=kind)


CASES: dict[str, tuple[Nodes, Callable[[np.ndarray], np.ndarray], int]] = {
    "parts of one size": ([_split("c2"), _at("c1", "y")], lambda x: x[:, 2:4], 17),
    "parts of one size before 13": ([_split("c2"), _at("c1", "y")], lambda x: x[:, 2:4], 11),
    "a shorter last part": ([_split("c4"), _at("last", "y")], lambda x: x[:, 4:], 17),
    "one part": ([_n("Add", ["c3", "c3"], ["six"]), _split("six"), _at("c0", "y")], lambda x: x, 17),
    "stated sizes": ([_split("sizes"), _at("c1", "y")], lambda x: x[:, 1:4], 17),
    "stated sizes before 13": ([_split("sizes"), _at("c1", "y")], lambda x: x[:, 1:4], 12),
    "single slices": ([_split(), _at("c3", "y")], lambda x: x[:, 3:4], 17),
    "slices without their axis": (
        [_split(keepdims=0), _n("ConcatFromSequence", ["s"], ["y"], axis=1, new_axis=1)],
        lambda x: x,
        17,
    ),
    "new axis before 13": (
        [_split(keepdims=0), _n("ConcatFromSequence", ["s"], ["y"], axis=1, new_axis=1)],
        lambda x: x,
        12,
    ),
    "in another order": (
        [_split("c2"), _at("c0", "a"), _at("c2", "b"), _n("SequenceConstruct", ["b", "a", "b"], ["t"])]
        + [_n("ConcatFromSequence", ["t"], ["y"], axis=1)],
        lambda x: np.concatenate([x[:, 4:], x[:, :2], x[:, 4:]], 1),
        17,
    ),
    "inserted": (
        [_split("c2"), _at("c0", "a"), _n("SequenceEmpty", [], ["e"]), _n("SequenceInsert", ["e", "x"], ["f"])]
        + [_n("SequenceInsert", ["f", "a", "c0"], ["g"]), _n("SequenceInsert", ["g", "a", "last"], ["h"])]
        + [_n("ConcatFromSequence", ["h"], ["y"], axis=1)],
        lambda x: np.concatenate([x[:, :2], x[:, :2], x], 1),
        17,
    ),
    "erased": (
        [_split("c2"), _n("SequenceErase", ["s", "c1"], ["e"]), _n("SequenceErase", ["e"], ["f"])]
        + [_n("ConcatFromSequence", ["f"], ["y"], axis=1)],
        lambda x: x[:, :2],
        17,
    ),
    "a place counted from the length": (
        [_split("c2"), _n("SequenceLength", ["s"], ["l"]), _n("Sub", ["l", "c1"], ["p"]), _at("p", "y")],
        lambda x: x[:, 4:],
        17,
    ),
    "a place counted from the length, beside one that is known": (
        [
            _split("c2"),
            _at("c0", "a"),
            _n("SequenceLength", ["s"], ["l"]),
            _n("Sub", ["l", "c1"], ["p"]),
            _at("p", "b"),
            _n("Sub", ["b", "a"], ["y"]),
        ],
        lambda x: x[:, 4:] - x[:, :2],
        17,
    ),
    "under another name": ([_split("c2"), _n("Identity", ["s"], ["t"]), _at("c1", "y", "t")], lambda x: x[:, 2:4], 17),
    "optional tensor": ([_n("Optional", ["x"], ["o"]), _n("OptionalGetElement", ["o"], ["y"])], lambda x: x, 17),
    "optional sequence": (
        [_split("c2"), _n("Optional", ["s"], ["o"]), _n("OptionalGetElement", ["o"], ["t"]), _at("c1", "y", "t")],
        lambda x: x[:, 2:4],
        17,
    ),
    "no optional at all": ([_n("OptionalGetElement", ["x"], ["y"])], lambda x: x, 18),
    "has an element": (
        [_n("Optional", ["x"], ["o"]), _n("OptionalHasElement", ["o"], ["h"]), _n("Cast", ["h"], ["k"], to=1)]
        + [_n("Mul", ["x", "k"], ["y"])],
        lambda x: x,
        17,
    ),
    "has none": (
        [_typed_optional(), _n("OptionalHasElement", ["o"], ["h"]), _n("Not", ["h"], ["i"])]
        + [_n("Cast", ["i"], ["k"], to=1), _n("Mul", ["x", "k"], ["y"])],
        lambda x: x,
        17,
    ),
}


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str] | None = None) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, feeds)


@pytest.mark.parametrize(("nodes", "function", "opset"), CASES.values(), ids=CASES.keys())
def test_places_that_are_known_leave_no_sequence(nodes, function, opset):
    model = _model(nodes, opset)
    random = np.random.default_rng(2)
    image, v = (random.standard_normal((2, 3, 4, 4)).astype(np.float32) for _ in range(2))
    expected = [function(np.concatenate([a, -a], 1)).mean((2, 3)) for a in (image, v)]  # linear in the image
    np.testing.assert_allclose(_run(model, {"image": image})[0], expected[0], atol=1e-6)
    loaded = load_model(model)
    assert not {node.op_type for node in loaded.model.graph} & _SEQUENCE
    assert loaded.batchable
    rewritten = rewrite(loaded.model)
    names = [*rewritten.values_in, *rewritten.tangents_in]
    made = _run(ir.to_proto(rewritten.model), dict(zip(names, (image, v[None]), strict=True)))
    np.testing.assert_allclose(made[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(made[1][0], expected[1], atol=1e-6)


@pytest.fixture
def decided() -> tuple[onnx.ModelProto, np.ndarray]:
    """A graph that takes the part of itself that the image's mean says, and images of one part."""
    nodes = [
        _n("ReduceMean", ["image"], ["mean"], keepdims=0),
        _n("Cast", ["mean"], ["p"], to=TensorProto.INT64),
        _split("c2"),
        _at("p", "y"),
    ]
    images = np.random.default_rng(2).uniform(0, 0.9, (4, 3, 8, 8)).astype(np.float32)
    model = _model(nodes, 17)
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_value = 8
    return model, images


def test_a_place_that_the_image_decides_is_measured_by_finite_differences(decided):
    model, images = decided
    report = lieaudit.audit(model, images, lieaudit.AuditSpec(generators=("rotation",), head="identity"))
    assert report.results["rotation"].method == "finite_difference"
    (skip,) = (skip for skip in report.skipped if skip.what == "method.forward")
    assert "SplitToSequence" in skip.why


def test_forward_mode_by_name_says_why_it_does_not_go_and_what_does(decided):
    model, images = decided
    spec = lieaudit.AuditSpec(generators=("rotation",), head="identity", method="forward")
    with pytest.raises(UnsupportedOpError, match=r"SplitToSequence.*--method finite_difference"):
        lieaudit.audit(model, images, spec)
