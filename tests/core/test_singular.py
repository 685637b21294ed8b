"""A root or norm of 0 has no derivative: forward mode says so, and auto measures by finite differences instead."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import LieauditError

RNG = np.random.default_rng(12)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) / 3
IMAGES = RNG.standard_normal((5, 3, 8, 8)).astype(np.float32)


def net(dead):
    """Tanh features whose squares are pooled and rooted; the dead channel is a ReLU's zero everywhere."""
    live = np.array([1.0, 1.0, 1.0, 0.0 if dead else 1.0], np.float32).reshape(1, 4, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("Mul", ["t", "live"], ["m"]),
        helper.make_node("Mul", ["m", "m"], ["squares"]),
        helper.make_node("GlobalAveragePool", ["squares"], ["p"]),
        helper.make_node("Sqrt", ["p"], ["r"]),
        helper.make_node("Flatten", ["r"], ["norms"]),
        helper.make_node("MatMul", ["norms", "head"], ["z"]),
    ]
    head = np.array([[1, 2], [0, 1], [-1, 1], [0, 0]], np.float32)  # the last channel never counts
    tensors = [numpy_helper.from_array(a, n) for a, n in ((KERNEL, "kernel"), (live, "live"), (head, "head"))]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    graph = helper.make_graph(
        nodes, "g", [image], [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2])], tensors
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def spec(**more):
    return AuditSpec(generators=("brightness", "rotation"), head="identity", **more)


@pytest.mark.parametrize("layerwise", ["none", "op"])
def test_auto_takes_finite_differences_and_says_why(layerwise):
    found = lieaudit.audit(net(dead=True), IMAGES, spec(layerwise=layerwise))
    exact = lieaudit.audit(net(dead=False), IMAGES, spec())
    (why,) = [skip for skip in found.skipped if skip.what == "method.forward"]
    assert "derivative along brightness is NaN or infinite on image 0" in why.why
    for name, result in found.results.items():
        assert result.method == "finite_difference"
        assert exact.results[name].method == "forward"
        assert result.status == "ok"
        errors = np.abs(np.subtract(result.per_image, exact.results[name].per_image))
        assert np.all(errors <= np.add(result.per_image_error, exact.results[name].per_image_error))
    for layers in found.layerwise.values():
        assert layers.method == "finite_difference"
        assert any("NaN or infinite" in skip.why for skip in layers.merged)


@pytest.mark.parametrize("layerwise", ["none", "op"])
def test_forward_by_name_is_refused(layerwise):
    with pytest.raises(LieauditError) as caught:
        lieaudit.audit(net(dead=True), IMAGES, spec(method="forward", layerwise=layerwise))
    assert (caught.value.reason, caught.value.subject) == ("DERIVATIVE_NOT_FINITE", "image 0")
    assert "finite_difference" in caught.value.hint
