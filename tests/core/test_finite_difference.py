"""Finite differences: order of convergence, noise, and derivatives known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit import AuditSpec
from lieaudit.derivatives.finite_difference import STEPS, FiniteDifference
from lieaudit.derivatives.noise import EVALUATIONS, noise_level
from lieaudit.derivatives.rows import RowEvaluator
from lieaudit.errors import BudgetError, SpecError
from lieaudit.graph.load import load_model
from lieaudit.runtime.session import Session


def network(nodes, initializers=(), size=8, batch="N", classes=4):
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


RNG = np.random.default_rng(3)
CONV = (0.3 * RNG.standard_normal((6, 3, 3, 3))).astype(np.float32)
DENSE = RNG.standard_normal((6, 4)).astype(np.float32)
LINEAR = RNG.standard_normal((192, 4)).astype(np.float32)


def smooth(activation="Tanh", **kwargs):
    nodes = [
        ("Conv", ["image", "w"], ["c"], {}),
        (activation, ["c"], ["a"], {}),
        ("GlobalAveragePool", ["a"], ["p"], {}),
        ("Flatten", ["p"], ["f"], {}),
        ("MatMul", ["f", "d"], ["logits"], {}),
    ]
    return network(nodes, [("w", CONV), ("d", DENSE)], **kwargs)


def linear():
    nodes = [("Flatten", ["image"], ["f"], {}), ("MatMul", ["f", "l"], ["logits"], {})]
    return network(nodes, [("l", LINEAR)])


def images_and_directions(n=5, directions=3):
    rng = np.random.default_rng(4)
    return (
        rng.standard_normal((n, 3, 8, 8)).astype(np.float32),
        rng.standard_normal((n, directions, 3, 8, 8)).astype(np.float32),
    )


def calibrated(proto, x, v, **spec):
    differences = FiniteDifference(load_model(proto), AuditSpec(**spec))
    differences.calibrate(x, v)
    return differences


def error_and_bar(found, d, exact):
    """Norm of the true error and the error bar of direction d, per image."""
    bar = found.coverage * np.sqrt(sum(np.sum(spread[:, d] ** 2, axis=1) for spread in found.spreads))
    return np.linalg.norm(found.tangent[:, d] - exact, axis=1), bar


def test_a_linear_functional_has_its_weights_as_derivative(assert_covers):
    x, v = images_and_directions(n=64)
    found = calibrated(linear(), x, v, head="identity")(x, v)
    exact = v.reshape(64, 3, -1).astype(np.float64) @ LINEAR.astype(np.float64)
    error = np.linalg.norm(found.tangent - exact, axis=2)
    bar = found.coverage * np.sqrt(sum(np.sum(spread**2, axis=2) for spread in found.spreads))
    assert_covers((error <= bar).ravel())  # the directions are drawn too
    # no truncation error, so the step grows to the ladder's top, 2^-3; a float32 sum of 192 terms rounds by about
    # 2^-24 √192 of its size, eight times that of its derivative
    assert np.median(error / np.linalg.norm(exact, axis=2)) < 8 * 2.0**-24 * np.sqrt(192)


def test_central_differences_converge_at_second_order(float64_graph):
    """Fit log error against log step over the steps where truncation, not rounding, rules."""
    proto = smooth()
    x, v = images_and_directions(n=3, directions=1)
    evaluator = RowEvaluator(load_model(proto), AuditSpec())
    _, exact = float64_graph(proto).jvp(x, v[:, 0])
    steps = 2.0 ** np.arange(-6, -2)
    signed = np.concatenate([steps, -steps])[None].astype(np.float32)
    z = evaluator.along(x, v, signed).astype(np.float64)[:, 0]
    errors = [np.linalg.norm((z[:, i] - z[:, i + 4]) / (2 * t) - exact) for i, t in enumerate(steps)]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.1)


def test_smooth_models_are_extrapolated_and_the_bar_covers(float64_graph, assert_covers):
    proto = smooth()
    x, v = images_and_directions(n=128)
    differences = calibrated(proto, x[:6], v[:6], head="identity")
    assert differences.calibration.richardson.any()
    found = differences(x, v)
    for d in range(3):
        _, exact = float64_graph(proto).jvp(x, v[:, d])
        error, bar = error_and_bar(found, d, exact)
        assert_covers(error <= bar)
        # noise of 4e-8 over finest steps of about 1e-3, amplified 2.7 times, against derivatives of about 1
        assert np.median(error / np.linalg.norm(exact, axis=1)) < 2e-4


@pytest.mark.parametrize("offset", [1.5, 30.0])
def test_agreement_on_zero_is_not_taken_for_a_derivative(float64_graph, assert_covers, offset):
    """Behind a large offset z answers a small step with the same bits: zero at every small step, and no noise."""
    nodes = [
        ("Conv", ["image", "w"], ["c"], {}),
        ("Tanh", ["c"], ["a"], {}),
        ("GlobalAveragePool", ["a"], ["p"], {}),
        ("Flatten", ["p"], ["f"], {}),
        ("MatMul", ["f", "d"], ["m"], {}),
        ("Mul", ["m", "k"], ["s"], {}),
        ("Add", ["s", "o"], ["logits"], {}),
    ]
    weights = [("w", CONV), ("d", DENSE), ("k", np.float32(1e-4)), ("o", np.float32(offset))]
    proto = network(nodes, weights)
    x, v = images_and_directions(n=128)
    differences = calibrated(proto, x[:6], v[:6], head="identity")
    found = differences(x, v)
    for d in range(3):
        _, exact = float64_graph(proto).jvp(x, v[:, d])
        error, bar = error_and_bar(found, d, exact)
        assert_covers(error <= bar)
        assert bar.min() > 0
        # the last rounding of a value of this size
        assert differences.calibration.noise[d] >= np.spacing(np.float32(offset)) / np.sqrt(12) * (1 - 1e-6)
        if offset == 1.5:
            # rounding of 3e-8 over steps of about 0.03, as large as curvature allows, against derivatives of about
            # 1e-4, is 0.02; the step is a power of four, and noise may tip it to the next
            assert np.median(error / np.linalg.norm(exact, axis=1)) < 0.08


def test_noise_level_recovers_a_known_deviation():
    rng = np.random.default_rng(5)
    i = np.arange(EVALUATIONS, dtype=np.float64)[:, None]
    smooth_part = np.sin(1e-3 * i) + 1e-4 * i**2
    values = smooth_part + 1e-6 * rng.standard_normal((EVALUATIONS, 4000))
    # the smallest of four estimates from few numbers lies below σ, by less than a fifth
    assert 0.8e-6 < np.sqrt(np.mean(noise_level(values) ** 2)) < 1.0e-6


def test_a_fixed_step_is_taken_as_it_is():
    x, v = images_and_directions()
    differences = calibrated(linear(), x, v, step=0.25)
    assert np.array_equal(differences.calibration.steps, [0.25] * 3)


def test_uncalibrated_differences_are_refused():
    x, v = images_and_directions()
    with pytest.raises(SpecError, match="calibrate"):
        FiniteDifference(load_model(linear()), AuditSpec())(x, v)


def rows_one_by_one(proto, x, v, steps):
    """Form every row in numpy and run it alone."""
    with Session(proto.SerializeToString()) as session:
        return np.array(
            [
                [
                    [session.run({"image": (image + np.float32(s) * direction)[None]})[0][0] for s in row]
                    for direction, row in zip(per_image, steps, strict=True)
                ]
                for image, per_image in zip(x, v, strict=True)
            ]
        )


@pytest.mark.parametrize("rows_per_run", [1, 3, 5, 8, 1000])
def test_rows_do_not_depend_on_how_they_are_batched(rows_per_run):
    x, v = images_and_directions()
    steps = np.array([[1e-3, -1e-3, 0.5], [2e-3, -2e-3, 0.25], [3e-3, -3e-3, 0.125]], np.float32)
    evaluator = RowEvaluator(load_model(smooth()), AuditSpec())
    evaluator.rows_per_run = rows_per_run
    found = evaluator.along(x, v, steps)
    expected = rows_one_by_one(smooth(), x, v, steps)
    # a fused multiply-add and another summation order
    assert np.allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert evaluator.rows_done == 45


def test_a_row_that_does_not_fit_the_budget_is_refused():
    big = smooth(size=1024)
    with pytest.raises(BudgetError) as caught:
        RowEvaluator(load_model(big), AuditSpec(budget_mib=16))
    assert caught.value.reason == "ROW_OVER_BUDGET"
    assert "--budget" in caught.value.hint


def test_steps_halve():
    assert np.allclose(STEPS[:-1] / STEPS[1:], 2.0)
