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


def net(dead, *, rectified=False):
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


def test_layers_that_no_method_can_measure_are_said_to_be():
    """A row of the dead channel's own perturbs 0 to either side, and the root of what is less than 0 is NaN."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"]),
        helper.make_node("Clip", ["c", "", "top"], ["low"]),
        helper.make_node("Relu", ["low"], ["r"]),
        helper.make_node("Sqrt", ["r"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["norms"]),
        helper.make_node("MatMul", ["norms", "head"], ["z"]),
    ]
    head = np.ones((4, 2), np.float32)
    tensors = [numpy_helper.from_array(a, n) for a, n in ((KERNEL, "kernel"), (np.float32(2), "top"), (head, "head"))]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    graph = helper.make_graph(
        nodes, "g", [image], [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    found = lieaudit.audit(model, IMAGES, spec(layerwise="op"))
    assert not found.layerwise
    assert found.status == "inconclusive"
    assert any(skip.what == "layerwise" and "NaN or infinite" in skip.why for skip in found.skipped)
    assert any(reason.startswith("layerwise was not measured") for reason in found.reasons)
    assert all(result.method == "finite_difference" and result.lee > 0 for result in found.results.values())
