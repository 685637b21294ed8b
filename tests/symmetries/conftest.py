"""Shared by the symmetry tests: every choice there is, and fits of convergence orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

OrderFit = Callable[[Sequence[float], Sequence[float]], float]


@pytest.fixture(scope="session")
def fit_order() -> OrderFit:
    """Slope of log error against log step, by least squares."""

    def fit(steps: Sequence[float], errors: Sequence[float]) -> float:
        return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])

    return fit


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """White-noise float64 images of a shape: no smoothness to help an interpolant."""
    rng = np.random.default_rng(20230501)
    return lambda *shape: rng.normal(size=shape)
