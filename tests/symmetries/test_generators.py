from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieaudit.errors import SpecError
from lieaudit.spec import GENERATORS as SPEC_GENERATORS
from lieaudit.symmetries import GENERATORS, get_generator, pixel_grid, velocity_field

NAMES = tuple(GENERATORS)
SPATIAL = tuple(name for name in NAMES if GENERATORS[name].spatial)
H, W = 6, 9

# the table of docs/numerics.md, written a second time
FIELDS = {
    "translation_x": lambda x, y: (W + 0 * x, 0 * y),
    "translation_y": lambda x, y: (0 * x, H + 0 * y),
    "rotation": lambda x, y: (y, -x),
    "scale": lambda x, y: (x, y),
    "shear_x": lambda x, y: (y, 0 * x),
    "shear_y": lambda x, y: (0 * y, x),
    "stretch_x": lambda x, y: (x, 0 * y),
    "stretch_y": lambda x, y: (0 * x, y),
    "hyperbolic_rotation": lambda x, y: (y, x),
    "brightness": lambda x, y: (0 * x, 0 * y),
}


def test_the_specification_knows_exactly_the_table():
    assert SPEC_GENERATORS == NAMES == tuple(FIELDS)


@pytest.mark.parametrize("name", NAMES)
def test_velocity_field_is_the_documented_one(name):
    y, x = np.mgrid[:H, :W] - np.array([(H - 1) / 2, (W - 1) / 2])[:, None, None]
    field = velocity_field(name, H, W, convention="central")
    assert field.shape == (2, H, W)
    assert field.dtype == np.float64
    np.testing.assert_array_equal(field, np.stack(FIELDS[name](x, y)))


@pytest.mark.parametrize("name", NAMES)
def test_reference_changes_the_unit_of_translations_only(name):
    central, reference = (velocity_field(name, H, W, convention=c) for c in ("central", "reference"))
    if name.startswith("translation"):
        size = W if name.endswith("x") else H
        np.testing.assert_array_equal(reference, central * ((size - 1) / 2 / size))
        assert GENERATORS[name].unit_of("reference") != GENERATORS[name].unit_of("central")
    else:
        np.testing.assert_array_equal(reference, central)
        assert GENERATORS[name].unit_of("reference") == GENERATORS[name].unit_of("central")


@pytest.mark.parametrize("name", SPATIAL)
def test_flow_solves_its_differential_equation(name):
    # complex step: d/dt of an analytic flow without any cancellation, at t = 0 and away from it
    x, y = pixel_grid(H, W)
    generator = GENERATORS[name]
    for t in (0.0, 0.7, -1.3):
        if name == "rotation":  # its quarter-turn branch takes real t only
            h = 1e-5
            plus, minus = (np.stack(generator.flow(x, y, t + s, W, H)) for s in (h, -h))
            rate, tolerance = (plus - minus) / (2 * h), 1e-9
        else:
            rate = np.stack(generator.flow(x + 0j, y + 0j, t + 1e-30j, W, H)).imag / 1e-30
            tolerance = 1e-14
        here = generator.flow(x, y, t, W, H)
        expected = np.stack(generator.velocity(*here, W, H))
        np.testing.assert_allclose(rate, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", SPATIAL)
@given(s=st.floats(-2, 2), t=st.floats(-2, 2))
def test_group_law(name, s, t):
    x, y = pixel_grid(H, W)
    generator = GENERATORS[name]
    twice = generator.flow(*generator.flow(x, y, t, W, H), s, W, H)
    once = generator.flow(x, y, s + t, W, H)
    # e^4 of growth over coordinates of W pixels, a few roundings
    np.testing.assert_allclose(twice, once, atol=1e-13 * math.exp(4) * W)


@pytest.mark.parametrize("turns", [-3, -1, 1, 2, 3, 4, 5, 101])
def test_quarter_turns_are_exact(turns):
    x, y = pixel_grid(7, 7)
    rotated = get_generator("rotation").flow(x, y, turns * math.pi / 2, 7, 7)
    expected = ((x, y), (y, -x), (-x, -y), (-y, x))[turns % 4]
    np.testing.assert_array_equal(rotated, expected)


def test_nearly_a_quarter_turn_is_not_rounded_to_one():
    t = math.pi / 2 + 1e-12
    dx, _ = get_generator("rotation").displacement(np.ones(1), np.zeros(1), t, 3, 3)
    assert dx[0] + 1 == pytest.approx(-1e-12, rel=1e-3, abs=0)


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("t", [1e-3, 1e-9, 1e-15, 1e-200])
def test_displacement_of_a_tiny_step_keeps_its_digits(name, t):
    x, y = pixel_grid(H, W)
    step = np.stack(GENERATORS[name].displacement(x, y, t, W, H))
    velocity = velocity_field(name, H, W, convention="central")
    # second-order terms are t/2 of the first; all else is rounding
    np.testing.assert_allclose(step / t, velocity, atol=W * (t / 2 + 1e-15))


@pytest.mark.parametrize("bad", ["", "Rotation", "translation", "brightness "])
def test_unknown_generator_is_named(bad):
    with pytest.raises(SpecError, match="is not one of translation_x") as caught:
        get_generator(bad)
    assert caught.value.subject == "generators"


def test_unknown_convention_is_named():
    with pytest.raises(SpecError, match="convention: 'right' is not one of central, reference"):
        velocity_field("rotation", 3, 3, convention="right")
