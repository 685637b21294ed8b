"""The affine algebra: combinations of six fields, displacements summed over pixels, extremes by trying directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieaudit.errors import SpecError
from lieaudit.symmetries import GENERATORS, tangents, velocity_field
from lieaudit.symmetries.affine import (
    BASIS,
    basis_fields,
    check_field,
    coefficients,
    directions,
    displacement_matrix,
    field_of,
    from_coefficients,
    mean_square_displacement,
)
from lieaudit.symmetries.generators import pixel_grid

GEOMETRIC = [name for name, generator in GENERATORS.items() if generator.spatial]
SIZES = [(8, 8), (6, 11), (5, 4)]


def on_grid(field: np.ndarray, height: int, width: int) -> np.ndarray:
    x, y = pixel_grid(height, width)
    return np.einsum("cp,phw->chw", field, np.stack([x, y, np.ones_like(x)]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("convention", ["central", "reference"])
@pytest.mark.parametrize("generator", GEOMETRIC)
def test_every_generator_is_an_affine_field(generator, convention, size):
    field = field_of(generator, *size, convention=convention)
    np.testing.assert_allclose(
        on_grid(field, *size), velocity_field(generator, *size, convention=convention), atol=1e-13
    )
    np.testing.assert_allclose(from_coefficients(coefficients(field, *size), *size), field, rtol=0, atol=1e-14)


def test_the_combinations_are_those_of_the_documentation():
    named = {name: dict(zip(BASIS, coefficients(field_of(name, 9, 7), 9, 7), strict=True)) for name in GEOMETRIC}
    for name in set(GEOMETRIC) & set(BASIS):
        assert named[name] == {b: float(b == name) for b in BASIS}
    half = {
        "shear_x": {"hyperbolic_rotation": 0.5, "rotation": 0.5},
        "shear_y": {"hyperbolic_rotation": 0.5, "rotation": -0.5},
        "stretch_x": {"scale": 0.5, "squeeze": 0.5},
        "stretch_y": {"scale": 0.5, "squeeze": -0.5},
    }
    for name, parts in half.items():
        assert {b: c for b, c in named[name].items() if c} == parts


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "fourier"])
@pytest.mark.parametrize("padding", ["reflect", "circular"])
def test_tangents_combine(size, interpolation, padding):
    """X is linear in the field: every generator's tangent from those of the basis."""
    x = np.random.default_rng(0).standard_normal((2, 1, *size))
    direct = tangents(x, GEOMETRIC, interpolation=interpolation, padding=padding, convention="central")
    measured = [name for name in BASIS if name != "squeeze"]
    parts = dict(zip(GEOMETRIC, np.moveaxis(direct, 1, 0), strict=True))
    parts["squeeze"] = parts["stretch_x"] - parts["stretch_y"]
    basis = np.stack([parts[name] for name in (*measured, "squeeze")])
    for name in GEOMETRIC:
        c = coefficients(field_of(name, *size), *size)
        np.testing.assert_allclose(np.tensordot(c, basis, axes=1), parts[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_displacements_are_means_over_the_pixels(size):
    grids = np.stack([on_grid(field, *size) for field in basis_fields(*size)])
    expected = np.einsum("ichw,jchw->ij", grids, grids) / (size[0] * size[1])
    found = displacement_matrix(*size)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    square = size[0] == size[1]
    off = found - np.diag(np.diag(found))
    assert (np.abs(off).max() < 1e-12) == square
    for name in GEOMETRIC:
        v = velocity_field(name, *size, convention="central")
        assert mean_square_displacement(field_of(name, *size), *size) == pytest.approx(
            np.mean((v**2).sum(0)), rel=1e-12
        )


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from(SIZES))
def test_no_direction_is_beyond_the_extremes(seed, size):
    random = np.random.default_rng(seed)
    root = random.standard_normal((6, 6))
    gram = root @ root.T
    found = directions(gram, *size)
    tried = random.standard_normal((1000, 6))
    lee = np.einsum("ni,ij,nj->n", tried, gram, tried)
    px2 = np.einsum("ni,ij,nj->n", tried, displacement_matrix(*size), tried)
    assert np.all(lee / px2 <= found.eigenvalues[-1] * (1 + 1e-9))
    assert np.all(lee / px2 >= found.eigenvalues[0] * (1 - 1e-9))
    for value, field in zip(found.eigenvalues, found.fields, strict=True):
        c = coefficients(field, *size)
        assert c @ gram @ c == pytest.approx(value, rel=1e-9, abs=1e-9 * found.eigenvalues[-1])
        assert mean_square_displacement(field, *size) == pytest.approx(1, rel=1e-9)
        assert field.flat[np.abs(field).argmax()] > 0
    trace = np.trace(np.linalg.solve(displacement_matrix(*size), gram)) / 6
    assert found.mean == pytest.approx(trace, rel=1e-9)


def test_a_planted_preference_is_found():
    """A model that answers to motion along the diagonal only is worst along it, and best across it."""
    gram = np.zeros((6, 6))
    gram[:2, :2] = [[1, 1], [1, 1]]
    found = directions(gram, 8, 8)
    assert found.eigenvalues[-1] == pytest.approx(2 / 64)
    np.testing.assert_allclose(found.fields[-1], np.array([[0, 0, 1], [0, 0, 1]]) / np.sqrt(2), atol=1e-12)


def test_a_single_row_of_pixels_feels_only_some_fields():
    found = directions(np.eye(6), 1, 9)
    assert len(found.eigenvalues) < 6
    assert np.all(np.isfinite(found.fields))


@pytest.mark.parametrize(
    "values", [[[1, 2, 3]], [[0, 0, 0], [0, 0, 0]], [[1, 2, float("nan")], [0, 0, 0]], "rotation", 3]
)
def test_fields_that_are_none(values):
    with pytest.raises(SpecError):
        check_field("mine", values)
    assert check_field("mine", [[1, 0, 0], [0, 1, 0]]).shape == (2, 3)


def test_brightness_is_no_field():
    with pytest.raises(SpecError):
        field_of("brightness", 8, 8)
