"""Graphs that random models turned up: equal tangents of two tensors, and graphs for one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec

RNG = np.random.default_rng(21)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) / 3
HEAD = RNG.standard_normal((4, 5)).astype(np.float32)
IMAGES = RNG.standard_normal((3, 3, 8, 10)).astype(np.float32)

# Both what the mask compares and what it selects leave the first stage: they differ by a constant.
SOFT_SHRINK = [
    helper.make_node("Tanh", ["c"], ["t"]),
    helper.make_node("Sub", ["t", "bound"], ["less"]),
    helper.make_node("Greater", ["t", "bound"], ["above"]),
    helper.make_node("Where", ["above", "less", "zero"], ["m"]),
]
# A constant shape with the batch in it, between ops that cannot do without it.
ONE_BY_ONE = [
    helper.make_node("Reshape", ["c", "five"], ["r"]),
    helper.make_node("Tanh", ["r"], ["t"]),
    helper.make_node("Squeeze", ["t", "first"], ["m"]),
]


def net(middle, batch):
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("GlobalAveragePool", ["m"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "head"], ["logits"]),
    ]
    values = {
        "kernel": KERNEL,
        "head": HEAD,
        "bound": np.float32(0.1),
        "zero": np.float32(0),
        "five": np.array([1, 1, 4, 8, 10]),
        "first": np.array([0]),
    }
    read = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in values.items() if n in read]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 10])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])
    graph = helper.make_graph(nodes, "net", [image], [logits], tensors)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def audit(model, method):
    spec = AuditSpec(generators=("rotation", "translation_x"), method=method, layerwise="op", head="identity")
    return lieaudit.audit(model, IMAGES, spec)


def test_two_tensors_with_one_tangent_are_both_cut():
    report = audit(net(SOFT_SHRINK, "N"), "forward")
    for layers in report.layerwise.values():
        assert any("Where" in segment.ops and segment.lee > 0 for segment in layers.segments)
        assert layers.completeness < 1e-5  # float32 sums of a few hundred terms


@pytest.mark.parametrize(("method", "complete"), [("forward", 1e-5), ("finite_difference", 0.05)])
def test_a_graph_for_one_image_is_attributed_image_by_image(method, complete):
    report = audit(net(ONE_BY_ONE, 1), method)
    assert any("one image at a time" in note for note in report.model.notes)
    free = audit(net([helper.make_node("Tanh", ["c"], ["m"])], "N"), "forward")
    for name, layers in report.layerwise.items():
        assert layers.completeness < complete
        wanted = [s.lee for s in free.layerwise[name].segments if s.lee > 0]
        found = [s for s in layers.segments if s.lee > 0]
        assert [s.lee for s in found] == pytest.approx(wanted, rel=1e-5 if method == "forward" else 0.05)
