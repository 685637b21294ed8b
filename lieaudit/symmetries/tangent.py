"""Tangents X I = d/dt T_t I at t = 0, of many generators at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lieaudit.errors import SpecError
from lieaudit.symmetries.flow import ZeroPoint, check_images, zero_point_array
from lieaudit.symmetries.generators import CONVENTIONS, Generator, check_choice, get_generator, velocity_field
from lieaudit.symmetries.interpolation import (
    BLOCK,
    INTERPOLATIONS,
    PADDINGS,
    Array,
    Floating,
    derivative_matrix,
    reference_floor,
    wrap,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def tangents(
    images: Floating,
    generators: Sequence[str | Generator],
    *,
    interpolation: str,
    padding: str,
    convention: str,
    zero_point: ZeroPoint = 0.0,
) -> Floating:
    """Differentiate every generator's action on every image at t = 0: v · ∇Ĩ; for brightness I − zero_point.

    ``convention`` says what ∇ is at a pixel, where the bilinear interpolant has a kink:

    * ``central``: the symmetric derivative, (I[j+1] − I[j−1]) / 2 for bilinear and bicubic, the spectral
      derivative for fourier.
    * ``reference``: the slope on one side of the kink, whatever the sign of v: the right-hand one, I[j+1] − I[j], but
      I[j] − I[j−1] where the float32 grid of the code published with Gruver et al. (2023) rounds below j
      (`lieaudit.symmetries.interpolation.reference_floor`); and translations in units of half the size minus half a
      pixel. What that code computes, for comparison with its numbers. Bilinear only.

    Parameters
    ----------
    images
        float32 or float64 (..., C, H, W): images or any other spatial tensor.
    generators
        G ids from `lieaudit.symmetries.GENERATORS`, or generators.
    interpolation, padding
        See `lieaudit.symmetries.interpolation`.
    convention
        See above.
    zero_point
        See `lieaudit.symmetries.transform`.

    Returns
    -------
    array
        (..., G, C, H, W), dtype of ``images``, per unit of t; computed in float64.

    Raises
    ------
    SpecError
        Unknown generator, interpolation, padding or convention; ``reference`` but not ``bilinear``.
    DataError
        Images that are not floats (..., C, H, W) of at least one pixel; a zero point of another shape.
    """
    check_convention(interpolation=interpolation, padding=padding, convention=convention)
    check_images(images)
    lead, (channels, height, width) = images.shape[:-3], images.shape[-3:]
    zero = zero_point_array(zero_point, channels)
    gains = [get_generator(g).gain for g in generators]
    fields = [_components(velocity_field(g, height, width, convention=convention)) for g in generators]
    gradient = _Gradient(interpolation, padding, convention, height, width)
    stacks = images.reshape(-1, channels, height, width)
    out = np.empty((len(stacks), len(fields), channels, height, width), images.dtype)
    for index in _blocks(stacks.shape):
        block = stacks[index].astype(np.float64)
        dx = gradient(block, -1) if any(vx is not None for vx, _ in fields) else None
        dy = gradient(block, -2) if any(vy is not None for _, vy in fields) else None
        work, other = np.empty_like(block), np.empty_like(block)
        for g, ((vx, vy), gain) in enumerate(zip(fields, gains, strict=True)):
            target = out[index[0], g, index[1]]
            if gain:
                target[...] = gain * (block - zero[index[1]] if len(zero) > 1 else block - zero)
                continue
            parts = [(v, d) for v, d in ((vx, dx), (vy, dy)) if v is not None and d is not None]
            if not parts:
                target[...] = 0
                continue
            np.multiply(parts[0][1], parts[0][0], out=work)
            if len(parts) == 2:
                work += np.multiply(parts[1][1], parts[1][0], out=other)
            target[...] = work
    return out.reshape(*lead, len(fields), channels, height, width)


def tangent(
    images: Floating,
    generator: str | Generator,
    *,
    interpolation: str,
    padding: str,
    convention: str,
    zero_point: ZeroPoint = 0.0,
) -> Floating:
    """Differentiate the action of one generator: `tangents` for one, of the images' own shape."""
    many = tangents(
        images,
        [generator],
        interpolation=interpolation,
        padding=padding,
        convention=convention,
        zero_point=zero_point,
    )
    return many.reshape(images.shape)


def check_convention(*, interpolation: str, padding: str, convention: str) -> None:
    """Raise `SpecError` unless the three go together."""
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    check_choice("padding", padding, PADDINGS)
    check_choice("convention", convention, CONVENTIONS)
    if convention == "reference" and interpolation != "bilinear":
        raise SpecError(
            f"interpolation: the reference convention is defined for bilinear, not {interpolation}",
            reason="INVALID_SPEC",
            subject="interpolation",
            hint="use bilinear, or the central convention",
        )


class _Gradient:
    """Derivative of the interpolant along one axis of float64 blocks, per pixel."""

    def __init__(self, interpolation: str, padding: str, convention: str, height: int, width: int) -> None:
        self.padding = padding
        self.right = convention == "reference"
        self.matrices = (
            {
                -1: derivative_matrix(width, interpolation=interpolation, padding=padding),
                -2: derivative_matrix(height, interpolation=interpolation, padding=padding),
            }
            if interpolation == "fourier"
            else None
        )

    def __call__(self, block: Array, axis: int) -> Array:
        if self.matrices is not None:
            matrix = self.matrices[axis]
            return block @ matrix.T if axis == -1 else matrix @ block
        size = block.shape[axis]
        out = np.empty_like(block)
        source, target = np.moveaxis(block, axis, 0), np.moveaxis(out, axis, 0)
        if self.right:
            behind = reference_floor(size)
            target[...] = source[wrap((behind + 1).astype(np.float64), size, self.padding)] - source[behind]
            return out
        np.subtract(source[2:], source[: size - 2], out=target[1 : max(size - 1, 1)])
        edges = np.array([0, size - 1])
        target[edges] = source[wrap(edges + 1.0, size, self.padding)] - source[wrap(edges - 1.0, size, self.padding)]
        out *= 0.5
        return out


def _components(field: Array) -> tuple[Array | None, Array | None]:
    """Return the components of v, None where one is zero everywhere (so that nobody multiplies by it)."""
    vx, vy = (part if np.any(part) else None for part in field)
    return vx, vy


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut (n, C, H, W) into blocks that fit a core's cache: of images or, where one is large, of channels."""
    count, channels, height, width = shape
    image = channels * height * width
    images = max(1, BLOCK // image)
    step = channels if image <= BLOCK else max(1, BLOCK // (height * width))
    for start in range(0, count, images):
        for channel in range(0, channels, step):
            yield slice(start, start + images), slice(channel, channel + step)
