"""The worst and the best of all directions, against directions that are measured themselves and against float64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.spec import GENERATORS, AuditSpec
from lieaudit.symmetries.affine import BASIS
from lieaudit.symmetries.generators import pixel_grid

SIZES = [(8, 8), (6, 11)]
DRAWN = 1000


@pytest.fixture(scope="module")
def graphs():
    """The graphs and images of tests/core/test_combined.py."""
    spec = importlib.util.spec_from_file_location("combined", Path(__file__).with_name("test_combined.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def central(images):
    """∂x and ∂y by central differences of a reflected image, float64."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    return (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2, (
        padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    ) / 2


def along(images, field):
    """v · ∇I of a field [[a, b, c], [d, e, f]]."""
    x, y = pixel_grid(*images.shape[-2:])
    vx, vy = (row[0] * x + row[1] * y + row[2] for row in np.asarray(field))
    dx, dy = central(images)
    return vx * dx + vy * dy


def displacement(field, size):
    x, y = pixel_grid(*size)
    return np.mean(sum((row[0] * x + row[1] * y + row[2]) ** 2 for row in np.asarray(field)))


@pytest.mark.parametrize("dense", [False, True], ids=["scores", "map"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("convention", ["central", "reference"])
@pytest.mark.parametrize("method", ["forward", "finite_difference"])
def test_the_extremes_measured_as_custom_generators_have_the_lee_of_the_report(graphs, method, convention, size, dense):
    x = graphs.smooth_images(size, 12)
    model = graphs.graph(size, dense=dense)
    spec = AuditSpec(
        method=method, convention=convention, head="spatial" if dense else "softmax", threads=1, bootstrap=100
    )
    found = lieaudit.audit(model, x, spec).affine
    assert found.basis == BASIS
    custom = {"worst": found.worst.field, "best": found.best.field}
    again = AuditSpec(**{**spec.to_dict(), "generators": ("worst", "best"), "custom": custom})
    results = lieaudit.audit(model, x, again).results
    for name, stated in (("worst", found.worst), ("best", found.best)):
        assert displacement(stated.field, size) == pytest.approx(1)
        assert results[name].combined_from == ()
        assert results[name].lee_per_px2 == pytest.approx(results[name].lee)
        allowed = stated.error_bar + results[name].error_bar
        assert results[name].lee == pytest.approx(stated.lee, rel=1e-5, abs=allowed)
        assert stated.ci95[0] <= stated.lee <= stated.ci95[1]
        assert np.max(np.abs(stated.field)) == np.max(stated.field)  # the largest entry is positive
    assert found.eigenvalues[-1] == pytest.approx(found.worst.lee)
    assert found.eigenvalues[0] == pytest.approx(found.best.lee)
    assert found.mean == pytest.approx(np.mean(found.eigenvalues))
    assert found.worst.bias > 0 > found.best.bias


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_direction_is_worse_than_the_worst_in_float64(size):
    torch = pytest.importorskip("torch")
    import lieaudit.torch

    torch.manual_seed(0)
    flat = torch.nn.Flatten()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), flat, torch.nn.LazyLinear(5))
    net(torch.zeros(1, 3, *size))
    random = np.random.default_rng(2)
    x = random.standard_normal((8, 3, *size)).astype(np.float32)
    spec = AuditSpec(head="softmax", bootstrap=100)
    reports = [lieaudit.torch.audit(net, x, spec, precision=precision) for precision in ("float64", "float32")]
    exact = net.double()

    def function(image):
        return torch.softmax(exact(image[None])[0], 0)

    jacobians = torch.stack([torch.func.jacrev(function)(torch.tensor(i)) for i in x.astype(np.float64)])
    jacobians = jacobians.detach().numpy().reshape(len(x), 5, -1)

    def lee(field):
        moved = along(x, field).reshape(len(x), -1)
        return np.mean(np.einsum("nkp,np->nk", jacobians, moved) ** 2)

    for report, rel in zip(reports, (1e-6, 1e-4), strict=True):
        worst, best = report.affine.worst, report.affine.best
        assert lee(worst.field) == pytest.approx(worst.lee, rel=rel)
        assert lee(best.field) == pytest.approx(best.lee, rel=rel)
        drawn = random.standard_normal((DRAWN, 2, 3)) * [1, 1, max(size)]
        quotients = np.array([lee(field) / displacement(field, size) for field in drawn])
        assert np.all(quotients <= worst.lee * (1 + rel))
        assert np.all(quotients >= best.lee * (1 - rel))
        assert quotients.max() > 0.7 * worst.lee  # they come near


def striped(size):
    """Scores that look at stripes along y of one width: a filter that prefers motion along x."""
    x = np.arange(size[1])
    weights = np.stack([np.cos(np.pi * x / 2), np.sin(np.pi * x / 2), np.cos(np.pi * x / 2 + 1)])
    weights = np.broadcast_to(weights[:, None, None], (3, 3, *size)).reshape(3, -1).T.astype(np.float32) / 20
    made = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.ascontiguousarray(weights), "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)], ids=str)
def test_a_planted_preference_is_pointed_at(size):
    random = np.random.default_rng(0)
    x = random.standard_normal((48, 3, *size)).astype(np.float32)
    spec = AuditSpec(method="forward", head="identity", padding="circular", threads=1, bootstrap=200)
    found = lieaudit.audit(striped(size), x, spec).affine
    only_x, only_y = ([found.worst.field[0], [0, 0, 0]], [[0, 0, 0], found.best.field[1]])
    assert displacement(only_x, size) > 0.9
    assert displacement(only_y, size) > 0.9
    assert found.worst.lee > 3 * found.best.lee
    assert found.worst.words != found.best.words


def test_custom_generators_cost_nothing_beside_the_basis(graphs):
    size = (8, 8)
    x = graphs.smooth_images(size, 6)
    custom = {"turn": [[0, 1, 0], [-1, 0, 0]], "mixed": [[0.1, 0.2, 1], [0.3, -0.1, 0.5]]}
    spec = AuditSpec(method="forward", head="softmax", threads=1, bootstrap=100)
    plain = lieaudit.audit(graphs.graph(size), x, spec)
    more = lieaudit.audit(graphs.graph(size), x, AuditSpec(**{**spec.to_dict(), "custom": custom}))
    assert tuple(more.results) == (*GENERATORS, "turn", "mixed")
    assert more.timing.rows == plain.timing.rows
    assert more.results["turn"].lee == more.results["rotation"].lee
    assert more.results["mixed"].combined_from == BASIS or set(more.results["mixed"].combined_from) == set(BASIS)
    alone = AuditSpec(**{**spec.to_dict(), "generators": ("mixed",), "custom": {"mixed": custom["mixed"]}})
    single = lieaudit.audit(graphs.graph(size), x, alone)
    np.testing.assert_allclose(single.results["mixed"].per_image, more.results["mixed"].per_image, rtol=2e-5)
    assert single.affine is None
    assert [skip.what for skip in single.skipped].count("affine") == 1


@pytest.mark.parametrize("dense", [False, True], ids=["scores", "map"])
def test_displacements_are_a_direction_of_their_own(graphs, dense):
    size = (6, 11)
    x = graphs.smooth_images(size, 6)
    xs, ys = pixel_grid(*size)
    custom = {"turn": np.stack([ys, -xs], axis=-1)}
    spec = AuditSpec(
        generators=("rotation", "turn"), custom=custom, method="forward", head="spatial" if dense else "softmax",
        threads=1, bootstrap=100,
    )  # fmt: skip
    results = lieaudit.audit(graphs.graph(size, dense=dense), x, spec).results
    assert results["turn"].combined_from == ()
    np.testing.assert_allclose(results["turn"].per_image, results["rotation"].per_image, rtol=1e-5)
    assert results["turn"].lee_per_px2 == pytest.approx(results["rotation"].lee_per_px2, rel=1e-5)


def test_secants_have_no_affine_part_and_the_report_says_why(graphs):
    size = (8, 8)
    spec = AuditSpec(secant_px=0.5, head="softmax", threads=1, bootstrap=100, custom={"turn": [[0, 1, 0], [-1, 0, 0]]})
    report = lieaudit.audit(graphs.graph(size), graphs.smooth_images(size, 4), spec)
    assert report.affine is None
    assert "affine" in [skip.what for skip in report.skipped]
    np.testing.assert_allclose(report.results["turn"].per_image, report.results["rotation"].per_image, rtol=1e-4)


def test_one_image_has_no_intervals(graphs):
    size = (8, 8)
    spec = AuditSpec(method="forward", head="softmax", threads=1, bootstrap=100)
    found = lieaudit.audit(graphs.graph(size), graphs.smooth_images(size, 1), spec).affine
    assert found.worst.ci95 == found.mean_ci95 == ()
    assert found.worst.bias is None
