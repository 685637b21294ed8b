"""Slopes where units saturate, and over ranks and opsets; single ops against float64 are in tests/ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieaudit.graph.forward import measure_shapes, rewrite


@pytest.mark.parametrize(
    ("op", "slope"),
    [
        # onnxruntime's own y: its Sigmoid errs where it is small, and the slope errs alike
        ("Sigmoid", lambda x, y: y / (1 + np.exp(x))),
        ("Tanh", lambda x, _y: 1 / np.cosh(x) ** 2),
        ("Softplus", lambda x, _y: 1 / (1 + np.exp(-x))),
    ],
)
def test_slopes_of_saturated_units_are_exact(make_case, run_rewritten, op, slope):
    """A unit that a maximum picks is often a saturated one, and its slope is then all that is left."""
    x = np.append(np.linspace(-40, 40, 799), [-200, 200]).astype(np.float32)
    model = ir.from_proto(make_case(op, {"x": x}).model())
    measure_shapes(model, feeds={"x": x})
    y, made = run_rewritten(rewrite(model), {"x": x, "x.tangent": np.ones((1, 801), np.float32)})
    # Exp of onnxruntime is right within one unit in the last place; a handful of roundings follow
    assert np.allclose(
        made[0, :-2], slope(x[:-2].astype(np.float64), y[:-2]), rtol=8 * np.finfo(np.float32).eps, atol=0
    )
    assert np.array_equal(made[0, -2:], [0, 1 if op == "Softplus" else 0])


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), opset=st.sampled_from([7, 8, 9, 14]), rank=st.integers(1, 5))
def test_relu_over_ranks_and_opsets(check_exact, make_case, seed, opset, rank):
    shape = tuple(np.random.default_rng(seed).integers(1, 4, rank))
    x = np.random.default_rng(seed).standard_normal(shape)
    x = np.where(np.abs(x) < 1e-3, 0.5, x).astype(np.float32)  # away from the kink: the reference takes a difference
    check_exact(make_case("Relu", {"x": x}, opset=opset))
