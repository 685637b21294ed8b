from __future__ import annotations

import math

import numpy as np
import pytest

from lieaudit.errors import DataError, SpecError
from lieaudit.metrics.consistency import (
    Equivariance,
    discrete_consistency,
    eq_r,
    eq_t,
    eq_t_frac,
    group_sample_error,
)
from lieaudit.symmetries import pixel_grid, tangent

EVERY = (eq_t, eq_t_frac, eq_r)


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(size=(3, 2, 16, 24))


def _blobs(size, n=2):
    """Smooth images that vanish at the edge, so that no continuation of them matters."""
    x, y = pixel_grid(size, size)
    rng = np.random.default_rng(1)
    return np.stack(
        [
            np.stack([np.exp(-((x - a) ** 2 + 2 * (y - b) ** 2) / (size / 2)) for a, b in rng.uniform(-3, 3, (2, 2))])
            for _ in range(n)
        ]
    )


def test_top1_of_one_bright_pixel_moves_with_every_shift():
    images = np.zeros((4, 1, 1, 8))
    images[np.arange(4), 0, 0, [0, 2, 5, 7]] = 1
    # the class is the column: every shift of 1 … 7 pixels changes it, one of 8 does not
    columns = discrete_consistency(lambda x: x[:, 0, 0], images, shifts=range(1, 9))
    np.testing.assert_array_equal(columns, 7 / 8)
    # the class is the half: 4 of the 7 shifts end in the other one
    halves = discrete_consistency(lambda x: np.stack([x[..., :4].sum((1, 2, 3)), x[..., 4:].sum((1, 2, 3))], 1), images)
    expected = [np.mean([((c - s) % 8 < 4) != (c < 4) for s in range(1, 8)]) for c in (0, 2, 5, 7)]
    np.testing.assert_allclose(halves, expected)
    rows = discrete_consistency(lambda x: x[:, 0, 0], images, generator="translation_y")
    np.testing.assert_array_equal(rows, 0)


def test_group_sample_error_of_a_wave_has_a_closed_form():
    # F = projections on cos and sin of one wave: F(T_d x) turns by k·d, so ‖F(x) − F(T_d x)‖² = 2A²(1 − cos kd)
    width, k = 32, 2 * np.pi * 3 / 32
    j = np.arange(width)
    waves = np.stack([np.cos(k * j), np.sin(k * j)]) / width
    images = (5 * np.cos(k * j + 0.3))[None, None, None]
    eta, draws = 2.0, 40
    found = group_sample_error(
        lambda x: x[:, 0, 0] @ waves.T,
        images,
        generator="translation_x",
        eta=eta,
        draws=draws,
        interpolation="fourier",
        padding="circular",
        seed=3,
    )
    d = np.random.default_rng(3).uniform(-eta, eta, draws)
    np.testing.assert_allclose(found, np.mean(2 * 2.5**2 * (1 - np.cos(k * d))), rtol=1e-12)
    # and the mean over all d, 2A²(1 − sin kη / kη), within three Monte-Carlo errors
    exact = 2 * 2.5**2 * (1 - np.sin(k * eta) / (k * eta))
    spread = np.std(2 * 2.5**2 * (1 - np.cos(k * d))) / np.sqrt(draws)
    assert abs(found[0] - exact) < 3 * spread


@pytest.mark.parametrize("generator", ["translation_y", "rotation"])
def test_group_sample_error_tends_to_the_lie_derivative(images, generator):
    weights = np.random.default_rng(2).normal(size=(5, images[0].size))

    def linear(x):
        return x.reshape(len(x), -1) @ weights.T

    choice = {"interpolation": "fourier", "padding": "circular"}
    eta, draws = 1e-4, 6
    found = group_sample_error(linear, images, generator=generator, eta=eta, draws=draws, **choice, seed=0)
    unit = 1 / images.shape[-2] if generator == "translation_y" else 1.0
    lie = linear(tangent(images, generator, **choice, convention="central")) * unit
    mean_square = np.mean(np.random.default_rng(0).uniform(-eta, eta, draws) ** 2)
    # terms of order t beside t²: curvature over slope, at most about 10² px
    np.testing.assert_allclose(found, mean_square * (lie**2).sum(axis=1), rtol=100 * eta)


@pytest.mark.parametrize("padding", ["reflect", "circular"])
@pytest.mark.parametrize("metric", [eq_t, eq_t_frac])
def test_pointwise_functions_commute_with_translation(images, metric, padding):
    found = metric(lambda x: 3 * x[:, :1] + 1, images, spatial=True, dynamic_range=2, padding=padding)
    # affine maps commute with every interpolant: nothing but rounding is left
    assert found.mse < 1e-28
    assert found.decibels > 280


def test_nonlinear_pointwise_functions_commute_with_whole_pixels_only(images):
    def function(x):
        return np.abs(x)

    whole = eq_t(function, images, spatial=True, dynamic_range=2)
    assert whole.mse == 0
    assert whole.decibels == math.inf
    # aliasing of the kink: what EQ-T_frac is there to see
    assert eq_t_frac(function, images, spatial=True, dynamic_range=2).mse > 0.05


def test_a_map_that_ignores_its_input_has_the_closed_form(images):
    # F(x) = column index: T_s F − F = s in the middle of the map, so the mean square is E s²
    height, width = images.shape[-2:]
    ramp = np.broadcast_to(np.arange(width, dtype=float), (len(images), 1, height, width))
    found = eq_t(lambda _: ramp, images, spatial=True, dynamic_range=2, draws=7, seed=4)
    rng = np.random.default_rng(4)
    shifts = [(rng.integers(-2, 3), rng.integers(-3, 4))[1] for _ in range(7)]
    np.testing.assert_allclose(found.per_image, np.mean(np.square(shifts)))
    assert found.decibels == pytest.approx(10 * np.log10(4 / np.mean(np.square(shifts))))


def test_coarser_maps_move_by_whole_pixels_of_theirs(images):
    # mean pooling by 4 commutes with shifts by 4 pixels, and with no other
    def pool(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 4, 4, w // 4, 4).mean((3, 5))

    assert eq_t(pool, images, spatial=True, dynamic_range=2, max_shift=0.5).mse < 1e-30
    assert eq_t_frac(pool, images, spatial=True, dynamic_range=2, max_shift=0.5).mse > 1e-3
    with pytest.raises(SpecError, match="whole pixels") as caught:
        eq_t(pool, images, spatial=True, dynamic_range=2, max_shift=0.1)
    assert caught.value.reason == "STEP_TOO_SMALL"


@pytest.mark.parametrize("metric", EVERY)
def test_invariant_outputs(metric):
    blobs = _blobs(32)
    # the total intensity of what stays in view does not change; the first moment does
    total = metric(lambda x: x.sum((2, 3)), blobs, spatial=False, dynamic_range=1)
    x, _ = pixel_grid(32, 32)
    moment = metric(lambda v: (v * x).sum((2, 3)), blobs, spatial=False, dynamic_range=1)
    scale = blobs.sum((2, 3)).mean()
    assert total.mse < (1e-3 * scale) ** 2
    assert moment.mse > (0.3 * scale) ** 2


def test_rotation_of_smooth_maps_commutes_with_round_filters():
    # a Gaussian blur is round: it commutes with every rotation; a blur along x does not
    size = 32
    blobs = _blobs(size)
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]

    def blur(x, gain):
        return np.fft.ifft2(np.fft.fft2(x) * gain).real

    round_blur = eq_r(lambda x: blur(x, np.exp(-40 * (fx**2 + fy**2))), blobs, spatial=True, dynamic_range=1)
    along_x = eq_r(lambda x: blur(x, np.exp(-80 * fx**2) + 0 * fy), blobs, spatial=True, dynamic_range=1)
    assert round_blur.decibels > 60
    assert along_x.decibels < round_blur.decibels - 25


def test_rotation_does_not_count_frequencies_the_grid_cannot_hold():
    # the diagonal wave near the corner of the square turns out of it at 45°; its removal must not count as an error
    size = 48
    x, y = pixel_grid(size, size)
    window = np.exp(-(x**2 + y**2) / 50)
    corner = (window * np.cos(2 * np.pi * 0.42 * (x + y)))[None, None]
    found = eq_r(lambda v: v, corner, spatial=True, dynamic_range=2, draws=12)
    # lost at about half of the angles, so half its energy would be counted; the sharp filter's ringing, cut off at the
    # edge of the map, leaves a percent
    assert found.mse < 0.02 * np.mean(corner**2)


def test_rotation_forgives_both_sides_what_the_grid_cannot_hold():
    # a fixed pattern near the corner of the square: at 45° the rotated grid cannot hold it, so that nothing can be told
    size = 48
    x, y = pixel_grid(size, size)
    pattern = (np.exp(-(x**2 + y**2) / 50) * np.cos(2 * np.pi * 0.42 * (x + y)))[None, None]

    def at(degrees):
        """A seed whose only angle is within 3° of so many, up to quarter turns."""
        angles = (np.degrees(np.random.default_rng(s).uniform(0, 2 * np.pi, 1)[0]) % 90 for s in range(1000))
        seed = next(s for s, angle in enumerate(angles) if abs(angle - degrees) < 3)
        return eq_r(lambda _: pattern, pattern, spatial=True, dynamic_range=2, draws=1, seed=seed).mse

    energy = float(np.mean(pattern**2))
    assert at(45) < 0.05 * energy
    assert at(8) > 0.5 * energy


@pytest.mark.parametrize("metric", EVERY)
def test_seeded(images, metric):
    def function(x):
        return np.tanh(x)

    first, again, other = (
        metric(function, images, spatial=True, dynamic_range=2, draws=3, seed=s).mse for s in (1, 1, 2)
    )
    assert first == again
    assert first != other or metric is eq_t  # whole pixels: exactly 0 both times


@pytest.mark.parametrize("metric", EVERY)
def test_unusable_arguments_are_refused(images, metric):
    choice = {"spatial": True, "dynamic_range": 2.0}
    with pytest.raises(DataError, match="not \\(n, C, h, w\\)"):
        metric(lambda x: x.sum((2, 3)), images, **choice)
    with pytest.raises(DataError, match="not one for each"):
        metric(lambda x: x[:1], images, **choice)
    with pytest.raises(SpecError, match="dynamic_range"):
        metric(lambda x: x, images, spatial=True, dynamic_range=0.0)
    with pytest.raises(SpecError, match="draws"):
        metric(lambda x: x, images, **choice, draws=0)


def test_unusable_arguments_of_the_others_are_refused(images):
    with pytest.raises(SpecError, match="translation_x or translation_y"):
        discrete_consistency(lambda x: x.sum((2, 3)), images, generator="rotation")
    with pytest.raises(SpecError, match="at least one shift"):
        discrete_consistency(lambda x: x.sum((2, 3)), images, shifts=())
    with pytest.raises(DataError, match="no top-1 class"):
        discrete_consistency(lambda x: x, images)
    for eta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SpecError, match="eta"):
            group_sample_error(lambda x: x, images, generator="rotation", eta=eta)
    with pytest.raises(SpecError, match="'spin' is not one of"):
        group_sample_error(lambda x: x, images, generator="spin", eta=1.0)


@pytest.mark.parametrize("metric", [eq_t, eq_t_frac])
def test_shifts_must_leave_pixels_to_compare(images, metric):
    choice = {"spatial": True, "dynamic_range": 2.0}
    for share in (0.0, -0.125, 0.51, 1.0, math.nan, math.inf):
        with pytest.raises(SpecError, match="max_shift"):
            metric(lambda x: x, images, **choice, max_shift=share)
    assert metric(lambda x: x, images, **choice, max_shift=0.5).mse < 1e-12
    one_pixel = lambda x: x.mean((2, 3), keepdims=True)  # noqa: E731
    with pytest.raises(SpecError if metric is eq_t else DataError, match=r"whole pixels|1×1 no pixel"):
        metric(one_pixel, images, **choice, max_shift=0.5)


def test_decibels():
    assert Equivariance(np.array([0.03, 0.01]), 2.0).decibels == pytest.approx(10 * math.log10(4 / 0.02))
