"""Heads against torch in float64, and at the extremes where float32 heads lose everything."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.metrics.head import Head

torch = pytest.importorskip("torch")
FUNCTIONS = {"identity": lambda z: z, "softmax": lambda z: z.softmax(1), "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 6, 7)])
def test_values_and_differentials_agree_with_torch(function, shape):
    rng = np.random.default_rng(10)
    z, dz = rng.standard_normal(shape) * 3, rng.standard_normal((shape[0], 2, *shape[1:]))
    head = Head(function, spatial=len(shape) == 4)
    for d in range(2):
        value, tangent = torch.func.jvp(FUNCTIONS[function], (torch.from_numpy(z),), (torch.from_numpy(dz[:, d]),))
        # float64 sums of a few terms
        assert np.allclose(head.value(z), value.numpy(), rtol=0, atol=1e-15)
        assert np.allclose(head.differential(z, dz)[:, d], tangent.numpy(), rtol=0, atol=1e-14)


def test_confident_logits_keep_their_digits():
    """p(1 − p) at p = 1 − 1e-13 cancels in float32 altogether; here it keeps three digits."""
    z = np.array([[30.0, 0.0]], np.float32)
    dz = np.array([[[1.0, 0.0]]])
    exact = np.exp(-30.0) / (1.0 + np.exp(-30.0)) ** 2
    # 1 − p is formed from p: an error of 2^-53 against 1e-13
    assert Head("softmax", spatial=False).differential(z, dz)[0, 0, 0] == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_logits_do_not_overflow(extreme):
    z = np.array([[extreme, 0.0]])
    with np.errstate(all="raise", under="ignore"):
        for function in FUNCTIONS:
            assert np.isfinite(Head(function, spatial=False).value(z)).all()


def test_names():
    assert Head("softmax", spatial=False).name == "softmax"
    assert Head("softmax", spatial=True).name == "spatial"
