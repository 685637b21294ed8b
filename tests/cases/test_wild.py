"""Kinds of graphs met in models that packages ship (docs/wild.md), each rebuilt small."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.data import Dataset
from lieaudit.graph.load import load_model
from lieaudit.images import Images

_n = helper.make_node
_RANDOM = np.random.default_rng(12)


def _r(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _recogniser(declared: list[int | str], width: int | str = 24) -> onnx.ModelProto:
    """Return a reader of text lines, time first: (T, N, K) with T a quarter of the image's width."""
    arrays = {"w": _r(5, 3, 16, 4), "v": _r(5, 7), "b": _r(7), "two": np.array([2])}
    nodes = [
        _n("Conv", ["x", "w"], ["c"], strides=[16, 4], kernel_shape=[16, 4], name="stem"),
        _n("Tanh", ["c"], ["t"], name="bend"),
        _n("Squeeze", ["t", "two"], ["s"], name="line"),
        _n("Transpose", ["s"], ["steps"], perm=[2, 0, 1], name="time"),
        _n("MatMul", ["steps", "v"], ["m"], name="head"),
        _n("Add", ["m", "b"], ["features"], name="shift"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [info("x", TensorProto.FLOAT, ["N", 3, 16, width])],
        [info("features", TensorProto.FLOAT, declared)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _expected(model: onnx.ModelProto, images: np.ndarray, spec: lieaudit.AuditSpec) -> list[float]:
    """Return LEE per image in float64, in closed form."""
    w, v = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer[:2])
    pictured = Images(Dataset.from_arrays(images, None), load_model(model, spec), spec)
    directions = pictured.tangents(pictured.load(range(len(images))))[:, 0].astype(np.float64)
    found = []
    for x, d in zip(images.astype(np.float64), directions, strict=True):
        value, slope = (np.einsum("chtj,kchj->tk", a.reshape(3, 16, -1, 4), w) for a in (x, d))
        found.append(float(np.mean((((1 - np.tanh(value) ** 2) * slope) @ v) ** 2)))
    return found


@pytest.mark.parametrize("method", ["auto", "forward", "finite_difference"])
@pytest.mark.parametrize("declared", [["T", "N", 7], ["N", "T"]], ids=["time first", "declared with another rank"])
def test_recognisers_with_time_first_are_measured_by_every_method(method, declared):
    """The second declares (N, T), as exporters of old versions do, and gives (T, N, K)."""
    model = _recogniser(declared)
    images = _r(3, 3, 16, 24)
    spec = lieaudit.AuditSpec(generators=("rotation",), head="identity", method=method)
    report = lieaudit.audit(model, images, spec)
    result = report.results["rotation"]
    tolerance = 1e-5 if result.method == "forward" else 1e-3
    assert result.per_image == pytest.approx(_expected(model, images, spec), rel=tolerance)


def test_dynamically_quantised_graphs_are_inconclusive_with_their_ops_named():
    """As `quantize_dynamic` writes them: the scale of every convolution's input follows the image."""
    arrays = {
        "w": _RANDOM.integers(0, 255, (5, 3, 3, 3)).astype(np.uint8),
        "wz": np.array(120, np.uint8),
        "ws": np.array(0.01, np.float32),
    }
    nodes = [
        _n("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantise"),
        _n("ConvInteger", ["q", "w", "z", "wz"], ["c"], name="conv"),
        _n("Cast", ["c"], ["f"], to=TensorProto.FLOAT, name="cast"),
        _n("Mul", ["s", "ws"], ["scale"], name="scale"),
        _n("Mul", ["f", "scale"], ["y"], name="rescale"),
        _n("GlobalAveragePool", ["y"], ["p"], name="pool"),
        _n("Flatten", ["p"], ["features"], name="flat"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("features", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    report = lieaudit.audit(model, _r(3, 3, 8, 8), lieaudit.AuditSpec(generators=("rotation",), head="identity"))
    assert report.status == report.results["rotation"].status == "inconclusive"
    assert any("DynamicQuantizeLinear 'quantise'" in reason for reason in report.reasons)
