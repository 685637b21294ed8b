"""The paper's theory, run: the scripts of examples/theory say what they print."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def script(repo_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports a script of examples/theory by name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"theory_{name}", repo_root / "examples" / "theory" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_aliasing_costs_what_the_fourier_series_says(script):
    """Theorem 1 to 1e-6: sums and products of 32 × 32 float32 pixels leave a few 1e-8."""
    for what, stride_y, stride_x, amplitudes, squares in script("aliasing").rows():
        assert amplitudes < 1e-6, what
        # the printed form, a sum of squares, holds where each output frequency has one aliased source …
        single = stride_x == 2 and what != "both"
        assert (squares < 1e-6) == single, (what, stride_y)
        # … and is far off on single images where several add up as amplitudes
        assert single or squares > 1e-2


def test_a_sampling_that_drops_nothing_is_equivariant(script):
    aliasing = script("aliasing")
    x = aliasing.images(2, aliasing.SIZE, wide=False)
    smooth = np.ascontiguousarray(x.swapaxes(2, 3))  # what is smooth along y becomes smooth along x
    power = np.mean(smooth.astype(np.float64) ** 2)
    # float32 pixels, differentiated at up to 3 cycles per image: (2π 3 · 6e-8)² of the power
    assert np.all(aliasing.measured(smooth, 1, 2) / (aliasing.SIZE**2 / 2) < 1e-10 * power)


def test_consistency_regularisation_tends_to_the_lie_derivative(script):
    """Order 2 ± 0.1 with a band-limited interpolant, and another limit with a bilinear one."""
    pytest.importorskip("torch")
    consistency = script("consistency")
    smooth = consistency.limits("fourier", "circular")
    for count in ("one", "two"):
        assert smooth.slope(count) == pytest.approx(2, abs=0.1)
    assert smooth.one[-1] / smooth.trace == pytest.approx(1, abs=1e-3)
    assert smooth.two[-1] / (2 * smooth.trace) == pytest.approx(1, abs=1e-3)
    bilinear = consistency.limits("bilinear", "circular")
    # the blur's own term stays however small the transform: the last two scales agree on another number
    assert bilinear.one[-1] == pytest.approx(bilinear.one[-2], rel=1e-2)
    assert bilinear.one[-1] / bilinear.trace > 1.3
    assert bilinear.two[-1] / (2 * bilinear.trace) > 1.1
