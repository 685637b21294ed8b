"""Whole models against float64 JVPs of the torch module they were exported from."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

pytestmark = pytest.mark.torch

_GENERATORS = ("translation_x", "rotation", "scale")
_IMAGES = 3
_SCRIPT = (
    "vit", "deit", "beit", "swin", "convnext", "resnet", "mobilenet_v2", "efficientnet", "poolformer", "levit", "cvt",
    "mobilevit", "segformer", "upernet", "clip_vision",
)  # fmt: skip


def _images(shape):
    random = np.random.default_rng(0)
    x = random.standard_normal((_IMAGES, *shape)).astype(np.float32)
    for _ in range(3):
        x = (x + np.roll(x, 1, -1) + np.roll(x, 1, -2)) / 2
    return x


def _directions(x):
    made = tangents(x, _GENERATORS, interpolation="bilinear", padding="reflect", convention="central")
    return made.astype(np.float32)


def _reference(module, x, v):
    """Give z and dz in float64."""
    import torch

    double = module.double()
    point = torch.tensor(x, dtype=torch.float64)
    rows = []
    for d in range(v.shape[1]):
        z, dz = torch.func.jvp(double, (point,), (torch.tensor(v[:, d], dtype=torch.float64),))
        rows.append(dz.detach().numpy())
    return z.detach().numpy(), np.stack(rows, axis=1)


def _softmax_lee(z, dz):
    """Give LEE per image and direction under a softmax over the last axis, in float64."""
    z = z.reshape(len(z), -1).astype(np.float64)
    dz = dz.reshape(*dz.shape[:2], -1)
    p = np.exp(z - z.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True))[:, None]
    return np.mean((p * (dz - (p * dz).sum(-1, keepdims=True))) ** 2, axis=-1)


def _check(zoo, name, exporter):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    module, shape = zoo.ZOO[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = zoo.export(module, shape, exporter)
    model = load_model(proto.SerializeToString(), AuditSpec(threads=1))
    differentiator = ForwardDifferentiator(model, AuditSpec(threads=1))
    assert not differentiator.skipped
    x = _images(shape)
    v = _directions(x)
    made = differentiator(x, v)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z, expected = _reference(module, x, v)
    error = np.linalg.norm(made.tangent.reshape(expected.shape) - expected) / np.linalg.norm(expected)
    # float32 rounding over some hundred ops in a row, each 6e-8
    assert error < 5e-6
    if expected.ndim == 3:
        mine, theirs = _softmax_lee(made.value, made.tangent), _softmax_lee(z, expected)
        relative = np.abs(mine / theirs - 1)
        assert np.quantile(relative, 0.95) < 1e-4
        assert abs(mine.mean() / theirs.mean() - 1) < 1e-5


@pytest.mark.parametrize("name", _SCRIPT)
def test_script_exports_are_exact(zoo, name):
    _check(zoo, name, "script")


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_fixed_batch_exports_are_exact(zoo, name):
    _check(zoo, name, "script-static")


@pytest.mark.parametrize("name", ["convnext", "dinov2_registers", "poolformer"])
def test_dynamo_exports_are_exact(zoo, name):
    _check(zoo, name, "dynamo")
