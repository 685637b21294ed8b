"""Two implementations of the decomposition that share no code: torch in float64 and the rewritten ONNX graph."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit import AuditSpec
from lieaudit.graph.load import load_model
from lieaudit.layerwise import Attributor
from lieaudit.symmetries import tangents
from lieaudit.torch import attribute, export

SPEC = AuditSpec(
    generators=("rotation", "translation_x"), method="forward", layerwise="module", threads=1, bootstrap=100
)


def onnx_rows(data, images):
    """Return generator → segment name → C (n, K), float32 forward mode on the ONNX graph with a float64 head."""
    loaded = load_model(data, SPEC)
    attributor = Attributor(loaded, SPEC)
    found = {}
    for part in attributor.parts:
        directions = tangents(images, part, interpolation="bilinear", padding="reflect", convention="central")
        rows = attributor.sessions(part)(images, directions)
        for g, generator in enumerate(part):
            headed = loaded.head.differential(rows.value, rows.contributions[:, :, g].astype(np.float64))
            found[generator] = {attributor.names[i]: headed[:, k] for k, i in enumerate(rows.sources)}
    attributor.close()
    return found


def inside(rows, name, zero):
    """Add up the segments of a module: those at and below its path."""
    own = [value for segment, value in rows.items() if f"{segment.split(':')[0]}.".startswith(f"{name}.")]
    return np.sum(own, axis=0) if own else zero


def fused(result):
    """Return the modules' contributions as the exporter leaves them: a convolution under the normalisation after it."""
    found = dict(result.inclusive)
    for name in list(found):
        head, _, last = name.rpartition(".")
        if last.startswith("bn"):
            convolution = f"{head}.{last.replace('bn', 'conv')}".lstrip(".")
            found[name] = found[name] + found.pop(convolution)
    return found


def compare(model, images):
    rows = onnx_rows(export(model, images[:1]), images)
    count = 0
    for generator, result in attribute(model, images, SPEC).items():
        whole = np.linalg.norm(result.lie)
        assert np.linalg.norm(np.sum(list(rows[generator].values()), axis=0) - result.lie) < 1e-4 * whole
        for name, value in fused(result).items():
            error = np.linalg.norm(inside(rows[generator], name, np.zeros_like(value)) - value)
            # float32 rounding of the largest row reaches the small ones: 1e-6 of the whole
            assert error <= 1e-4 * np.linalg.norm(value) + 1e-6 * whole, (generator, name)
            count += np.linalg.norm(value) > 1e-3 * whole
    return count


def test_resnet20_module_by_module(resnet20, cifar):
    assert compare(resnet20, cifar[:2]) > 40


@pytest.mark.parametrize("name", ["vit"])
def test_transformers_model_module_by_module(transformers_models, noise, name):
    model, size = transformers_models[name]
    assert compare(model, noise(2, 3, size)) > 15
