"""Generators that are combined from the basis against the same ones measured themselves, on graphs built here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.derivatives.finite_difference import FiniteDifference
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.metrics.lee import OutputAction, lie_derivative
from lieaudit.metrics.relative import Other, inner_products, norms
from lieaudit.spec import GENERATORS, AuditSpec
from lieaudit.symmetries import GENERATORS as TABLE
from lieaudit.symmetries import tangents
from lieaudit.symmetries.plan import Plan, plan_of

SIZES = [(8, 8), (6, 11)]
SETTINGS = [
    (interpolation, padding, convention)
    for convention, interpolations in (("central", ("bilinear", "bicubic", "fourier")), ("reference", ("bilinear",)))
    for interpolation in interpolations
    for padding in ("reflect", "circular")
]
COMBINED = ("shear_x", "shear_y", "stretch_x", "stretch_y")
FD_COVERED = 0.9
"""Of differences' bars, each of which is to hold on 95 % of images."""


def graph(size, *, dense=False, seed=0):
    """Two convolutions and, unless ``dense``, five class scores."""
    random = np.random.default_rng(seed)

    def weights(*shape):
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    arrays = {"a": weights(6, 3, 3, 3), "b": weights(4, 6, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], pads=[1] * 4),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Conv", ["t", "b"], ["z" if dense else "c"], pads=[1] * 4),
    ]
    shape = ["N", 4, *size]
    if not dense:
        shape = ["N", 5]
        arrays["d"] = weights(4 * size[0] * size[1], 5)
        nodes += [
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("MatMul", ["f", "d"], ["z"]),
        ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def smooth_images(size, count=6, seed=1):
    """Images whose neighbours differ by about as much as they are large."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, 3, size[0] + 2, size[1] + 2))
    return sum(noise[:, :, i : i + size[0], j : j + size[1]] for i in range(3) for j in range(3)).astype(np.float32) / 3


def differentiator(method, model, spec, x, directions):
    if method == "forward":
        return ForwardDifferentiator(model, spec)
    made = FiniteDifference(model, spec)
    made.calibrate(x, directions)
    return made


@pytest.mark.parametrize("dense", [False, True], ids=["scores", "map"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("interpolation", "padding", "convention"), SETTINGS)
@pytest.mark.parametrize("method", ["forward", "finite_difference"])
def test_combined_vectors_are_those_measured_directly(method, size, dense, interpolation, padding, convention):
    spec = AuditSpec(
        interpolation=interpolation, padding=padding, convention=convention, threads=1,
        head="spatial" if dense else "softmax",
    )  # fmt: skip
    model, x = load_model(graph(size, dense=dense), spec), smooth_images(size)
    action = OutputAction.of(spec) if dense else None
    plan = plan_of([TABLE[name] for name in GENERATORS], *size, convention=convention)
    found = []
    for generators in (plan.measured, plan.asked):
        own = tangents(x, generators, interpolation=interpolation, padding=padding, convention=convention)
        made = differentiator(method, model, spec, x, own)
        found.append(lie_derivative(made(x, own), model.head, generators, action))
    measured, direct = found
    combined, bars = np.stack(list(plan.combined(measured.value)), axis=1), plan.bars(measured.error)
    off, scale = (
        np.linalg.norm(rows.reshape(len(x), len(GENERATORS), -1), axis=2)
        for rows in (combined - direct.value, direct.value)
    )
    if method == "forward":
        # both err by rounding, each within its bar
        assert np.all(off <= np.maximum(1e-5 * scale, bars + direct.error))
    else:
        assert np.mean(off <= bars + direct.error) >= FD_COVERED
    at = [GENERATORS.index(name) for name in COMBINED]
    assert np.any(off[:, at] > 0)  # these are not the same numbers taken twice


@pytest.mark.parametrize("method", ["auto", "forward", "finite_difference"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_audit_of_all_generators_says_what_audits_of_each_alone_say(method, size):
    x = smooth_images(size, 12)
    spec = AuditSpec(method=method, head="softmax", threads=1, bootstrap=100, seed=3)
    whole = lieaudit.audit(graph(size), x, spec)
    for name in GENERATORS:
        own = lieaudit.audit(graph(size), x, AuditSpec(**{**spec.to_dict(), "generators": (name,)}))
        combined, alone = whole.results[name], own.results[name]
        assert alone.combined_from == ()
        # differences whose bars are wide together are taken directly
        assert (combined.combined_from != ()) == (name in COMBINED) or method == "finite_difference"
        allowed = np.add(combined.per_image_error, alone.per_image_error) + 2e-5 * np.array(alone.per_image)
        off = np.abs(np.subtract(combined.per_image, alone.per_image))
        assert np.mean(off <= allowed) >= (FD_COVERED if method == "finite_difference" else 1.0)
        # 24 ratios of two differences each, which carry no bar of their own and err by a tenth where kinks are near
        assert combined.relative == pytest.approx(alone.relative, rel=0.15 if method == "finite_difference" else 1e-4)
        assert (combined.step is None) == (combined.combined_from != () or method != "finite_difference")


def test_torch_audits_combine_too():
    torch = pytest.importorskip("torch")
    import lieaudit.torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 9, 5)
    )
    x = smooth_images((6, 11), 5)
    spec = AuditSpec(head="softmax", bootstrap=100)
    whole = lieaudit.torch.audit(net, x, spec)
    for name in GENERATORS:
        alone = lieaudit.torch.audit(net, x, AuditSpec(**{**spec.to_dict(), "generators": (name,)})).results[name]
        assert (whole.results[name].combined_from != ()) == (name in COMBINED)
        np.testing.assert_allclose(whole.results[name].per_image, alone.per_image, rtol=2e-6)


def row_sums(size):
    """Class scores from the means of rows: a horizontal shift of any row, and so a shear along x, changes nothing."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((3 * size[0], 5)).astype(np.float32)
    made = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[3], keepdims=0),
            helper.make_node("Tanh", ["m"], ["t"]),
            helper.make_node("Flatten", ["t"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_small_difference_of_large_ones_is_measured_directly_and_said():
    size = (8, 8)
    spec = AuditSpec(method="forward", head="softmax", padding="circular", threads=1, bootstrap=100)
    results = lieaudit.audit(row_sums(size), smooth_images(size, 12), spec).results
    assert results["shear_x"].combined_from == ()
    assert set(results["shear_y"].combined_from) == {"rotation", "hyperbolic_rotation"}
    # what is left of the difference of two vectors, of 1e-7 of their size, squared
    assert results["shear_x"].lee < 1e-12 * results["rotation"].lee
    assert results["shear_y"].lee > 0.1 * results["rotation"].lee


def test_a_rotation_invariant_network_keeps_its_tiny_rotation_error():
    """Sums over smooth rings: along rotation nothing but the last digits of what interpolation leaves."""
    size = (24, 24)
    y, x = (c - 11.5 for c in np.mgrid[:24, :24])
    rings = np.stack([np.exp(-((np.hypot(x, y) - r) ** 2) / 6) for r in (0, 2, 4, 6)])
    weights = np.tile(rings.reshape(4, -1).T, (3, 1)).astype(np.float32) / 40
    made = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = AuditSpec(method="forward", head="softmax", interpolation="fourier", threads=1, bootstrap=100)
    images = smooth_images(size, 8)
    whole = lieaudit.audit(model, images, spec).results
    alone = lieaudit.audit(model, images, AuditSpec(**{**spec.to_dict(), "generators": ("rotation",)})).results
    assert whole["rotation"].combined_from == ()
    assert whole["rotation"].lee < 1e-4 * whole["hyperbolic_rotation"].lee
    allowed = whole["rotation"].error_bar + alone["rotation"].error_bar
    assert whole["rotation"].lee == pytest.approx(alone["rotation"].lee, rel=1e-5, abs=allowed)


def test_the_other_direction_of_relative_is_combined_exactly():
    size = (6, 11)
    x, others = smooth_images(size, 4), smooth_images(size, 4, seed=2)
    plan = plan_of([TABLE[name] for name in GENERATORS], *size, convention="central")
    asked = Plan.direct(plan.asked)
    how = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}
    rows, other = Other.of(tangents(x, plan.measured, **how), tangents(others, plan.measured, **how), plan)
    direct, one = Other.of(tangents(x, plan.asked, **how), tangents(others, plan.asked, **how), asked)
    made = np.einsum("ngm,nmchw->ngchw", other.weights, rows.astype(np.float64))
    np.testing.assert_allclose(one.weights, np.broadcast_to(np.eye(10), (4, 10, 10)))
    scale = np.abs(direct).max()
    np.testing.assert_allclose(made, direct, atol=4 * np.finfo(np.float32).eps * scale)
    # as large as the image's own
    own = tangents(x, plan.asked, **how)
    np.testing.assert_allclose(
        np.linalg.norm(made.reshape(4, 10, -1), axis=2), np.linalg.norm(own.reshape(4, 10, -1), axis=2), rtol=1e-5
    )


def test_an_image_that_a_combination_does_not_move_does_not_move():
    """Stripes along x are moved by rotation and by its partner, and by a shear along x not at all."""
    x = np.zeros((1, 3, 8, 8), np.float32) + np.sin(np.arange(8.0))[:, None].astype(np.float32)
    plan = plan_of([TABLE[name] for name in GENERATORS], 8, 8, convention="central")
    own = tangents(x, plan.measured, interpolation="bilinear", padding="reflect", convention="central")
    moving = dict(zip(GENERATORS, norms(inner_products(own), plan.weights)[0] > 0, strict=True))
    assert not moving["shear_x"]
    assert not moving["translation_x"]
    assert all(moving[name] for name in ("rotation", "hyperbolic_rotation", "shear_y", "stretch_y", "scale"))
