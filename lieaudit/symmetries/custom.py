"""Generators that a user writes: an affine field by its six numbers, or any field by the displacements of the pixels.

Both are given on the grid of the image. On another grid of the model, as that of a dense output or of a layer, the same
field is meant: linear parts stay, as they do for every generator, and displacements scale with the size of the grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lieaudit.errors import SpecError
from lieaudit.symmetries.affine import BASIS, check_field
from lieaudit.symmetries.generators import GENERATORS, Array, Generator, Vector, get_generator

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}")
_TAKEN = {*GENERATORS, *BASIS, "translation", "shear", "stretch", "geometric"}
_UNIT = "times the given field"
_TERMS = 24
"""Of the exponential series of a matrix of norm 1/2 or less, to the last bit of float64."""


def check_custom(name: str, array: npt.NDArray[np.number]) -> None:
    """Refuse a field that is none, without knowing the image.

    Raises
    ------
    SpecError
        A name that is taken or no identifier; neither (2, 3) nor (H, W, 2); not finite, or 0 everywhere.
    """
    if not _NAME.fullmatch(name):
        problem = "is no name: letters, digits and _ after a letter, at most 48"
        raise SpecError(f"custom: {name!r:.60} {problem}", reason="INVALID_SPEC", subject="custom")
    if name in _TAKEN:
        raise SpecError(
            f"custom: the name {name!r} is taken by a generator or a group of them",
            reason="INVALID_SPEC",
            subject="custom",
            hint="choose another name",
        )
    if array.shape == (2, 3):
        check_field(name, array.tolist())
    elif array.ndim != 3 or array.shape[2] != 2 or 0 in array.shape:
        raise SpecError(
            f"generator {name!r}: an array of shape {array.shape} is no field",
            reason="INVALID_SPEC",
            subject="custom",
            hint="give (2, 3), v = (a x + b y + c, d x + e y + f), or displacements in pixels (H, W, 2), x then y",
        )
    elif array.dtype.kind not in "fiu" or not np.all(np.isfinite(array)) or not np.any(array):
        raise SpecError(
            f"generator {name!r}: its displacements are not finite numbers of which one at least is not 0",
            reason="INVALID_SPEC",
            subject="custom",
        )


def resolved(
    names: Sequence[str], custom: Mapping[str, npt.NDArray[np.number]], height: int, width: int
) -> tuple[Generator, ...]:
    """Return the generators of these names on images of this size.

    Parameters
    ----------
    names
        Of generators, or of ``custom`` ones.
    custom
        Fields by name that `check_custom` takes.
    height, width
        Of the images.

    Raises
    ------
    SpecError
        Displacements given for images of another size; an unknown name.
    """
    return tuple(
        custom_generator(name, custom[name], height, width) if name in custom else get_generator(name) for name in names
    )


def custom_generator(name: str, array: npt.NDArray[np.number], height: int, width: int) -> Generator:
    """Return the generator of a field (2, 3), or of displacements (H, W, 2), on images of this size."""
    check_custom(name, array)
    values = np.asarray(array, np.float64)
    if values.shape == (2, 3):
        return _affine(name, values, height, width)
    if values.shape[:2] != (height, width):
        raise SpecError(
            f"generator {name!r} gives displacements for {values.shape[0]} × {values.shape[1]} pixels, "
            f"the images have {height} × {width}",
            reason="INVALID_SPEC",
            subject="custom",
            hint=f"give an array of shape ({height}, {width}, 2): height, width, (x, y)",
        )
    return _displacements(name, values)


def _affine(name: str, field: Array, height: int, width: int) -> Generator:
    def on(w: int, h: int) -> Array:
        return np.asarray(field * [[1.0, 1.0, w / width], [1.0, 1.0, h / height]])

    def velocity(x: Array, y: Array, w: int, h: int) -> Vector:
        (a, b, c), (d, e, f) = on(w, h)
        return a * x + b * y + c, d * x + e * y + f

    def displacement(x: Array, y: Array, t: float, w: int, h: int) -> Vector:
        (a, b, c), (d, e, f) = _exponential_less_one(t * np.vstack([on(w, h), np.zeros(3)]))[:2]
        return a * x + b * y + c, d * x + e * y + f

    return Generator(name, _UNIT, velocity=velocity, displacement=displacement)


def _exponential_less_one(matrix: Array) -> Array:
    """Return e^B − 1 without the cancellation at small B: by its series, then e^2B − 1 = 2E + E²."""
    norm = float(np.abs(matrix).sum(axis=1).max())
    if not np.isfinite(norm) or norm > 700:
        raise SpecError(
            "the transformation moves pixels by more than 2^40 pixels",
            reason="STEP_TOO_LARGE",
            subject="t",
            hint="use a smaller t",
        )
    halvings = max(0, int(np.ceil(np.log2(norm))) + 1) if norm > 0 else 0
    small = matrix / 2.0**halvings
    found = np.zeros_like(small)
    for k in range(_TERMS, 0, -1):
        found = small @ (np.eye(len(small)) + found) / k
    for _ in range(halvings):
        found = 2.0 * found + found @ found
    return found


def _displacements(name: str, values: Array) -> Generator:
    height, width = values.shape[:2]

    def velocity(x: Array, y: Array, w: int, h: int) -> Vector:
        # the same point of the picture, from centre to centre
        columns, rows = x * (width / w) + (width - 1) / 2, y * (height / h) + (height - 1) / 2
        vx, vy = (_sampled(values[..., part], rows, columns) for part in range(2))
        return vx * (w / width), vy * (h / height)

    def displacement(x: Array, y: Array, t: float, w: int, h: int) -> Vector:  # noqa: ARG001
        raise SpecError(
            f"generator {name!r} is given by displacements at t → 0, which have no flow to a stated size",
            reason="INVALID_SPEC",
            subject="custom",
            hint="give an affine field, or measure without --step",
        )

    return Generator(name, _UNIT, velocity=velocity, displacement=displacement, affine=False)


def _sampled(values: Array, rows: Array, columns: Array) -> Array:
    """Interpolate linearly between the pixels of (H, W), and go on beyond the edge as at it."""
    found = np.zeros_like(rows)
    top, left = np.floor(rows), np.floor(columns)
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - np.abs(rows - top - i)) * (1 - np.abs(columns - left - j))
            y = np.clip(top + i, 0, values.shape[0] - 1).astype(np.intp)
            x = np.clip(left + j, 0, values.shape[1] - 1).astype(np.intp)
            found += weight * values[y, x]
    return found
