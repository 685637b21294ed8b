"""The Local Equivariance Error of single images (Gruver et al. 2023, Eq. 4), with its numerical error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.derivatives.rounding import last_rounding
from lieaudit.errors import ModelError
from lieaudit.symmetries import get_generator, tangents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lieaudit.derivatives.base import Derivatives, Float64Array
    from lieaudit.metrics.head import Head
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator


@dataclass(frozen=True, slots=True)
class OutputAction:
    """The symmetry's action on the output: how X' is computed there."""

    interpolation: str
    padding: str
    convention: str

    @classmethod
    def of(cls, spec: AuditSpec) -> OutputAction:
        """Return the action with the conventions of an audit."""
        return cls(spec.interpolation, spec.padding, spec.convention)

    def tangents(self, maps: Float64Array, generators: Sequence[str | Generator]) -> Float64Array:
        """Return X' F for output maps (n, …, H, W): (n, G, …, H, W). Brightness acts on images only: 0 here."""
        flat = maps.reshape(len(maps), -1, *maps.shape[-2:])
        moved = tangents(
            flat, generators, interpolation=self.interpolation, padding=self.padding, convention=self.convention
        ).reshape(len(maps), len(generators), *maps.shape[1:])
        for g, generator in enumerate(generators):
            if not get_generator(generator).spatial:
                moved[:, g] = 0.0
        return np.asarray(moved, np.float64)


@dataclass(frozen=True, slots=True)
class LieDerivative:
    """L F along G generators for n images, in the audited output space.

    Attributes
    ----------
    value
        L F = Dh(z)[dz] − X' F, float64 (n, G, *K).
    error
        (n, G) bound on the norm of its numerical error.
    """

    value: Float64Array
    error: Float64Array

    @classmethod
    def joined(cls, parts: Sequence[LieDerivative]) -> LieDerivative:
        """Join those of the same images along further generators."""
        value, error = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("value", "error"))
        return cls(value, error)


def lie_derivative(
    derivatives: Derivatives, head: Head, generators: Sequence[str | Generator], action: OutputAction | None
) -> LieDerivative:
    """Apply the head's differential and, for dense outputs, subtract the output's own tangent.

    ``action`` is None where the output representation is trivial, or the directions are no generators'.
    """
    value = head.differential(derivatives.value, derivatives.tangent)
    squares = _squared_errors(derivatives, head)
    if head.spatial and action is not None:
        value = value - action.tangents(head.value(derivatives.value), generators)
        # X' takes differences of neighbours, which are as rounded as the values: redrawing one error is enough.
        moved = np.sum(_value_errors(derivatives), axis=0)[:, None]
        error = head.differential(derivatives.value, moved)[:, 0]
        squares += _squares(action.tangents(error, generators))
    return LieDerivative(value, np.asarray(derivatives.coverage * np.sqrt(squares)))


def _squared_errors(derivatives: Derivatives, head: Head) -> Float64Array:
    """Return the squared norms (n, D) of the errors of Dh(z)[dz]: of dz through Dh(z), of z through D²h(z)[·, dz]."""
    squares = np.zeros(derivatives.tangent.shape[:2])
    for spread in derivatives.spreads:
        squares += _squares(head.differential(derivatives.value, spread))
    if head.function != "identity":
        for error in _value_errors(derivatives):
            squares += _squares(head.curvature(derivatives.value, derivatives.tangent, error))
    return squares


def _value_errors(derivatives: Derivatives) -> list[Float64Array]:
    """Return errors of z, each (n, *K): those that were estimated, and the rounding to the precision it came in.

    An estimate from redrawn rounding errors misses the last one where a large offset swallows what was redrawn.
    """
    return [*derivatives.value_spreads, last_rounding(derivatives.value)]


def _squares(rows: Float64Array) -> Float64Array:
    """Return the squared norms (n, D) of rows (n, D, *K)."""
    return np.asarray(np.sum(rows.reshape(*rows.shape[:2], -1) ** 2, axis=2))


@dataclass(frozen=True, slots=True)
class PerImage:
    """What is kept of every image, per generator: arrays (n, G).

    ``lee`` = ‖L F‖²/K, ``lee_error`` the bound on its numerical error, ``mean_abs`` = Σ|L F|/K.
    """

    lee: Float64Array
    lee_error: Float64Array
    mean_abs: Float64Array

    @classmethod
    def of(cls, derivative: LieDerivative) -> PerImage:
        """Reduce L F to numbers per image.

        | ‖v + e‖² − ‖v‖² | ≤ 2 ‖v‖ ‖e‖ + ‖e‖² bounds the error of the square.
        """
        value = derivative.value.reshape(*derivative.value.shape[:2], -1)
        size = value.shape[2]
        squares = np.einsum("ngk,ngk->ng", value, value)
        error = (2.0 * np.sqrt(squares) + derivative.error) * derivative.error
        return cls(squares / size, error / size, np.abs(value).sum(axis=2) / size)

    @classmethod
    def joined(cls, parts: Sequence[PerImage]) -> PerImage:
        """Join those of the same images under further generators."""
        names = ("lee", "lee_error", "mean_abs")
        return cls(*(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names))


def check_finite(values: npt.NDArray[Any], indices: Sequence[int]) -> None:
    """Raise `ModelError` OUTPUT_NOT_FINITE naming the first of these images whose output is NaN or infinite."""
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        image = indices[int(np.argmin(finite))]
        raise ModelError(
            f"the model's output is NaN or infinite on image {image}",
            reason="OUTPUT_NOT_FINITE",
            subject=f"image {image}",
            hint="check the preprocessing, and the model on this image",
        )


DERIVATIVE_NOT_FINITE = "DERIVATIVE_NOT_FINITE"


def check_derivative(per_image: PerImage, generators: Sequence[str], indices: Sequence[int]) -> None:
    """Raise `ModelError` DERIVATIVE_NOT_FINITE naming the first image and generator of numbers (n, G) that are not."""
    finite = np.isfinite(per_image.lee + per_image.lee_error)
    if not finite.all():
        row, g = map(int, np.argwhere(~finite)[0])
        raise ModelError(
            f"the derivative along {generators[g]} is NaN or infinite on image {indices[row]}, unlike the output",
            reason=DERIVATIVE_NOT_FINITE,
            subject=f"image {indices[row]}",
            hint="an op has no derivative there, like a root or a norm of 0; measure with --method finite_difference",
        )
