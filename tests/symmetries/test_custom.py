"""Fields that a user writes: the same as the generators where they are the same, refused where they are none."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.errors import SpecError
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import GENERATORS, tangents, velocity_field
from lieaudit.symmetries.affine import field_of
from lieaudit.symmetries.custom import custom_generator
from lieaudit.symmetries.generators import pixel_grid
from lieaudit.symmetries.words import in_words

GEOMETRIC = [name for name, generator in GENERATORS.items() if generator.spatial]
SIZE = (6, 11)


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("grid", [SIZE, (3, 4), (12, 22)], ids=str)
def test_a_generators_field_written_out_is_that_generator_on_every_grid(name, grid):
    made = custom_generator("mine", field_of(name, *SIZE), *SIZE)
    for convention in ("central", "reference"):
        np.testing.assert_allclose(
            velocity_field(made, *grid, convention=convention),
            velocity_field(name, *grid, convention="central"),
            atol=1e-12,
        )


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("t", [1e-9, -0.3, 0.7, 2.5])
def test_its_flow_is_that_generators_flow_at_any_size(name, t):
    """The series and its doublings against cosines, exponentials and hyperbolic functions."""
    made = custom_generator("mine", field_of(name, *SIZE), *SIZE)
    x, y = pixel_grid(*SIZE)
    wanted = GENERATORS[name].displacement(x, y, t, SIZE[1], SIZE[0])
    for found, right in zip(made.displacement(x, y, t, SIZE[1], SIZE[0]), wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-13, atol=1e-13 * abs(t) * max(SIZE))


def test_displacements_of_a_field_are_that_field_and_interpolated_on_other_grids():
    field = velocity_field("rotation", *SIZE, convention="central")
    made = custom_generator("mine", np.moveaxis(field, 0, -1), *SIZE)
    np.testing.assert_array_equal(velocity_field(made, *SIZE, convention="central"), field)
    assert not made.affine
    # a field that is linear in the place is interpolated exactly, and displacements shrink with the grid
    half = velocity_field(made, 3, 11, convention="central")
    x, y = pixel_grid(3, 11)
    np.testing.assert_allclose(half, np.stack([2 * y, -x / 2]), atol=1e-12)


def test_displacements_make_tangents_of_any_field():
    random = np.random.default_rng(0)
    images, moves = random.standard_normal((2, 3, *SIZE)), random.standard_normal((*SIZE, 2))
    made = custom_generator("mine", moves, *SIZE)
    found = tangents(images, [made], interpolation="bilinear", padding="circular", convention="central")[:, 0]
    along_x, along_y = ((np.roll(images, -1, axis) - np.roll(images, 1, axis)) / 2 for axis in (-1, -2))
    np.testing.assert_allclose(found, moves[..., 0] * along_x + moves[..., 1] * along_y, atol=1e-12)


@pytest.mark.parametrize(
    ("custom", "says"),
    [
        ({"mine": [[0, 0, 0], [0, 0, 0]]}, "not all 0"),
        ({"mine": [[1, 2], [3, 4]]}, "shape (2, 2)"),
        ({"mine": [[1, 2, np.nan], [3, 4, 5]]}, "NaN"),
        ({"mine": [[1, 2, np.inf], [3, 4, 5]]}, "finite"),
        ({"mine": [[1, 2, 3], [3, 4]]}, "different lengths"),
        ({"mine": "a,b,c"}, "U5"),
        ({"mine": np.zeros((4, 5, 2))}, "not 0"),
        ({"mine": np.ones((4, 5, 3))}, "shape (4, 5, 3)"),
        ({"mine": np.full((4, 5, 2), np.inf)}, "not finite"),
        ({"mine": np.ones((0, 5, 2))}, "shape (0, 5, 2)"),
        ({"mine": np.ones((4, 5, 2), bool)}, "not finite numbers"),
        ({"mine": np.ones((1000, 1000, 2))}, "limit"),
        ({"rotation": [[0, 1, 0], [-1, 0, 0]]}, "taken"),
        ({"squeeze": [[0, 1, 0], [-1, 0, 0]]}, "taken"),
        ({"geometric": [[0, 1, 0], [-1, 0, 0]]}, "taken"),
        ({"no name": [[0, 1, 0], [-1, 0, 0]]}, "no name"),
        ({"": [[0, 1, 0], [-1, 0, 0]]}, "no name"),
        ({f"f{i}": [[0, 1, 0], [-1, 0, 0]] for i in range(33)}, "32 is the limit"),
        ([1, 2], "no mapping"),
    ],
    ids=str,
)
def test_what_is_no_field_is_refused_with_its_name(custom, says):
    with pytest.raises(SpecError) as caught:
        AuditSpec(custom=custom)
    assert caught.value.reason == "INVALID_SPEC"
    assert says in str(caught.value)


def test_displacements_for_another_size_are_refused_with_both():
    spec = AuditSpec(custom={"mine": np.ones((4, 5, 2))})
    with pytest.raises(SpecError, match=r"4 × 5 pixels, the images have 6 × 11"):
        spec.actions(*SIZE)


def test_displacements_have_no_secants():
    with pytest.raises(SpecError, match="mine"):
        AuditSpec(custom={"mine": np.ones((4, 5, 2))}, secant_px=0.5)
    AuditSpec(custom={"mine": [[0, 1, 0], [-1, 0, 0]]}, secant_px=0.5)


def test_custom_fields_come_last_unless_named():
    custom = {"mine": [[0, 1, 0], [-1, 0, 0]], "yours": [[0, 0, 1], [0, 0, 0]]}
    assert AuditSpec(custom=custom).generators == (*GENERATORS, "mine", "yours")
    assert AuditSpec(generators=("yours",), custom=custom).generators == ("yours", "mine")
    spec = AuditSpec(generators=("mine", "rotation", "yours"), custom=custom)
    assert AuditSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ([[0, 1, 0], [-1, 0, 0]], "rotation"),
        ([[-2, 0, 0], [0, -2, 0]], "scale"),
        ([[0, 3, 0], [0, 0, 0]], "shear along x"),
        ([[0, 0, 0], [0, 0, 1]], "translation along y"),
        ([[0, 0, 1], [0, 0, -1]], "translation along 135° from x towards y"),
        ([[1, 0, 0], [0, -1, 0]], "squeeze along x"),
        ([[0, 1, 0], [1, 0, 0]], "squeeze along 45° from x towards y"),
        ([[0, 0, 0], [0, 1, 0]], "stretch along y"),
    ],
)
def test_fields_have_names(field, words):
    assert in_words(np.array(field, float), 8, 8) == words


def test_mixtures_are_named_by_their_largest_parts():
    said = in_words(np.array([[0, 1, 0], [-1, 0, 0]]) + np.array([[0, 0, 0.8], [0, 0, 0]]), 8, 8)
    assert said.startswith("mostly rotation (")
    assert "translation along x" in said
