"""Finite transformations T_t I."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lieaudit.errors import DataError, SpecError
from lieaudit.symmetries.generators import Generator, check_choice, get_generator, pixel_grid
from lieaudit.symmetries.interpolation import INTERPOLATIONS, PADDINGS, Floating, resample

ZeroPoint = float | npt.ArrayLike


def transform(
    images: Floating,
    generator: str | Generator,
    t: float,
    *,
    interpolation: str,
    padding: str,
    zero_point: ZeroPoint = 0.0,
) -> Floating:
    """Transform images: (T_t I)(p) = Ĩ(φ_t(p)), with the exact flow φ_t at any finite t.

    Parameters
    ----------
    images
        float32 or float64 (..., C, H, W).
    generator
        Id from `lieaudit.symmetries.GENERATORS`, or a generator.
    t
        Parameter in the generator's unit.
    interpolation, padding
        See `lieaudit.symmetries.interpolation`.
    zero_point
        For ``brightness``: what a raw intensity of 0 is in these images, one value or one per channel
        (−mean/std after the usual normalisation). Brightness scales the distance from it by e^t.

    Returns
    -------
    array
        Shape and dtype of ``images``; computed in float64.

    Raises
    ------
    SpecError
        Unknown generator, interpolation or padding; a t that is not finite or is absurdly large.
    DataError
        Images that are not floats (..., C, H, W) of at least one pixel; a zero point of another shape.
    """
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    check_choice("padding", padding, PADDINGS)
    check_images(images)
    chosen = get_generator(generator)
    if not math.isfinite(t):
        raise SpecError(f"t: {t} is not finite", reason="INVALID_SPEC", subject="t")
    if not chosen.spatial:
        zero = zero_point_array(zero_point, images.shape[-3])
        with np.errstate(over="ignore"):
            gain = float(np.exp(chosen.gain * t))
        if not math.isfinite(gain):
            raise SpecError(f"t: a gain of e^{t:g} is not finite", reason="STEP_TOO_LARGE", subject="t")
        scaled = np.empty_like(images)
        scaled[...] = zero + gain * (images - zero)
        return scaled
    height, width = images.shape[-2:]
    with np.errstate(over="ignore", invalid="ignore"):  # resample refuses what is not finite
        dx, dy = chosen.displacement(*pixel_grid(height, width), t, width, height)
    return resample(images, dx, dy, interpolation=interpolation, padding=padding)


def check_images(images: Floating) -> None:
    """Raise `DataError` unless ``images`` is float32 or float64 (..., C, H, W), C, H, W ≥ 1."""
    if images.dtype not in {np.dtype(np.float32), np.dtype(np.float64)}:
        raise DataError(f"images are {images.dtype}, not float32 or float64", reason="INVALID_IMAGES", subject="images")
    if images.ndim < 3 or 0 in images.shape[-3:]:
        raise DataError(
            f"images have shape {images.shape}, not (..., C, H, W) with at least one pixel",
            reason="INVALID_IMAGES",
            subject="images",
        )


def zero_point_array(zero_point: ZeroPoint, channels: int) -> npt.NDArray[np.float64]:
    """Return the zero point as float64 (1, 1, 1) or (channels, 1, 1); `DataError` where it is neither."""
    zero = np.asarray(zero_point, dtype=np.float64)
    if zero.shape not in {(), (1,), (channels,)} or not np.all(np.isfinite(zero)):
        raise DataError(
            f"zero_point has shape {zero.shape}: it must be one finite number, or {channels}, one a channel",
            reason="INVALID_ZERO_POINT",
            subject="zero_point",
        )
    return zero.reshape(-1, 1, 1)
