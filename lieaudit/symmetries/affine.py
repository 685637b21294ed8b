"""The affine algebra: every geometric generator from six fields, and every direction from their Gram matrix.

A field v(x, y) = (a x + b y + c, d x + e y + f), in pixels from the grid's centre, is written [[a, b, c], [d, e, f]].
All nine geometric generators are such fields, and X_v I = v · ∇Ĩ is linear in v, so that the Lie derivative along any
of them is a combination of those along a basis (Gruver et al. 2023, D.4):

    L_v F = Σ_i c_i L_i F,   ‖L_v F‖² = cᵀ M c,   M_ij = ⟨L_i F, L_j F⟩

The mean square displacement of the pixels is cᵀ D c with D_ij the mean of v_i · v_j over the grid, in px². The quotient
compares generators, resolutions and models, and its extremes over all c solve M c = λ D c: the directions that a model
answers to most and least for the same displacement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.errors import SpecError
from lieaudit.symmetries.generators import CONVENTIONS, GENERATORS, Generator, check_choice, get_generator, pixel_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = npt.NDArray[np.float64]

BASIS = ("translation_x", "translation_y", "rotation", "scale", "hyperbolic_rotation", "squeeze")
"""Both translations and the irreducible parts of gl(2); ``squeeze`` is (x, −y), the difference of the stretches.
Rotation and scale are in it, so that a model's small error under them is never the difference of large ones."""

_LINEAR: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "rotation": ((0, 1), (-1, 0)),
    "scale": ((1, 0), (0, 1)),
    "hyperbolic_rotation": ((0, 1), (1, 0)),
    "squeeze": ((1, 0), (0, -1)),
}


SQUEEZE = Generator(
    "squeeze",
    "log squeeze",
    velocity=lambda x, y, w, h: (x, -y),  # noqa: ARG005
    displacement=lambda x, y, t, w, h: (np.expm1(t) * x, np.expm1(-t) * y),  # noqa: ARG005
)
"""The direction of `BASIS` that is no generator of its own: wider by e^t, lower by e^t."""


def basis_generators() -> tuple[Generator, ...]:
    """Return the generators of `BASIS`; translations by the whole width and height under every convention."""
    table = {**GENERATORS, SQUEEZE.id: SQUEEZE}
    return tuple(replace(table[name], reference_unit=None, reference_velocity=None) for name in BASIS)


def field_of(generator: str | Generator, height: int, width: int, *, convention: str = "central") -> Array:
    """Return a geometric generator as a field [[a, b, c], [d, e, f]], float64 (2, 3), pixels per unit of t.

    Raises
    ------
    SpecError
        Unknown generator or convention; a generator that moves no pixels, or not by A p + b.
    """
    check_choice("convention", convention, CONVENTIONS)
    chosen = get_generator(generator)
    if not (chosen.spatial and chosen.affine):
        raise SpecError(f"{chosen.id} is no affine field", reason="INVALID_SPEC", subject="generators")
    reference = chosen.reference_velocity if convention == "reference" else None
    velocity = reference or chosen.velocity
    # an affine field is known by its values at the centre and one pixel right of and below it
    x, y = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    at = np.stack(velocity(x, y, width, height))
    return np.stack([at[:, 1] - at[:, 0], at[:, 2] - at[:, 0], at[:, 0]], axis=1)


def basis_fields(height: int, width: int) -> Array:
    """Return the fields of `BASIS`, float64 (6, 2, 3); translations by the whole width and height."""
    fields = np.zeros((len(BASIS), 2, 3))
    fields[0, 0, 2], fields[1, 1, 2] = width, height
    for i, name in enumerate(BASIS[2:], start=2):
        fields[i, :, :2] = _LINEAR[name]
    return fields


def coefficients(field: Array, height: int, width: int) -> Array:
    """Return c, float64 (6,), with field = Σ c_i v_i over `BASIS`: exact sums and differences, nothing is solved."""
    (a, b, c), (d, e, f) = np.asarray(field, np.float64)
    return np.array([c / width, f / height, (b - d) / 2, (a + e) / 2, (b + d) / 2, (a - e) / 2])


def from_coefficients(c: Array, height: int, width: int) -> Array:
    """Return the field Σ c_i v_i, float64 (2, 3): the inverse of `coefficients`."""
    return np.asarray(np.tensordot(np.asarray(c, np.float64), basis_fields(height, width), axes=1))


def displacement_matrix(height: int, width: int) -> Array:
    """Return D, float64 (6, 6), px²: the mean over the grid of v_i · v_j.

    Off the diagonal only grids that are not square have entries: rotation with hyperbolic_rotation, scale with squeeze.
    """
    x, y = pixel_grid(height, width)
    points = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    moment = points @ points.T / points.shape[1]
    fields = basis_fields(height, width)
    return np.asarray(np.einsum("icp,pq,jcq->ij", fields, moment, fields))


def mean_square_displacement(field: Array, height: int, width: int) -> float:
    """Return the mean over the grid of ‖v‖², in px² per unit of t squared."""
    c = coefficients(field, height, width)
    return float(c @ displacement_matrix(height, width) @ c)


@dataclass(frozen=True, slots=True)
class Directions:
    """The extremes of LEE for one pixel of root mean square displacement.

    Attributes
    ----------
    eigenvalues
        (r,) ascending, LEE per px²; r = 6, less where the grid is one pixel high or wide.
    fields
        (r, 2, 3), each of one pixel of root mean square displacement, its largest entry positive.
    mean
        tr(D⁻¹ M)/r, the mean of the eigenvalues.
    """

    eigenvalues: Array
    fields: Array
    mean: float


def directions(gram: Array, height: int, width: int) -> Directions:
    """Solve M c = λ D c for a Gram matrix (6, 6) over `BASIS`.

    Parameters
    ----------
    gram
        M_ij = E⟨L_i F, L_j F⟩/K, symmetric and positive semidefinite.
    height, width
        Of the grid that the fields move.
    """
    whitener = _whitener(height, width)
    values, vectors = np.linalg.eigh(whitener.T @ ((gram + gram.T) / 2) @ whitener)
    fields = np.stack([from_coefficients(c, height, width) for c in (whitener @ vectors).T])
    largest = np.take_along_axis(
        fields.reshape(len(fields), -1), np.abs(fields).reshape(len(fields), -1).argmax(axis=1)[:, None], axis=1
    )
    fields *= np.sign(largest)[:, :, None]
    return Directions(values, fields, float(values.mean()))


def eigenvalues(grams: Array, height: int, width: int) -> Array:
    """Return the eigenvalues of `directions` of many Gram matrices (B, 6, 6): (B, r), ascending."""
    whitener = _whitener(height, width)
    symmetric = (grams + np.moveaxis(grams, 1, 2)) / 2
    return np.asarray(np.linalg.eigvalsh(whitener.T @ symmetric @ whitener))


def _whitener(height: int, width: int) -> Array:
    """Return W (6, r) with Wᵀ D W = 1, of full rank where every field moves pixels."""
    sizes, axes = np.linalg.eigh(displacement_matrix(height, width))
    moving = sizes > 1e-12 * sizes[-1]  # a row or column of pixels does not feel every field
    return np.asarray(axes[:, moving] / np.sqrt(sizes[moving]))


def check_field(name: str, values: Sequence[Sequence[float]]) -> Array:
    """Return a user's field as (2, 3). Raises `SpecError` unless it is [[a, b, c], [d, e, f]], finite and not zero."""
    try:
        field = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        field = np.empty(0)
    if field.shape != (2, 3) or not np.all(np.isfinite(field)) or not np.any(field):
        raise SpecError(
            f"generator {name!r}: {values!r} is not [[a, b, c], [d, e, f]] of finite numbers that are not all 0",
            reason="INVALID_SPEC",
            subject="generators",
            hint="v = (a x + b y + c, d x + e y + f), in pixels from the image's centre per unit of t",
        )
    return field
