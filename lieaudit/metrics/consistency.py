"""Metrics at finite transformations, for comparison with the Lie derivative (Gruver et al. 2023, D.1 and D.4).

* `discrete_consistency`: how often the top-1 class changes under whole-pixel shifts (Zhang 2019).
* `group_sample_error`: E_t ‖F(x) − F(T_t x)‖² over a range of t.
* `eq_t`, `eq_t_frac`, `eq_r`: Karras et al. (2021), Appendix E, for any function of images.

``function`` maps images (n, C, H, W) to outputs (n, ...), of a whole model or of its first layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lieaudit.errors import DataError, SpecError
from lieaudit.metrics.moving import band_limited, inside, rotate, translate
from lieaudit.symmetries import get_generator, pixel_grid, transform
from lieaudit.symmetries.flow import check_images
from lieaudit.symmetries.interpolation import Floating

Array = npt.NDArray[np.float64]
Function = Callable[[Floating], npt.NDArray[np.floating]]

# Filters at the edge of a map see its continuation; this many pixels of it are not compared (an eighth on small maps).
_MARGIN = 3


@dataclass(frozen=True, slots=True)
class Equivariance:
    """Mean squared equivariance error, and the same as a signal-to-noise ratio.

    Attributes
    ----------
    per_image
        Mean over transformations and valid output values of the squared difference, (n,).
    dynamic_range
        I_max: the width of the range the outputs are meant to have (2 for images in [−1, 1], 1 for probabilities).
    """

    per_image: Array
    dynamic_range: float

    @property
    def mse(self) -> float:
        """Mean over images."""
        return float(np.mean(self.per_image))

    @property
    def decibels(self) -> float:
        """10 log₁₀(I_max² / mse): higher is more equivariant, infinite where the error is exactly 0."""
        return 10 * math.log10(self.dynamic_range**2 / self.mse) if self.mse > 0 else math.inf


def discrete_consistency(
    function: Function,
    images: Floating,
    *,
    generator: str = "translation_x",
    shifts: Sequence[int] = (1, 2, 3, 4, 5, 6, 7),
    padding: str = "circular",
) -> Array:
    """Measure 1 − P(top-1 unchanged) under whole-pixel shifts.

    Parameters
    ----------
    function
        Images → class scores (n, K).
    images
        (n, C, H, W).
    generator
        ``translation_x`` or ``translation_y``.
    shifts
        Pixels, uniformly weighted.
    padding
        ``circular`` (the paper's) or ``reflect``.

    Returns
    -------
    array
        (n,): the share of shifts that change the class of each image; 0 is consistent.

    Raises
    ------
    SpecError
        A generator that is no translation, or no shifts.
    DataError
        Scores that are not (n, K).
    """
    if not generator.startswith("translation") or not shifts:
        raise SpecError(
            "discrete consistency needs translation_x or translation_y and at least one shift",
            reason="INVALID_SPEC",
            subject="generator",
        )
    size = _extent(images, generator)
    scores = _outputs(function, images)
    if scores.ndim != 2:
        raise DataError(
            f"outputs have shape {scores.shape}, not (n, K): there is no top-1 class",
            reason="NOT_CLASSIFICATION",
            subject="output",
        )
    top = scores.argmax(axis=1)
    changed = np.zeros(len(images))
    for shift in shifts:
        moved = transform(images, generator, shift / size, interpolation="bilinear", padding=padding)
        changed += _outputs(function, moved).argmax(axis=1) != top
    return changed / len(shifts)


def group_sample_error(
    function: Function,
    images: Floating,
    *,
    generator: str,
    eta: float,
    draws: int = 10,
    interpolation: str = "bilinear",
    padding: str = "reflect",
    seed: int = 0,
) -> Array:
    """Estimate E_t ‖F(x) − F(T_t x)‖², t uniform in [−η, η].

    For small η it tends to η²/3 · ‖L F‖² (with L per pixel for translations).

    Parameters
    ----------
    function
        Images → outputs on which the symmetry acts trivially, (n, ...).
    images
        (n, C, H, W).
    generator, interpolation, padding
        See `lieaudit.symmetries.transform`.
    eta
        In pixels for translations, else in the generator's unit (radians for rotation).
    draws, seed
        Number of t, shared by all images, and the seed they are drawn with.

    Returns
    -------
    array
        (n,): the mean over the draws of the squared norm of the difference.

    Raises
    ------
    SpecError
        An η that is not positive and finite, or no draws; else as `lieaudit.symmetries.transform`.
    """
    if not (math.isfinite(eta) and eta > 0):
        raise SpecError(f"eta: {eta} is not a positive number", reason="INVALID_SPEC", subject="eta")
    unit = 1 / _extent(images, generator) if generator.startswith("translation") else 1.0
    here = _outputs(function, images)
    total = np.zeros(len(images))
    for t in _rng(draws, seed).uniform(-eta, eta, draws):
        moved = transform(images, generator, t * unit, interpolation=interpolation, padding=padding)
        total += _square(_outputs(function, moved) - here).sum(axis=1)
    return total / draws


def eq_t(
    function: Function,
    images: Floating,
    *,
    spatial: bool,
    dynamic_range: float,
    max_shift: float = 0.125,
    draws: int = 10,
    padding: str = "reflect",
    seed: int = 0,
) -> Equivariance:
    """Measure EQ-T: equivariance to whole-pixel translations in both axes (Karras et al. 2021, E.1).

    EQ-T = 10 log₁₀ I_max² / E (F(T_s x) − T_s F(x))², s uniform over the whole-pixel shifts of up to ``max_shift``
    image sizes; on a coarser output grid over those that are whole pixels there too.

    Parameters
    ----------
    function
        Images → outputs.
    images
        (n, C, H, W).
    spatial
        True: outputs (n, C', h, w) move with the images, and only pixels whose source lies inside the map count (all
        of them under circular padding). False: they should not change at all.
    dynamic_range
        I_max.
    max_shift
        Largest shift as a share of the image, at most 0.5.
    draws, seed
        Number of shifts, shared by all images, and their seed.
    padding
        Continuation of images beyond their edges.

    Raises
    ------
    SpecError
        A ``max_shift`` outside (0, 0.5], or no whole-pixel shift but 0 within it; no draws; a dynamic range that is
        not positive.
    DataError
        ``spatial`` outputs that are not (n, C', h, w), or of which no pixel can be compared.
    """
    _check_shift(max_shift)
    here = _outputs(function, images, spatial=spatial)
    limits, steps = [], []
    for size, inner in zip(images.shape[-2:], here.shape[-2:] if spatial else images.shape[-2:], strict=True):
        steps.append(size // math.gcd(size, inner))
        limits.append(int(max_shift * size / steps[-1] + 1e-9))
    if not any(limits):
        raise SpecError(
            "no shift of whole pixels, on the input's and the output's grid, is that small",
            reason="STEP_TOO_SMALL",
            subject="max_shift",
            hint="use a larger max_shift, or eq_t_frac",
        )
    rng = _rng(draws, seed)
    shifts = [
        [rng.integers(-m, m + 1) * s / n for m, s, n in zip(limits, steps, images.shape[-2:], strict=True)]
        for _ in range(draws)
    ]
    return _translations(function, images, here, shifts, "bilinear", 0, padding, dynamic_range, spatial=spatial)


def eq_t_frac(
    function: Function,
    images: Floating,
    *,
    spatial: bool,
    dynamic_range: float,
    max_shift: float = 0.125,
    draws: int = 10,
    padding: str = "reflect",
    seed: int = 0,
) -> Equivariance:
    """Measure EQ-T_frac: equivariance to subpixel translations in both axes (Karras et al. 2021, E.2).

    As `eq_t`, with real-valued shifts. Images and maps are translated by the ideal (sinc) filter of their continuation
    where the paper truncates it with a Lanczos window; as there, pixels near the edge do not count.
    """
    _check_shift(max_shift)
    here = _outputs(function, images, spatial=spatial)
    shifts = _rng(draws, seed).uniform(-max_shift, max_shift, (draws, 2)).tolist()
    return _translations(function, images, here, shifts, "fourier", _MARGIN, padding, dynamic_range, spatial=spatial)


def eq_r(
    function: Function,
    images: Floating,
    *,
    spatial: bool,
    dynamic_range: float,
    draws: int = 10,
    padding: str = "reflect",
    seed: int = 0,
) -> Equivariance:
    """Measure EQ-R: equivariance to rotation by any angle (Karras et al. 2021, E.3).

    EQ-R = 10 log₁₀ I_max² / E (R*_α F(R_α x) − R_α F(x))², α uniform in [0, 2π). Rotating a sampled image loses the
    frequencies that turn out of the square the grid can hold: R_α removes them, then rotates the rest exactly;
    R*_α removes the same ones from the map that was not rotated, so that the loss is not counted. Only pixels count
    that lie inside the map before and after, off its edges. Parameters and errors as of `eq_t`.
    """
    here = _outputs(function, images, spatial=spatial)
    total = np.zeros(len(images))
    for angle in _rng(draws, seed).uniform(0, 2 * np.pi, draws):
        there = _outputs(function, rotate(images, angle, padding), spatial=spatial)
        if not spatial:
            total += _square(there - here).mean(axis=1)
            continue
        height, width = here.shape[-2:]
        x, y = pixel_grid(height, width)
        moved = get_generator("rotation").flow(x, y, angle, width, height)
        valid = inside(x, y, height, width, _MARGIN) & inside(*moved, height, width, _MARGIN)
        kept = band_limited(there, -angle, padding)
        total += _square(_compared(kept - rotate(here, angle, padding), valid)).mean(axis=1)
    return _equivariance(total / draws, dynamic_range)


def _translations(
    function: Function,
    images: Floating,
    here: Array,
    shifts: Sequence[Sequence[float]],
    interpolation: str,
    margin: int,
    padding: str,
    dynamic_range: float,
    *,
    spatial: bool,
) -> Equivariance:
    total = np.zeros(len(images))
    for ty, tx in shifts:
        there = _outputs(function, translate(images, tx, ty, interpolation, padding), spatial=spatial)
        difference = there - (translate(here, tx, ty, interpolation, padding) if spatial else here)
        if spatial and padding != "circular":
            height, width = here.shape[-2:]
            x, y = pixel_grid(height, width)
            valid = inside(x + tx * width, y + ty * height, height, width, margin)
            difference = _compared(difference, valid)
        total += _square(difference).mean(axis=1)
    return _equivariance(total / len(shifts), dynamic_range)


def _compared(difference: Array, valid: npt.NDArray[np.bool_]) -> Array:
    """Keep the pixels that count, of which there must be one."""
    if not valid.any():
        height, width = valid.shape
        raise DataError(
            f"on maps of {height}×{width} no pixel has its source inside the map",
            reason="MAP_TOO_SMALL",
            subject="output",
            hint="use an earlier layer, or circular padding",
        )
    return np.asarray(difference[..., valid])


def _check_shift(max_shift: float) -> None:
    if not 0 < max_shift <= 0.5:
        raise SpecError(
            f"max_shift: {max_shift} is not a share of the image in (0, 0.5]",
            reason="INVALID_SPEC",
            subject="max_shift",
        )


def _outputs(function: Function, images: Floating, *, spatial: bool = False) -> Array:
    check_images(images)
    outputs = np.asarray(function(images), dtype=np.float64)
    if images.ndim != 4 or outputs.shape[:1] != images.shape[:1] or not len(images):
        raise DataError(
            f"images {images.shape} gave outputs {outputs.shape}: not one for each of n ≥ 1 images (n, C, H, W)",
            reason="INVALID_OUTPUT",
            subject="output",
        )
    if spatial and outputs.ndim != 4:
        raise DataError(
            f"outputs have shape {outputs.shape}, not (n, C, h, w): the symmetry does not act on them",
            reason="INVALID_OUTPUT",
            subject="output",
            hint="set spatial to False for outputs that should not change",
        )
    return outputs


def _extent(images: Floating, generator: str) -> int:
    check_images(images)
    return int(images.shape[-1] if get_generator(generator).id.endswith("_x") else images.shape[-2])


def _square(difference: Array) -> Array:
    return np.square(difference).reshape(len(difference), -1)


def _rng(draws: int, seed: int) -> np.random.Generator:
    if draws < 1:
        raise SpecError(f"draws: {draws} is not at least 1", reason="INVALID_SPEC", subject="draws")
    return np.random.default_rng(seed)


def _equivariance(per_image: Array, dynamic_range: float) -> Equivariance:
    if not (math.isfinite(dynamic_range) and dynamic_range > 0):
        raise SpecError(
            f"dynamic_range: {dynamic_range} is not a positive number", reason="INVALID_SPEC", subject="dynamic_range"
        )
    return Equivariance(per_image, dynamic_range)
