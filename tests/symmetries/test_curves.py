"""Why central differences follow the straight curve x + t·X x and not the flow T_t x (docs/numerics.md)."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.symmetries import GENERATORS, tangent, transform

NAMES = tuple(GENERATORS)


@pytest.fixture
def model():
    """A smooth function of images (3, 8, 8) → R^5 and its exact differential."""
    rng = np.random.default_rng(11)
    first, second = rng.normal(size=(20, 192)) / 14, rng.normal(size=(5, 20))

    def value(image):
        return second @ np.tanh(first @ image.reshape(-1))

    def differential(image, direction):
        hidden = np.tanh(first @ image.reshape(-1))
        return second @ ((1 - hidden**2) * (first @ direction.reshape(-1)))

    return value, differential


def _errors(value, curve, exact, steps):
    return [float(np.linalg.norm((value(curve(t)) - value(curve(-t))) / (2 * t) - exact)) for t in steps]


@pytest.mark.parametrize("name", NAMES)
def test_the_straight_curve_converges_at_second_order(noise, fit_order, model, name):
    value, differential = model
    image = noise(3, 8, 8)
    direction = tangent(image, name, interpolation="bilinear", padding="reflect", convention="central")
    steps = [2.0**-k / 8 for k in range(3, 9)]
    errors = _errors(value, lambda t: image + t * direction, differential(image, direction), steps)
    assert fit_order(steps, errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", [n for n in NAMES if GENERATORS[n].spatial])
def test_the_bilinear_flow_converges_at_first_order_only(noise, fit_order, model, name):
    # its blur |t|·B does not cancel between t and −t once the model is curved: t·D²F[X x, B] is left
    value, differential = model
    image = noise(3, 8, 8)
    choice = {"interpolation": "bilinear", "padding": "reflect"}
    direction = tangent(image, name, **choice, convention="central")
    steps = [2.0**-k / 8 for k in range(6, 12)]
    errors = _errors(value, lambda t: transform(image, name, t, **choice), differential(image, direction), steps)
    assert fit_order(steps, errors) == pytest.approx(1, abs=0.1)


def test_the_fourier_flow_has_no_blur(noise, fit_order, model):
    value, differential = model
    image = noise(3, 8, 8)
    choice = {"interpolation": "fourier", "padding": "circular"}
    direction = tangent(image, "rotation", **choice, convention="central")
    steps = [2.0**-k / 8 for k in range(4, 10)]
    errors = _errors(value, lambda t: transform(image, "rotation", t, **choice), differential(image, direction), steps)
    assert fit_order(steps, errors) == pytest.approx(2, abs=0.1)
