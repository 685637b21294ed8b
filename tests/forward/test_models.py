"""Whole models against float64 JVPs: of the torch module they were exported from, or of the graph itself."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

pytestmark = pytest.mark.torch

_GENERATORS = ("translation_x", "rotation", "scale")
_IMAGES = 3
_SCRIPT = (
    "vit", "deit", "beit", "dinov2_registers", "swin", "convnext", "resnet", "mobilenet_v2", "efficientnet",
    "poolformer", "levit", "cvt", "mobilevit", "segformer", "upernet", "clip_vision",
)  # fmt: skip
_TRAINED = (
    "cnn_small_nhwc_cifar10", "mnist_cntk", "mnist_rot_cnn_augmented", "mnist_rot_cnn_plain", "mnist_rot_p4_gcnn",
    "mobilenet_v1_0.5_160_imagenet", "resnet20_cifar10", "resnet56_cifar10", "resnet_2b_batch1_cifar10",
    "squeezenet_fp16_imagenet", "vit_pgd_cifar10",
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
    """Return z and dz in float64."""
    import torch

    double = module.double()
    point = torch.tensor(x, dtype=torch.float64)
    rows = []
    for d in range(v.shape[1]):
        z, dz = torch.func.jvp(double, (point,), (torch.tensor(v[:, d], dtype=torch.float64),))
        rows.append(dz.detach().numpy())
    return z.detach().numpy(), np.stack(rows, axis=1)


def _softmax_lee(z, dz):
    """Return LEE per image and direction under a softmax over the last axis, in float64."""
    z = z.reshape(len(z), -1).astype(np.float64)
    dz = dz.reshape(*dz.shape[:2], -1)
    p = np.exp(z - z.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True))[:, None]
    return np.mean((p * (dz - (p * dz).sum(-1, keepdims=True))) ** 2, axis=-1)


@pytest.fixture(scope="module")
def double_graph():
    """bench/double_graph.py: evaluates an ONNX graph in torch float64."""
    pytest.importorskip("torch")
    path = Path(__file__).resolve().parents[2] / "bench" / "double_graph.py"
    spec = importlib.util.spec_from_file_location("double_graph", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.real
@pytest.mark.parametrize("name", _TRAINED)
def test_trained_models_are_exact(real_dir, double_graph, name):
    """No source at hand: the graph itself, evaluated in float64 by torch."""
    import torch

    path = real_dir / "models" / f"{name}.onnx"
    model = load_model(path, AuditSpec(threads=1))
    differentiator = ForwardDifferentiator(model, AuditSpec(threads=1))
    assert not differentiator.skipped
    x = _images((model.channels, model.height, model.width))
    v = _directions(x)
    made = differentiator(x, v)
    function = double_graph.double_function(ir.to_proto(model.model))
    parts = []
    for i in range(len(x)):  # one image at a time: some of these graphs take no more
        point = torch.tensor(x[i : i + 1]).double()
        rows = [
            torch.func.jvp(function, (point,), (torch.tensor(v[i : i + 1, d]).double(),)) for d in range(v.shape[1])
        ]
        parts.append((rows[0][0].numpy(), np.stack([dz.numpy() for _, dz in rows], axis=1)))
    z, expected = (np.concatenate(column) for column in zip(*parts, strict=True))
    _check_tangent(expected, made)
    _check_lee(z, expected, made)


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
    _check_tangent(expected, made)
    _check_lee(z, expected, made)


def _check_tangent(expected, made):
    """Half of all images and directions within float32 rounding over some hundred ops in a row, each 6e-8.

    Half, because which image has a unit that rounding carries over a kink differs between processors; a wrong rule is
    wrong on all.
    """
    rows = expected.reshape(*expected.shape[:2], -1)
    error = np.linalg.norm(made.tangent.reshape(rows.shape) - rows, axis=2) / np.linalg.norm(rows, axis=2)
    assert np.median(error) < 5e-6


def _check_lee(z, expected, made):
    """Per-image LEE: half within 1e-5, as for the tangent; of maps that of the values, whose action is exact."""
    if expected.ndim == 3:
        mine, theirs = _softmax_lee(made.value, made.tangent), _softmax_lee(z, expected)
    else:
        mine, theirs = (np.mean(dz.reshape(*dz.shape[:2], -1) ** 2, axis=-1) for dz in (made.tangent, expected))
    assert np.median(np.abs(mine / theirs - 1)) < 1e-5


@pytest.mark.parametrize("name", _SCRIPT)
def test_script_exports_are_exact(zoo, name):
    _check(zoo, name, "script")


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_fixed_batch_exports_are_exact(zoo, name):
    _check(zoo, name, "script-static")


@pytest.mark.parametrize("name", ["convnext", "dinov2_registers", "poolformer"])
def test_dynamo_exports_are_exact(zoo, name):
    _check(zoo, name, "dynamo")
