"""Exactly on a kink: one rule for forward mode and torch, and finite differences whose bar covers the difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lieaudit import AuditSpec
from lieaudit.derivatives.finite_difference import FiniteDifference
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.torch import SourceFunction, TorchDifferentiator

F = torch.nn.functional


def node(*arguments, **attributes):
    return helper.make_node(*arguments, **attributes)


def number(value, name):
    return numpy_helper.from_array(np.array(value, np.float32), name)


BOUNDS = [number(0, "low"), number(6, "high")]
TWO = [number(2, "two")]
CASES = {
    "Relu": ([node("Relu", ["x"], ["y"])], [], 0, torch.relu),
    "LeakyRelu": ([node("LeakyRelu", ["x"], ["y"], alpha=0.1)], [], 0, lambda x: F.leaky_relu(x, 0.1)),
    "PRelu": (
        [node("PRelu", ["x", "s"], ["y"])], [number(0.25, "s")], 0,
        lambda x: F.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    ),
    "Clip below": ([node("Clip", ["x", "low", "high"], ["y"])], BOUNDS, 0, lambda x: x.clamp(0, 6)),
    "Clip above": ([node("Clip", ["x", "low", "high"], ["y"])], BOUNDS, 6, lambda x: torch.clip(x, 0, max=6)),
    "Clip, one bound": ([node("Clip", ["x", "low"], ["y"])], BOUNDS[:1], 0, lambda x: x.clamp_min(0)),
    "Relu6": ([node("Clip", ["x", "low", "high"], ["y"])], BOUNDS, 6, F.relu6),
    "Abs": ([node("Abs", ["x"], ["y"])], [], 0, torch.abs),
    "HardSwish": ([node("HardSwish", ["x"], ["y"])], [], 3, F.hardswish),
    "Max": (
        [node("Mul", ["x", "two"], ["d"]), node("Max", ["x", "d"], ["y"])], TWO, 0,
        lambda x: torch.maximum(x, 2 * x),
    ),
    "Min": (
        [node("Mul", ["x", "two"], ["d"]), node("Min", ["x", "d"], ["y"])], TWO, 0,
        lambda x: torch.minimum(x, 2 * x),
    ),
    "MaxPool": (
        [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], [], 1, lambda x: F.max_pool2d(x, 2),
    ),
    "ReduceMax": ([node("ReduceMax", ["x"], ["y"], axes=[3])], [], 1, lambda x: torch.amax(x, 3, keepdim=True)),
}  # fmt: skip
SLOPES = {
    "Relu": 0.0,
    "LeakyRelu": 0.1,
    "PRelu": 0.25,
    "Clip below": 0.0,
    "Clip above": 0.0,
    "Clip, one bound": 0.0,
    "Relu6": 0.0,
    "Abs": 0.0,
    "HardSwish": 1.0,
    "Max": 1.0,
    "Min": 1.0,
}
"""Multiples of the direction. Of a pooling window the first element counts, of a reduction the mean of the largest."""


class Functional(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", CASES)
def test_on_the_kink_all_methods_follow_one_rule(name):
    nodes, constants, at, function = CASES[name]
    weigh = [node("Flatten", ["y"], ["f"]), node("MatMul", ["f", "w"], ["logits"])]
    random = np.random.default_rng(0)
    size = function(torch.zeros(1, 3, 4, 4)).numel()
    weights = random.standard_normal((size, 5)).astype(np.float32)
    graph = helper.make_graph(
        [*nodes, *weigh],
        "tied",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [*constants, numpy_helper.from_array(weights, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = AuditSpec(threads=1, head="identity")
    x = np.full((2, 3, 4, 4), at, np.float32)
    v = random.standard_normal((2, 1, 3, 4, 4)).astype(np.float32)
    forward = ForwardDifferentiator(load_model(proto, spec), spec)(x, v)
    by_torch = TorchDifferentiator(
        SourceFunction(Functional(lambda x: function(x).flatten(1) @ torch.as_tensor(weights).to(x)))
    )(x, v)
    scale = np.linalg.norm(forward.tangent) or 1.0
    assert np.linalg.norm(forward.tangent - by_torch.tangent) <= 1e-6 * scale  # float32 sums of 48 products
    if name in SLOPES:
        stated = SLOPES[name] * v.reshape(2, 1, -1).astype(np.float64) @ weights.astype(np.float64)
        assert np.linalg.norm(forward.tangent - stated) <= 1e-6 * (np.linalg.norm(stated) or 1.0)
    # a central difference is the mean of both sides, and knows from its second difference that they differ
    differences = FiniteDifference(load_model(proto, spec), spec)
    differences.calibrate(x, v)
    found = differences(x, v)
    bar = found.coverage * np.sqrt(sum(np.sum(spread**2, axis=(1, 2)) for spread in found.spreads))
    error = np.linalg.norm((found.tangent - forward.tangent).reshape(2, -1), axis=1)
    assert (error <= bar + 1e-6 * scale).all()
