from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieaudit.errors import DataError, SpecError
from lieaudit.symmetries import GENERATORS, pixel_grid, transform
from lieaudit.symmetries.interpolation import resample

INTERPOLATIONS = ("bilinear", "bicubic", "fourier")
PADDINGS = ("reflect", "circular")
CHOICES = tuple(itertools.product(INTERPOLATIONS, PADDINGS))
SPATIAL = tuple(name for name in GENERATORS if GENERATORS[name].spatial)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0, 1, 3, 27, -5, 28, 61])
def test_whole_pixel_circular_translation_is_exact(noise, interpolation, dtype, shift):
    # 3/28 · 28 is not 3 in floating point: the flow must not see the difference
    images = noise(2, 3, 13, 28).astype(dtype)
    choice = {"interpolation": interpolation, "padding": "circular"}
    along_x = transform(images, "translation_x", shift / 28, **choice)
    np.testing.assert_array_equal(along_x, np.roll(images, -shift, axis=-1))
    along_y = transform(images, "translation_y", shift / 13, **choice)
    np.testing.assert_array_equal(along_y, np.roll(images, -shift, axis=-2))
    assert along_x.dtype == dtype


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shift", [1, 4, -6, 30])
def test_whole_pixel_reflected_translation_is_exact(noise, interpolation, shift):
    images = noise(1, 2, 5, 8)
    out = transform(images, "translation_x", shift / 8, interpolation=interpolation, padding="reflect")
    wide = np.pad(images, [(0, 0), (0, 0), (0, 0), (40, 40)], mode="reflect")
    np.testing.assert_array_equal(out, wide[..., 40 + shift : 48 + shift])


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize(("interpolation", "padding"), CHOICES)
@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_quarter_turn_is_exact_on_square_grids(noise, size, interpolation, padding, turns):
    images = noise(2, 2, size, size).astype(np.float32)
    out = transform(images, "rotation", turns * math.pi / 2, interpolation=interpolation, padding=padding)
    np.testing.assert_array_equal(out, np.rot90(images, -turns, axes=(-2, -1)))


def test_half_turn_is_exact_on_any_grid(noise):
    images = noise(1, 1, 4, 7)
    out = transform(images, "rotation", math.pi, interpolation="bilinear", padding="reflect")
    np.testing.assert_array_equal(out, images[..., ::-1, ::-1])


def _trigonometric(height, width, half_periods):
    """A real trigonometric image on continuous coordinates from the corner pixel, and its sampled version."""
    rng = np.random.default_rng(7)
    modes = [(a, b, rng.normal(), rng.uniform(0, 2 * np.pi)) for a in (0, 1, 2) for b in (-2, -1, 0, 1)]

    def image(x, y):
        u, v = x + (width - 1) / 2, y + (height - 1) / 2
        if half_periods:  # even about both edges' pixel centres
            return sum(
                c * np.cos(np.pi * a * u / (width - 1)) * np.cos(np.pi * b * v / (height - 1)) for a, b, c, _ in modes
            )
        return sum(c * np.cos(2 * np.pi * (a * u / width + b * v / height) + p) for a, b, c, p in modes)

    return image


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize(("height", "width"), [(8, 9), (7, 6)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_fourier_is_exact_on_band_limited_images(name, height, width, padding):
    image = _trigonometric(height, width, half_periods=padding == "reflect")
    grid = pixel_grid(height, width)
    for t in (0.31, -1.2):
        out = transform(image(*grid)[None], name, t, interpolation="fourier", padding=padding)
        exact = image(*GENERATORS[name].flow(*grid, t, width, height))
        # sums of 12 modes of order 1 over at most 16 × 16 kernel weights
        np.testing.assert_allclose(out[0], exact, atol=2e-13)


@pytest.mark.parametrize(
    ("interpolation", "image", "margin"),
    [
        ("bilinear", lambda x, y: 2 + 3 * x - y + 0.5 * x * y, 1),
        ("bicubic", lambda x, y: 1 - x + x * x - 2 * y * y + x * y + 0.1 * x * x * y * y, 1),
    ],
)
@pytest.mark.parametrize("name", SPATIAL)
def test_polynomials_are_exact_inside(interpolation, image, margin, name):
    # the hat function reproduces degree 1 in each variable, Keys' kernel with a = −1/2 degree 2
    height, width, t = 11, 12, 0.07
    grid = pixel_grid(height, width)
    out = transform(image(*grid)[None], name, t, interpolation=interpolation, padding="reflect")[0]
    moved = GENERATORS[name].flow(*grid, t, width, height)
    inside = (np.abs(moved[0]) <= (width - 1) / 2 - margin) & (np.abs(moved[1]) <= (height - 1) / 2 - margin)
    assert inside.sum() > 40
    np.testing.assert_allclose(out[inside], image(*moved)[inside], atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("t", [0.05, -0.4, 0.9])
def test_bilinear_agrees_with_torch_grid_sample(noise, name, t):
    torch = pytest.importorskip("torch")
    height, width = 10, 7
    images = noise(2, 3, height, width)
    x, y = GENERATORS[name].flow(*pixel_grid(height, width), t, width, height)
    grid = torch.from_numpy(np.stack([x / ((width - 1) / 2), y / ((height - 1) / 2)], axis=-1))
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(images),
        grid.expand(2, height, width, 2),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=True,
    )
    out = transform(images, name, t, interpolation="bilinear", padding="reflect")
    # torch's absolute coordinates carry a few roundings of 2^-52 of 10 px, times slopes of order 5
    np.testing.assert_allclose(out, expected.numpy(), atol=1e-13)


def test_keys_kernel_weights():
    # the impulse response is the kernel itself, at a = −1/2: (1.5|s| − 2.5)s² + 1, then ((−0.5|s| + 2.5)|s| − 4)|s| + 2
    impulse = np.zeros((1, 1, 21))
    impulse[..., 10] = 1
    for d in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, -0.3, -0.6):
        out = transform(impulse, "translation_x", d / 21, interpolation="bicubic", padding="circular")[0, 0]
        s = np.abs(np.arange(21) + d - 10)
        near, far = (1.5 * s - 2.5) * s * s + 1, ((-0.5 * s + 2.5) * s - 4) * s + 2
        np.testing.assert_allclose(out, np.where(s <= 1, near, np.where(s < 2, far, 0)), atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_brightness_scales_raw_intensities(dtype):
    rng = np.random.default_rng(3)
    raw = rng.uniform(size=(4, 3, 5, 6))
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])

    def normalise(v):
        return ((v - mean[:, None, None]) / std[:, None, None]).astype(dtype)

    out = transform(
        normalise(raw), "brightness", 0.3, interpolation="bilinear", padding="reflect", zero_point=-mean / std
    )
    assert out.dtype == dtype
    # a float32 input has lost 2^-24 of values up to 3 before it is scaled
    np.testing.assert_allclose(out, normalise(math.exp(0.3) * raw), rtol=0, atol=4 * np.finfo(dtype).eps * 4)


@given(s=st.floats(-1, 1), t=st.floats(-1, 1))
def test_group_law_on_band_limited_images(s, t):
    # with an exact interpolant translations compose on images, not only on coordinates
    image = _trigonometric(8, 9, half_periods=False)(*pixel_grid(8, 9))[None]
    choice = {"interpolation": "fourier", "padding": "circular"}
    twice = transform(transform(image, "translation_x", s, **choice), "translation_x", t, **choice)
    np.testing.assert_allclose(twice, transform(image, "translation_x", s + t, **choice), atol=1e-12)


@pytest.mark.parametrize(("interpolation", "padding"), CHOICES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 6), (2, 5, 1), (2, 2, 2), (0, 2, 3, 3), (2, 3, 1, 4, 5)])
def test_any_shape_and_identity_at_zero(noise, interpolation, padding, shape):
    images = noise(*shape)
    for name in GENERATORS:
        choice = {"interpolation": interpolation, "padding": padding}
        np.testing.assert_array_equal(transform(images, name, 0.0, **choice), images)
        moved = transform(images, name, 0.4, **choice)
        assert moved.shape == shape
        assert np.all(np.isfinite(moved))


def test_one_pixel_has_nothing_to_interpolate_between(noise):
    images = noise(2, 1, 1)
    for (interpolation, padding), name in itertools.product(CHOICES, SPATIAL):
        out = transform(images, name, 0.37, interpolation=interpolation, padding=padding)
        np.testing.assert_allclose(out, images, rtol=1e-15)


@pytest.mark.parametrize("pixels", [1e-1, 1e-3, 1e-5])
def test_tiny_steps_are_stable_in_float32(noise, pixels):
    width = 224
    images = noise(1, 3, width).astype(np.float32)
    for sign in (1, -1):
        t = sign * pixels / width
        out = transform(images, "translation_x", t, interpolation="bilinear", padding="circular")
        exact = transform(images.astype(np.float64), "translation_x", t, interpolation="bilinear", padding="circular")
        # nothing but the last rounding to float32 separates the two
        np.testing.assert_array_equal(out, exact.astype(np.float32))
        neighbour = np.roll(images.astype(np.float64), -sign, axis=-1)
        slope = (exact - images) / pixels
        # in float64 the step itself is exact to 2^-53 of values up to 4
        np.testing.assert_allclose(slope, neighbour - images, atol=1e-15 * 4 / pixels)


def test_a_step_below_all_rounding_still_moves_the_right_way(noise):
    # an impulse on black: nothing to round against, so even 1e-30 px keeps all its digits
    impulse = np.zeros((1, 1, 9))
    impulse[..., 4] = 1
    for sign in (1, -1):
        out = transform(impulse, "translation_x", sign * 1e-30 / 9, interpolation="bilinear", padding="reflect")
        assert out[0, 0, 4 - sign] == pytest.approx(1e-30, rel=1e-15, abs=0)
        assert out[0, 0, 4 + sign] == 0


@pytest.mark.parametrize("padding", PADDINGS)
def test_separable_and_general_fourier_evaluation_agree(noise, padding):
    # one pixel that goes elsewhere forces the general path on all the others
    images = noise(3, 6, 7)
    dx, dy = GENERATORS["scale"].displacement(*pixel_grid(6, 7), 0.2, 7, 6)
    separable = resample(images, dx, dy, interpolation="fourier", padding=padding)
    dx[2, 3] += 1.5
    general = resample(images, dx, dy, interpolation="fourier", padding=padding)
    same = np.ones((6, 7), bool)
    same[2, 3] = False
    np.testing.assert_allclose(general[:, same], separable[:, same], atol=1e-14)
    assert not np.any(np.isclose(general[:, 2, 3], separable[:, 2, 3]))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((3, 4, 4), np.uint8), "INVALID_IMAGES"),
        (np.zeros((3, 4, 4), np.float16), "INVALID_IMAGES"),
        (np.zeros((4, 4)), "INVALID_IMAGES"),
        (np.zeros((3, 0, 4)), "INVALID_IMAGES"),
        (np.zeros((0, 4, 4)), "INVALID_IMAGES"),
    ],
)
def test_unusable_images_are_refused(images, reason):
    with pytest.raises(DataError) as caught:
        transform(images, "rotation", 0.1, interpolation="bilinear", padding="reflect")
    assert caught.value.reason == reason


@pytest.mark.parametrize("zero_point", [[0.0, 1.0], [[0.0] * 3], math.nan, [0.0, math.inf, 0.0]])
def test_unusable_zero_points_are_refused(zero_point):
    with pytest.raises(DataError, match="zero_point"):
        transform(
            np.zeros((3, 2, 2)), "brightness", 0.1, interpolation="bilinear", padding="reflect", zero_point=zero_point
        )


@pytest.mark.parametrize(
    ("name", "t", "reason"),
    [
        ("rotation", math.nan, "INVALID_SPEC"),
        ("translation_x", math.inf, "INVALID_SPEC"),
        ("translation_x", 1e15, "STEP_TOO_LARGE"),
        ("scale", 800.0, "STEP_TOO_LARGE"),
        ("brightness", 800.0, "STEP_TOO_LARGE"),
    ],
)
def test_absurd_steps_are_refused(name, t, reason):
    with pytest.raises(SpecError) as caught:
        transform(np.ones((1, 4, 4)), name, t, interpolation="bilinear", padding="reflect")
    assert (caught.value.reason, caught.value.subject) == (reason, "t")


@pytest.mark.parametrize(("field", "value"), [("interpolation", "nearest"), ("padding", "zeros")])
def test_unknown_choices_are_named(field, value):
    choice = {"interpolation": "bilinear", "padding": "reflect", field: value}
    with pytest.raises(SpecError, match=f"{field}: '{value}' is not one of"):
        transform(np.ones((1, 4, 4)), "rotation", 0.1, **choice)
