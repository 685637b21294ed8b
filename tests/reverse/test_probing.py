"""`lieaudit.squared_norms` against exact derivatives, and the error that it states against its own scatter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit

WIDE, FEW = 40, 3


@pytest.fixture(scope="module")
def case():
    """Gives a graph, its feeds, changes of two tensors, and ‖(∂y/∂h) δ‖² of both in float64."""
    random = np.random.default_rng(0)
    a, b = random.standard_normal((4, 6)), random.standard_normal((6, WIDE)) / 3
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "b"], ["y"]),
            helper.make_node("Slice", ["y", "zero", "few", "one"], ["narrow"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDE]),
            helper.make_tensor_value_info("narrow", TensorProto.FLOAT, ["batch", FEW]),
        ],
        [
            *(numpy_helper.from_array(w.astype(np.float32), n) for n, w in (("a", a), ("b", b))),
            *(numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("few", FEW), ("one", 1))),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = random.standard_normal((2, 4))
    changes = {"x": random.standard_normal((2, 4)), "h": random.standard_normal((2, 6))}
    slope = 1 - np.tanh(x @ a) ** 2
    moved = {"x": (slope * (changes["x"] @ a)) @ b, "h": (slope * changes["h"]) @ b}
    feeds = {"x": x.astype(np.float32)}
    return proto, feeds, {k: v.astype(np.float32) for k, v in changes.items()}, moved


def test_few_outputs_are_exact(case):
    proto, feeds, changes, moved = case
    found = lieaudit.squared_norms(proto, feeds, changes, output="narrow", threads=1)
    assert (found.passes, found.relative_error) == (2 * FEW, 0)
    for name, change in moved.items():
        assert found.values[name] == pytest.approx(np.sum(change[:, :FEW] ** 2), rel=1e-5)


def test_the_stated_error_is_the_scatter(case):
    """Over seeds the estimates scatter about the truth by the error that each of them states."""
    proto, feeds, changes, moved = case
    runs = [
        lieaudit.squared_norms(proto, feeds, changes, output="y", tolerance=0.25, seed=seed, threads=1)
        for seed in range(100)
    ]
    stated = runs[0].relative_error
    assert runs[0].passes == 32
    assert stated == math.sqrt(2 / 32)
    for name, change in moved.items():
        relative = np.array([run.values[name] for run in runs]) / np.sum(change**2) - 1
        # 100 values: their mean has an error of a tenth of one, their standard deviation of about 1/12 (kurtosis 3.4)
        assert abs(relative.mean()) < 4 * stated / 10
        assert stated * (1 - 4 / 12) < relative.std() < stated * (1 + 4 / 12)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"output": None}, "OUTPUT_UNDECLARED"),
        ({"tolerance": 0}, "TOLERANCE_INVALID"),
        ({"tolerance": math.inf}, "TOLERANCE_INVALID"),
        ({"changes": {"x": np.zeros(3, np.float32)}}, "CHANGE_SHAPE"),
        ({"changes": {"q": np.zeros(3, np.float32)}}, "NO_SUCH_INPUT"),
    ],
)
def test_refused(case, changed, reason):
    proto, feeds, changes, _ = case
    arguments = {"output": "y", "changes": changes, "threads": 1} | changed
    with pytest.raises(lieaudit.LieauditError) as refused:
        lieaudit.squared_norms(proto, feeds, arguments.pop("changes"), **arguments)
    assert refused.value.reason == reason
