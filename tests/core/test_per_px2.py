"""LEE per squared pixel of displacement: what can be compared between generators and resolutions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lieaudit import AuditSpec, audit
from lieaudit.symmetries import GENERATORS, velocity_field


def passes_on(height: int, width: int) -> onnx.ModelProto:
    """Return the identity as a vector: its LEE is the tangent's own mean square."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["pixels"])],
        "identity",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, height, width])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", height * width])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("convention", ["central", "reference"])
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_it_is_lee_over_the_mean_square_displacement(size, convention):
    x = np.random.default_rng(0).standard_normal((4, 1, *size)).astype(np.float32)
    spec = AuditSpec(head="identity", convention=convention, bootstrap=100, relative_images=0)
    results = audit(passes_on(*size), x, spec).results
    assert set(results) == set(GENERATORS)
    for name, result in results.items():
        if name == "brightness":
            assert result.lee_per_px2 is None
            continue
        moved = np.mean(np.sum(velocity_field(name, *size, convention=convention) ** 2, axis=0))
        assert result.lee_per_px2 == pytest.approx(result.lee / moved, rel=1e-12)


def test_waves_have_one_number_at_every_resolution():
    """A wave of a given number of pixels per cycle answers alike per pixel, whatever the image's size."""
    found = []
    for size in (16, 32, 64):
        wave = np.broadcast_to(np.sin(2 * np.pi * np.arange(size) / 8), (1, 1, size, size)).astype(np.float32)
        spec = AuditSpec(
            ("translation_x",), head="identity", interpolation="fourier", padding="circular", relative_images=0
        )
        result = audit(passes_on(size, size), np.concatenate([wave, wave]), spec).results["translation_x"]
        found.append((result.lee, result.lee_per_px2))
    assert [per_px2 for _, per_px2 in found] == pytest.approx([(2 * np.pi / 8) ** 2 / 2] * 3, rel=1e-6)
    assert found[2][0] == pytest.approx(16 * found[0][0], rel=1e-6)
