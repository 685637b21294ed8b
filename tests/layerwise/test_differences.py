"""Finite differences of segment sessions: the same decomposition, within their error bars."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.graph.load import load_model
from lieaudit.layerwise.differences import DifferenceChain
from lieaudit.layerwise.forward_pass import Chain
from lieaudit.layerwise.preparation import prepare
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

GENERATORS = ("translation_x", "rotation")


def both(source, images, generators=GENERATORS, **fields):
    """Return head-applied contributions of forward mode, of differences, and the latter's bars: (n, S, G[, K])."""
    spec = AuditSpec(threads=1, generators=generators, layerwise="module", **fields)
    model = load_model(source, spec)
    prepared = prepare(model, spec)
    directions = tangents(images, generators, interpolation="bilinear", padding="reflect", convention="central")
    forward = Chain(model, prepared, spec, generators)(images, directions)
    chain = DifferenceChain(model, prepared, spec, generators)
    chain.calibrate(images[:2], directions[:2])
    rows = chain(images, directions)
    assert rows.sources == forward.sources

    def through_head(array):
        n, s, g = array.shape[:3]
        flat = array.reshape(n, s * g, *array.shape[3:])
        return model.head.differential(forward.value, flat).reshape(n, s, g, -1)

    bars = rows.coverage * np.sqrt(sum(np.sum(through_head(s) ** 2, axis=-1) for s in rows.spreads))
    return through_head(forward.contributions), through_head(rows.contributions), bars


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "mixer"])
def test_agrees_with_forward_mode(exported, assert_covers, name):
    images = np.random.default_rng(7).standard_normal((8, 3, 64, 96)).astype(np.float32)
    exact, found, bars = both(exported(name, 64, 96), images)
    error = np.linalg.norm(exact - found, axis=-1)
    assert_covers((error <= bars).ravel())  # segments round each in their own way
    whole = exact.sum(axis=1)
    assert np.linalg.norm(found.sum(axis=1) - whole) <= 0.05 * np.linalg.norm(whole)


@pytest.mark.real
@pytest.mark.parametrize("name", ["resnet20_cifar10", "cnn_small_nhwc_cifar10", "resnet_2b_batch1_cifar10"])
def test_agrees_on_trained_models(real_dir, assert_covers, name):
    pixels = np.load(real_dir / "images" / "cifar10_test_1017.npz")["x"][:32].astype(np.float32) / 255
    if name != "cnn_small_nhwc_cifar10":
        pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
    exact, found, bars = both(real_dir / "models" / f"{name}.onnx", images, ("rotation",))
    # per image and segment; bars that cover 95 % of images cover nearly as many of the segments of few images
    assert_covers((np.linalg.norm(exact - found, axis=-1) <= bars).ravel(), 0.9)


def test_one_image_at_a_time(exported):
    """A graph that takes a single image gives the same numbers, row by row."""
    import onnx

    proto = onnx.load_model_from_string(exported("convnext", 64, 96))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    images = np.random.default_rng(7).standard_normal((1, 3, 64, 96)).astype(np.float32)
    exact, found, bars = both(proto.SerializeToString(), images, ("rotation",))
    # one image: its segments are few, and share what it does to a kink
    assert np.mean(np.linalg.norm(exact - found, axis=-1) <= bars) >= 0.75
