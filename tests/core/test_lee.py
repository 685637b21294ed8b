"""The bound on the error of L F where the values themselves are rounded: exact values are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.derivatives.base import Derivatives
from lieaudit.metrics.head import Head
from lieaudit.metrics.lee import OutputAction, lie_derivative
from lieaudit.symmetries import tangents

GENERATORS = ("rotation", "translation_x", "scale")
COVERAGE = 4.0
"""Standard deviations; a norm over hundreds of outputs scatters by a few per cent around its own."""


@pytest.mark.parametrize("offset", [1.0, 100.0, 1e4])
def test_maps_with_an_offset_are_as_rounded_as_their_values(offset):
    """F(x) = M x + offset acts on channels only and commutes with every symmetry of space: L F is exactly 0."""
    rng = np.random.default_rng(3)
    x, mix = 0.01 * rng.standard_normal((5, 2, 24, 20)), rng.standard_normal((3, 2))
    moved = tangents(x, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")
    value = (np.einsum("kc,nchw->nkhw", mix, x) + offset).astype(np.float32)
    derivatives = Derivatives(value, np.einsum("kc,ngchw->ngkhw", mix, moved), (), COVERAGE)
    action = OutputAction("bilinear", "reflect", "central")
    found = lie_derivative(derivatives, Head("identity", spatial=True), GENERATORS, action)
    norms = np.linalg.norm(found.value.reshape(*found.error.shape, -1), axis=2)
    assert (norms > 0).all(), "the values are rounded, so there is something to cover"
    assert (norms <= found.error).all()
    # uniform rounding within one unit in the last place: the bar is its coverage and no order of magnitude more
    assert (found.error <= 2 * COVERAGE * norms).all()


@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
def test_logits_are_as_rounded_as_they_are_large(assert_covers, function):
    """Only differences of logits count in a softmax: a common offset costs digits that the bar must know of."""
    rng = np.random.default_rng(4)
    exact, tangent = rng.standard_normal((200, 5)), rng.standard_normal((200, 2, 5))
    exact += 1e4 if function == "softmax" else 0.0
    head = Head(function, spatial=False)
    found = lie_derivative(Derivatives(exact.astype(np.float32), tangent, (), COVERAGE), head, (), None)
    errors = np.linalg.norm(found.value - head.differential(exact, tangent), axis=2)
    assert_covers((errors <= found.error).ravel())  # the directions are drawn too
    assert np.median(found.error) <= 3 * COVERAGE * np.median(errors)
