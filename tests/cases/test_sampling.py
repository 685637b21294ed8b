"""Spatial transformers: GridSample in every mode and padding, by the image and by the grid, and AffineGrid."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.data import Dataset
from lieaudit.graph.forward import measure_shapes, rewrite
from lieaudit.graph.load import load_model
from lieaudit.images import Images

torch = pytest.importorskip("torch")

MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
PADDINGS = ("zeros", "border", "reflection")


def _model(node: onnx.NodeProto, inputs: dict[str, np.ndarray], opset: int, fixed: dict[str, np.ndarray] | None = None):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "case",
        [info(name, TensorProto.FLOAT, x.shape) for name, x in inputs.items()],
        [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(x, name) for name, x in (fixed or {}).items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def _differentiated(
    model: ir.Model,
    inputs: dict[str, np.ndarray],
    active: list[str],
    along: dict[str, np.ndarray],
    unroll: int | None = None,
):
    measure_shapes(model, feeds=inputs)
    rewritten = rewrite(model, active=active, unroll=unroll)
    assert not [applied for applied in rewritten.applied if not applied.exact]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = ir.to_proto(rewritten.model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feeds = {**inputs, **{f"{name}.tangent": along[name] for name in active}}
    value, slope = session.run([*rewritten.values_out, *rewritten.tangents_out], feeds)
    return value, slope


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize(("mode", "padding"), list(product(MODES, PADDINGS)))
@pytest.mark.parametrize("active", [["x"], ["g"], ["x", "g"]], ids="-".join)
@pytest.mark.parametrize("unroll", [None, 2])
def test_grid_sample_agrees_with_torch_in_float64(mode, padding, corners, active, unroll):
    random = np.random.default_rng(8)
    # points as far as three images away, so that reflections go there and back
    inputs = {
        "x": random.standard_normal((2, 3, 5, 7)).astype(np.float32),
        "g": random.uniform(-3, 3, (2, 6, 4, 2)).astype(np.float32),
    }
    along = {name: random.standard_normal((2, *x.shape)).astype(np.float32) for name, x in inputs.items()}
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=corners)

    def function(*moved):
        x, g = (dict(zip(active, moved, strict=True)).get(n, torch.from_numpy(inputs[n]).double()) for n in "xg")
        return torch.nn.functional.grid_sample(x, g, MODES[mode], padding, align_corners=bool(corners))

    primals = tuple(torch.from_numpy(inputs[n]).double() for n in active)
    for d in range(2):
        tangents = tuple(torch.from_numpy(along[n][d]).double() for n in active)
        value, slope = torch.autograd.functional.jvp(function, primals, tangents)
        made, rows = _differentiated(_model(node, inputs, 20), inputs, active, along, unroll)
        np.testing.assert_allclose(made, value.numpy(), atol=3e-6)
        assert np.linalg.norm(rows[d] - slope.numpy()) <= 5e-6 * max(1.0, np.linalg.norm(slope.numpy()))


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (2, 1, 3, 4), (2, 3, 2, 5, 4)])
def test_affine_grid_agrees_with_torch_in_float64(corners, size):
    random = np.random.default_rng(9)
    d = len(size) - 2
    inputs = {"t": random.standard_normal((2, d, d + 1)).astype(np.float32)}
    along = {"t": random.standard_normal((1, 2, d, d + 1)).astype(np.float32)}
    node = helper.make_node("AffineGrid", ["t", "s"], ["y"], align_corners=corners)

    def function(t):
        return torch.nn.functional.affine_grid(t, list(size), align_corners=bool(corners))

    theta, direction = (torch.from_numpy(array).double() for array in (inputs["t"], along["t"][0]))
    value, slope = torch.autograd.functional.jvp(function, theta, direction)
    made, rows = _differentiated(_model(node, inputs, 20, {"s": np.array(size)}), inputs, ["t"], along)
    np.testing.assert_allclose(made, value.numpy(), atol=1e-6)
    np.testing.assert_allclose(rows[0], slope.numpy(), atol=2e-6)


def test_volumes_on_a_moving_grid_go_to_the_last_resort():
    random = np.random.default_rng(9)
    inputs = {
        "x": random.standard_normal((1, 2, 3, 3, 3)).astype(np.float32),
        "g": random.uniform(-1, 1, (1, 2, 2, 2, 3)).astype(np.float32),
    }
    model = _model(helper.make_node("GridSample", ["x", "g"], ["y"], mode="linear", name="warp"), inputs, 20)
    measure_shapes(model, feeds=inputs)
    applied = {a.rule for a in rewrite(model, active=["g"]).applied}
    assert applied == {"generic"}  # a difference of this op alone, reported as such


def test_a_spatial_transformer_is_audited_exactly():
    random = np.random.default_rng(4)

    def r(*shape: int, by: float = 1.0) -> np.ndarray:
        return (by * random.standard_normal(shape)).astype(np.float32)

    theta = np.array([1, 0.1, 0.05, -0.1, 1.1, 0.02], np.float32)
    arrays = {"w": r(8, 3, 3, 3, by=0.3), "b": r(8, by=0.3), "v": r(6, 8, by=0.2), "o": theta, "m": r(8, 10)}
    arrays |= {"p": np.array([-1, 2, 3]), "s": np.array([1, 8, 12, 12])}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["a"]),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "o"], ["l"], transB=1),
        helper.make_node("Reshape", ["l", "p"], ["theta"]),
        helper.make_node("AffineGrid", ["theta", "s"], ["g"]),
        helper.make_node("GridSample", ["t", "g"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["n"]),
        helper.make_node("Flatten", ["n"], ["q"]),
        helper.make_node("MatMul", ["q", "m"], ["features"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "transformer",
        [info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [info("features", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    double = {name: torch.from_numpy(array).to(torch.float64) for name, array in arrays.items() if name not in "ps"}

    def function(x):
        t = torch.tanh(torch.nn.functional.conv2d(x, double["w"], double["b"], padding=1))
        theta = (t.mean((2, 3)) @ double["v"].T + double["o"]).reshape(-1, 2, 3)
        grid = torch.nn.functional.affine_grid(theta, [1, 8, 12, 12], align_corners=False)
        return torch.nn.functional.grid_sample(t, grid, align_corners=False).mean((2, 3)) @ double["m"]

    images = r(3, 3, 12, 12)
    spec = lieaudit.AuditSpec(generators=("translation_x", "rotation"), head="identity")
    report = lieaudit.audit(model, images, spec)
    loaded = load_model(model, spec)
    pictured = Images(Dataset.from_arrays(images, None), loaded, spec)
    along = pictured.tangents(pictured.load([0, 1, 2]))
    for g, name in enumerate(spec.generators):
        for i, lee in enumerate(report.results[name].per_image):
            x, v = (torch.from_numpy(a[None]).double() for a in (images[i], along[i, g]))
            slope = torch.autograd.functional.jvp(function, x, v)[1]
            assert lee == pytest.approx(float((slope**2).mean()), rel=2e-5)
    assert not report.skipped or all(skip.what != "method.forward" for skip in report.skipped)
