"""The forward differentiator on trained models: accuracy against float64, chunks, error bars, budget."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import lieaudit
from lieaudit.data import open_dataset
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.errors import BudgetError
from lieaudit.graph.load import load_model
from lieaudit.metrics.lee import PerImage, lie_derivative
from lieaudit.spec import AuditSpec, Preprocessing
from lieaudit.symmetries import GENERATORS as TABLE
from lieaudit.symmetries import tangents
from lieaudit.symmetries.affine import mean_square_displacement
from lieaudit.symmetries.custom import custom_generator
from lieaudit.symmetries.plan import plan_of

GENERATORS = ("translation_x", "rotation")
IMAGES = 96
_CIFAR = ("cifar10_test_1017.npz", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MODELS = {
    "resnet20_cifar10": _CIFAR,
    "resnet56_cifar10": _CIFAR,
    "vit_pgd_cifar10": ("cifar10_test_1017.npz", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "resnet_2b_batch1_cifar10": ("cifar10_test_1017.npz", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cnn_small_nhwc_cifar10": ("cifar10_test_1017.npz", (0.0,), (1.0,)),
    "mnist_cntk": ("mnist_test_2000.npz", (0.0,), (1.0,)),
    "mnist_rot_cnn_plain": ("mnist_test_2000.npz", (0.13,), (0.3,)),
    "mnist_rot_p4_gcnn": ("mnist_test_2000.npz", (0.13,), (0.3,)),
}


@pytest.fixture(scope="module")
def oracle():
    """The op-by-op torch evaluation in float64 of tests/core/conftest.py."""
    pytest.importorskip("torch")
    path = Path(__file__).resolve().parents[1] / "core" / "conftest.py"
    spec = importlib.util.spec_from_file_location("core_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Float64Graph


def _inputs(real_dir, name, model, count):
    file, mean, std = MODELS[name]
    x = open_dataset(real_dir / "images" / file).load(
        0,
        count,
        preprocessing=Preprocessing(255.0, mean, std),
        channels=model.channels,
        height=model.height,
        width=model.width,
    )
    return x, tangents(x, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")


@pytest.mark.real
@pytest.mark.torch
@pytest.mark.parametrize("name", MODELS)
def test_trained_models_are_exact(real_dir, oracle, assert_covers, name):
    model = load_model(real_dir / "models" / f"{name}.onnx")
    x, v = _inputs(real_dir, name, model, IMAGES)
    differentiator = ForwardDifferentiator(model, AuditSpec(threads=1))
    assert not differentiator.skipped
    found = PerImage.of(lie_derivative(differentiator(x, v), model.head, GENERATORS, None))
    exact = oracle(ir.to_proto(model.model))
    for g in range(len(GENERATORS)):
        z, dz = exact.jvp(x, v[:, g])
        lee = np.mean(model.head.differential(z, dz[:, None])[:, 0] ** 2, axis=1)
        error = np.abs(found.lee[:, g] - lee)
        assert np.median(error / lee) < 3e-5
        assert_covers(error <= 1e-4 * lee)
        assert_covers(error <= found.lee_error[:, g])


@pytest.mark.real
@pytest.mark.parametrize("name", MODELS)
def test_combined_generators_are_those_measured_directly_on_trained_models(real_dir, name):
    model = load_model(real_dir / "models" / f"{name}.onnx")
    x, _ = _inputs(real_dir, name, model, 24)
    plan = plan_of(list(TABLE.values()), model.height, model.width, convention="central")
    differentiator = ForwardDifferentiator(model, AuditSpec(threads=1))
    found = []
    for generators in (plan.measured, plan.asked):
        v = tangents(x, generators, interpolation="bilinear", padding="reflect", convention="central")
        found.append(lie_derivative(differentiator(x, v), model.head, generators, None))
    measured, direct = found
    combined, bars = np.stack(list(plan.combined(measured.value)), axis=1), plan.bars(measured.error)
    off, scale = (np.linalg.norm(rows, axis=2) for rows in (combined - direct.value, direct.value))
    assert np.all(off <= np.maximum(1e-5 * scale, bars + direct.error))
    assert np.median(off / np.where(scale > 0, scale, 1.0)) < 2e-6


@pytest.mark.real
@pytest.mark.torch
@pytest.mark.parametrize("name", ["resnet20_cifar10", "mnist_rot_cnn_plain"])
def test_the_worst_direction_of_trained_models_is_that_bad_in_float64(real_dir, oracle, name):
    """And none of four random ones is worse for the same displacement: of 1000, tests/core/test_directions.py."""
    path = real_dir / "models" / f"{name}.onnx"
    model = load_model(path)
    x, _ = _inputs(real_dir, name, model, 8)
    spec = AuditSpec(method="forward", threads=1, bootstrap=100, relative_images=0)
    affine = lieaudit.audit(path, x, spec).affine
    exact = oracle(ir.to_proto(model.model))
    size = model.height, model.width

    def lee(field):
        mine = custom_generator("mine", np.asarray(field), *size)
        v = tangents(x.astype(np.float64), [mine], interpolation="bilinear", padding="reflect", convention="central")
        z, dz = exact.jvp(x, v[:, 0])
        return np.mean(model.head.differential(z, dz[:, None])[:, 0] ** 2)

    for stated in (affine.worst, affine.best):
        assert lee(stated.field) == pytest.approx(stated.lee, rel=1e-4, abs=stated.error_bar)
    for field in np.random.default_rng(0).standard_normal((4, 2, 3)) * [1, 1, max(size)]:
        assert lee(field) <= affine.worst.lee * mean_square_displacement(field, *size) * (1 + 1e-4)


@pytest.mark.real
@pytest.mark.parametrize(("name", "count"), [("resnet20_cifar10", 16), ("mobilenet_v1_0.5_160_imagenet", 2)])
def test_chunks_change_rounding_only(real_dir, name, count):
    model = load_model(real_dir / "models" / f"{name}.onnx")
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 3, model.height, model.width), dtype=np.float32)
    v = random.standard_normal((count, 6, 3, model.height, model.width), dtype=np.float32)
    value, expected = ForwardDifferentiator(model, AuditSpec(threads=1))._evaluate(x, v)
    parts = ForwardDifferentiator(model, AuditSpec(threads=1, budget_mib=16))
    plan = parts._plan(v.shape[1])
    assert plan.images * plan.directions < x.shape[0] * v.shape[1]
    again, found = parts._evaluate(x, v)
    assert np.allclose(again, value, rtol=1e-5, atol=1e-5)
    # half of images and directions: in the others another order of sums may carry a unit over its kink
    error = np.linalg.norm(found - expected, axis=2) / np.linalg.norm(expected, axis=2)
    assert np.median(error) < 1e-5
    assert np.array_equal(found, parts._evaluate(x, v)[1])


@pytest.mark.real
def test_budget_too_small_for_one_row(real_dir):
    model = load_model(real_dir / "models" / "squeezenet_fp16_imagenet.onnx")
    with pytest.raises(BudgetError, match="raise --budget") as caught:
        ForwardDifferentiator(model, AuditSpec(threads=1, budget_mib=16))
    assert caught.value.reason == "ROW_OVER_BUDGET"
