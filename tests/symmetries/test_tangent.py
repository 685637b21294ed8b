from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lieaudit.errors import DataError, SpecError
from lieaudit.symmetries import (
    GENERATORS,
    derivative_matrix,
    pixel_grid,
    tangent,
    tangents,
    transform,
    velocity_field,
)

NAMES = tuple(GENERATORS)
SPATIAL = tuple(name for name in NAMES if GENERATORS[name].spatial)
INTERPOLATIONS = ("bilinear", "bicubic", "fourier")
PADDINGS = ("reflect", "circular")
CENTRAL = tuple((i, p, "central") for i, p in itertools.product(INTERPOLATIONS, PADDINGS))
EVERY = (*CENTRAL, ("bilinear", "reflect", "reference"), ("bilinear", "circular", "reference"))
SHAPES = ((2, 3, 7, 9), (1, 2, 1, 6), (2, 1, 5, 1), (1, 1, 1, 1), (1, 2, 2, 2), (3, 1, 2, 3))

# Order in t at which (T_t I − T_−t I) / 2t reaches the tangent; None: exactly, already at finite t. Bilinear and
# bicubic interpolants are only piecewise smooth, and a curved path (a second-order term in t, or a move in both axes at
# once) meets different pieces on its two sides.
STRAIGHT = {"translation_x", "translation_y", "shear_x", "shear_y"}
ORDERS = {
    "bilinear": {name: None if name in STRAIGHT else 1 for name in SPATIAL},
    "bicubic": dict.fromkeys(SPATIAL, 1),
    "fourier": dict.fromkeys(SPATIAL, 2),
}


def choice_of(interpolation, padding, convention):
    return {"interpolation": interpolation, "padding": padding, "convention": convention}


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize(("interpolation", "padding", "convention"), CENTRAL)
def test_central_is_the_symmetric_derivative_of_the_flow(noise, fit_order, name, interpolation, padding, convention):
    images = noise(2, 2, 8, 7)
    exact = tangent(images, name, **choice_of(interpolation, padding, convention))
    order = ORDERS[interpolation][name]
    # steps of up to 2^-4 px: under half a pixel, or the pieces change
    steps = [2.0**-k / 8 for k in range(4, 9)]
    errors = []
    for t in steps:
        plus, minus = (transform(images, name, s * t, interpolation=interpolation, padding=padding) for s in (1, -1))
        errors.append(float(np.linalg.norm((plus - minus) / (2 * t) - exact)))
    if order is None:
        assert max(errors) < 1e-12 * np.linalg.norm(exact) / steps[-1]
    else:
        assert fit_order(steps, errors) == pytest.approx(order, abs=0.1)


def test_brightness_is_the_derivative_of_its_flow(noise, fit_order):
    images, zero = noise(2, 3, 4, 5), [0.3, -0.2, 0.7]
    exact = tangent(images, "brightness", **choice_of("bilinear", "reflect", "central"), zero_point=zero)
    np.testing.assert_array_equal(exact, images - np.reshape(zero, (3, 1, 1)))
    steps, errors = [2.0**-k for k in range(2, 7)], []
    for t in steps:
        plus, minus = (
            transform(images, "brightness", s * t, interpolation="bilinear", padding="reflect", zero_point=zero)
            for s in (1, -1)
        )
        errors.append(float(np.linalg.norm((plus - minus) / (2 * t) - exact)))
    assert fit_order(steps, errors) == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", SPATIAL)
def test_reference_is_the_right_hand_derivative_of_the_flow_where_v_points_right_and_down(
    noise, fit_order, name, padding
):
    images = noise(1, 2, 9, 5)  # where the reference's float32 grid is exact; elsewhere, test_reference_grid.py
    height, width = images.shape[-2:]
    exact = tangent(images, name, **choice_of("bilinear", padding, "reference"))
    v = velocity_field(name, height, width, convention="reference")
    forward = np.all(v >= 0, axis=0)
    assert forward.any()
    # the flow's t in the table's unit for one reference unit
    unit = np.max(np.abs(v)) / np.max(np.abs(velocity_field(name, height, width, convention="central")))
    steps, errors = [2.0**-k / 8 for k in range(4, 9)], []
    for t in steps:
        moved = transform(images, name, t * unit, interpolation="bilinear", padding=padding)
        errors.append(float(np.linalg.norm(((moved - images) / t - exact)[..., forward])))
    if name in STRAIGHT:
        assert max(errors) < 1e-12 * np.linalg.norm(exact) / steps[-1]
    else:
        assert fit_order(steps, errors) == pytest.approx(1, abs=0.1)


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in SPATIAL if GENERATORS[name].affine])
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (1, 2, 5, 9)])
def test_reference_agrees_with_a_jvp_through_floor(noise, name, shape):
    """Independent: autograd through a bilinear sampler whose corner is floor(position), float64."""
    torch = pytest.importorskip("torch")
    images = noise(*shape)
    height, width = shape[-2:]
    source = torch.from_numpy(images)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    x, y = columns - (width - 1) / 2, rows - (height - 1) / 2

    def moved(t):
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        half_w, half_h = (width - 1) / 2, (height - 1) / 2
        affine = {
            "translation_x": (one, zero, zero, one, half_w * t, zero),
            "translation_y": (one, zero, zero, one, zero, half_h * t),
            "rotation": (t.cos(), t.sin(), -t.sin(), t.cos(), zero, zero),
            "scale": (t.exp(), zero, zero, t.exp(), zero, zero),
            "shear_x": (one, t, zero, one, zero, zero),
            "shear_y": (one, zero, t, one, zero, zero),
            "stretch_x": (t.exp(), zero, zero, one, zero, zero),
            "stretch_y": (one, zero, zero, t.exp(), zero, zero),
            "hyperbolic_rotation": (t.cosh(), t.sinh(), t.sinh(), t.cosh(), zero, zero),
        }[name]
        a, b, c, d, e, f = affine
        # offsets from the pixel, so that floor sees exact whole numbers at t = 0
        px = columns + ((a - 1) * x + b * y + e)
        py = rows + (c * x + (d - 1) * y + f)

        def pixel(i, j):
            i, j = (height - 1) - ((height - 1) - i.abs()).abs(), (width - 1) - ((width - 1) - j.abs()).abs()
            return source[..., i, j]

        left, top = px.detach().floor(), py.detach().floor()
        wx, wy = px - left, py - top
        j, i = left.long(), top.long()
        upper = pixel(i, j) * (1 - wx) + pixel(i, j + 1) * wx
        lower = pixel(i + 1, j) * (1 - wx) + pixel(i + 1, j + 1) * wx
        return upper * (1 - wy) + lower * wy

    t0 = torch.zeros((), dtype=torch.float64)
    value, expected = torch.autograd.functional.jvp(moved, t0, torch.ones_like(t0))
    np.testing.assert_array_equal(value.numpy(), images)
    ours = tangent(images, name, **choice_of("bilinear", "reflect", "reference"))
    # the same two products and one sum in another order
    np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-14 * np.abs(ours).max())


@pytest.mark.torch
@pytest.mark.parametrize("name", SPATIAL)
def test_reference_agrees_with_torchs_own_grid_sample(noise, name):
    """F.grid_sample, whose derivative is right-hand too; at the edges its padding clips it."""
    torch = pytest.importorskip("torch")
    height, width = 9, 17  # linspace(−1, 1) is exact, so that torch's positions are whole pixels
    images = noise(1, 2, height, width)
    grid = torch.stack(
        torch.meshgrid(
            torch.linspace(-1, 1, width, dtype=torch.float64),
            torch.linspace(-1, 1, height, dtype=torch.float64),
            indexing="xy",
        ),
        dim=-1,
    )[None].requires_grad_()
    v = velocity_field(name, height, width, convention="reference")
    rate = torch.from_numpy(np.stack([v[0] / ((width - 1) / 2), v[1] / ((height - 1) / 2)], axis=-1))
    expected = []
    for channel in torch.from_numpy(images[0]):
        out = torch.nn.functional.grid_sample(channel[None, None], grid, padding_mode="reflection", align_corners=True)
        (gradient,) = torch.autograd.grad(out.sum(), grid)  # each output pixel sees its own grid point only
        expected.append((gradient[0] * rate).sum(-1))
    ours = tangent(images, name, **choice_of("bilinear", "reflect", "reference"))[0]
    np.testing.assert_allclose(
        ours[:, 1:-1, 1:-1], torch.stack(expected).numpy()[:, 1:-1, 1:-1], rtol=0, atol=1e-13 * np.abs(ours).max()
    )


def test_right_hand_is_central_plus_half_a_second_difference(noise):
    images = noise(1, 1, 1, 32)
    central = tangent(images, "translation_x", **choice_of("bilinear", "circular", "central")) / 32
    right = tangent(images, "translation_x", **choice_of("bilinear", "circular", "reference")) / 15.5
    blur = (np.roll(images, -1, -1) - 2 * images + np.roll(images, 1, -1)) / 2
    np.testing.assert_allclose(right, central + blur, atol=1e-14)


@pytest.mark.parametrize("name", SPATIAL)
def test_closed_form_on_trigonometric_images(name):
    # fourier differentiates a band-limited image exactly; a central difference multiplies each mode by sin k / k
    height, width = 12, 10
    kx, ky = 2 * np.pi * 2 / width, 2 * np.pi * 3 / height
    x, y = pixel_grid(height, width)
    image = np.sin(kx * x + ky * y)[None]
    cos = np.cos(kx * x + ky * y)
    vx, vy = velocity_field(name, height, width, convention="central")
    spectral = tangent(image, name, **choice_of("fourier", "circular", "central"))[0]
    np.testing.assert_allclose(spectral, (vx * kx + vy * ky) * cos, atol=1e-12)
    central = tangent(image, name, **choice_of("bilinear", "circular", "central"))[0]
    np.testing.assert_allclose(central, (vx * np.sin(kx) + vy * np.sin(ky)) * cos, atol=1e-13)


@pytest.mark.parametrize("name", SPATIAL)
def test_closed_form_on_quadratics_inside(name):
    # a central difference is exact on degree 2
    height, width = 9, 8
    x, y = pixel_grid(height, width)
    image = (1 + 2 * x - y + x * x - 3 * x * y + y * y)[None]
    vx, vy = velocity_field(name, height, width, convention="central")
    exact = vx * (2 + 2 * x - 3 * y) + vy * (-1 - 3 * x + 2 * y)
    ours = tangent(image, name, **choice_of("bicubic", "reflect", "central"))[0]
    np.testing.assert_allclose(ours[1:-1, 1:-1], exact[1:-1, 1:-1], atol=1e-12)


@pytest.mark.parametrize(("interpolation", "padding", "convention"), EVERY)
@pytest.mark.parametrize("shape", SHAPES)
def test_velocity_field_and_derivative_matrix_rebuild_every_tangent(noise, shape, interpolation, padding, convention):
    # what a graph that cannot call `tangents` builds it from
    images = noise(*shape)
    height, width = shape[-2:]
    ours = tangents(images, SPATIAL, **choice_of(interpolation, padding, convention))
    assert ours.shape == (shape[0], len(SPATIAL), *shape[1:])
    right = convention == "reference"
    dx, dy = (
        derivative_matrix(size, interpolation=interpolation, padding=padding, right=right) for size in (width, height)
    )
    for g, name in enumerate(SPATIAL):
        vx, vy = velocity_field(name, height, width, convention=convention)
        np.testing.assert_allclose(ours[:, g], vx * (images @ dx.T) + vy * (dy @ images), atol=1e-12)


@pytest.mark.parametrize(("interpolation", "padding", "convention"), EVERY)
def test_many_generators_are_one_by_one(noise, interpolation, padding, convention):
    images, choice = noise(2, 3, 6, 5), choice_of(interpolation, padding, convention)
    many = tangents(images, NAMES, **choice, zero_point=[0.1, 0.2, 0.3])
    for g, name in enumerate(NAMES):
        one = tangent(images, name, **choice, zero_point=[0.1, 0.2, 0.3])
        np.testing.assert_array_equal(many[:, g], one)
    assert tangents(images, [], **choice).shape == (2, 0, 3, 6, 5)
    assert tangents(images[0, :, None], NAMES, **choice).shape == (3, len(NAMES), 1, 6, 5)
    assert tangents(images[0], NAMES, **choice).shape == (len(NAMES), 3, 6, 5)


@pytest.mark.parametrize(("interpolation", "padding", "convention"), EVERY)
@pytest.mark.parametrize("shape", [(3, 4, 40, 60), (2, 40, 50, 60), (40, 1, 9, 9)])
def test_blocks_do_not_show(noise, interpolation, padding, convention, shape):
    # shapes that are cut into blocks of images, of channels, and of both sorts of remainder
    images, choice = noise(*shape).astype(np.float32), choice_of(interpolation, padding, convention)
    zero = np.linspace(-1, 1, shape[1])
    whole = tangents(images, ["rotation", "brightness", "translation_y"], **choice, zero_point=zero)
    for n, c in ((0, 0), (shape[0] - 1, shape[1] - 1)):
        alone = tangents(
            images[n, c : c + 1], ["rotation", "brightness", "translation_y"], **choice, zero_point=zero[c]
        )
        # a matrix product (fourier) may sum in another order for another shape
        np.testing.assert_allclose(
            whole[n, :, c : c + 1], alone, rtol=0, atol=1e-6 if interpolation == "fourier" else 0
        )


@pytest.mark.parametrize(("interpolation", "padding", "convention"), EVERY)
def test_float32_is_float64_rounded_once(noise, interpolation, padding, convention):
    images, choice = noise(2, 2, 9, 8).astype(np.float32), choice_of(interpolation, padding, convention)
    single = tangents(images, NAMES, **choice, zero_point=0.3)
    double = tangents(images.astype(np.float64), NAMES, **choice, zero_point=0.3)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(single, double.astype(np.float32))


_IMAGES = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=3, max_dims=4, min_side=1, max_side=6),
    elements=st.floats(-10, 10, width=32),
)


@given(images=_IMAGES, a=st.floats(-3, 3), every=st.sampled_from(EVERY))
def test_tangents_are_linear_in_the_image(images, a, every):
    choice = choice_of(*every)
    other = np.cos(np.arange(images.size)).reshape(images.shape)
    whole = tangents(a * images + other, NAMES, **choice)
    parts = a * tangents(images, NAMES, **choice) + tangents(other, NAMES, **choice)
    np.testing.assert_allclose(whole, parts, atol=1e-11)


@given(value=st.floats(-100, 100), every=st.sampled_from(EVERY), height=st.integers(1, 9), width=st.integers(1, 9))
def test_constants_have_no_tangent_but_brightness(value, every, height, width):
    images = np.full((1, 2, height, width), value)
    ours = tangents(images, NAMES, **choice_of(*every), zero_point=1.5)
    # finite differences of equal numbers are exactly 0; spectral weights sum to 0 up to rounding
    tolerance = 1e-13 * abs(value) * 9 if every[0] == "fourier" else 0
    np.testing.assert_allclose(ours[:, :-1], 0, atol=tolerance)
    np.testing.assert_array_equal(ours[:, -1], images - 1.5)


@given(images=_IMAGES, every=st.sampled_from(CENTRAL))
def test_mirror_images_have_mirrored_tangents(images, every):
    # the central convention has no preferred direction; the reference one has
    choice = choice_of(*every)
    flipped = tangent(images[..., ::-1], "translation_x", **choice)
    np.testing.assert_allclose(flipped, -tangent(images, "translation_x", **choice)[..., ::-1], atol=1e-12)


def test_reference_is_bilinear_only(noise):
    for interpolation in ("bicubic", "fourier"):
        with pytest.raises(SpecError, match="defined for bilinear") as caught:
            tangent(noise(1, 3, 3), "rotation", **choice_of(interpolation, "reflect", "reference"))
        assert caught.value.subject == "interpolation"


def test_unusable_arguments_are_refused(noise):
    choice = choice_of("bilinear", "reflect", "central")
    with pytest.raises(DataError, match="int64, not float32 or float64"):
        tangent(np.zeros((1, 3, 3), np.int64), "rotation", **choice)
    with pytest.raises(DataError, match="at least one pixel"):
        tangents(np.zeros((2, 1, 0, 3)), NAMES, **choice)
    with pytest.raises(SpecError, match="'rotate' is not one of"):
        tangents(noise(1, 3, 3), ["rotate"], **choice)
    with pytest.raises(SpecError, match="convention"):
        tangent(noise(1, 3, 3), "rotation", **{**choice, "convention": "left"})
    with pytest.raises(DataError, match="zero_point"):
        tangent(noise(3, 3, 3), "brightness", **choice, zero_point=[1.0, 2.0])
