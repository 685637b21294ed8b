"""On trained networks: the finite-difference error bar covers the true error, and the mean LEE is right."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit import AuditSpec, Preprocessing
from lieaudit.data import open_dataset
from lieaudit.derivatives.finite_difference import FiniteDifference
from lieaudit.graph.load import load_model
from lieaudit.metrics.lee import PerImage, lie_derivative
from lieaudit.symmetries import tangents

GENERATORS = ("translation_x", "rotation", "scale")
IMAGES = 256
PREPROCESSING = {
    "resnet20_cifar10": Preprocessing(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "vit_pgd_cifar10": Preprocessing(255.0, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


@pytest.mark.real
@pytest.mark.parametrize("name", PREPROCESSING)
def test_the_bar_covers_the_true_error_and_the_mean_is_right(real_dir, float64_graph, assert_covers, name):
    path = real_dir / "models" / f"{name}.onnx"
    model = load_model(path)
    dataset = open_dataset(real_dir / "images" / "cifar10_test_1017.npz")
    x = dataset.load(0, IMAGES, preprocessing=PREPROCESSING[name], channels=3, height=32, width=32)
    v = tangents(x, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")
    differences = FiniteDifference(model, AuditSpec(generators=GENERATORS))
    few = np.linspace(0, IMAGES - 1, 6).astype(int)
    differences.calibrate(x[few], v[few])
    lie = lie_derivative(differences(x, v), model.head, GENERATORS, None)
    found = PerImage.of(lie)
    oracle = float64_graph(path)
    for g, generator in enumerate(GENERATORS):
        z, dz = oracle.jvp(x, v[:, g])
        exact = model.head.differential(z, dz[:, None])[:, 0]
        lee = np.mean(exact**2, axis=1)
        assert_covers(np.abs(found.lee[:, g] - lee) <= found.lee_error[:, g])
        # 1 % vector error (rounding against kinks) is 2 % of a square; the images that carry the mean average a little
        assert found.lee[:, g].mean() == pytest.approx(lee.mean(), rel=0.02), generator
        # the bar must also say something: it is narrow against the value on most images
        assert np.median(found.lee_error[:, g] / found.lee[:, g]) < 0.2, generator
