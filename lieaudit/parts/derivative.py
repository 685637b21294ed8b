"""L F = DF[X x] − X' F of one part, with its numerical error, and what is kept of every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lieaudit.derivatives.rounding import last_rounding
from lieaudit.parts.placing import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lieaudit.derivatives.base import Derivatives
    from lieaudit.parts.binding import Reading


@dataclass(frozen=True, slots=True)
class PartDerivative:
    """One part's derivative along D fields, for n images.

    Attributes
    ----------
    value
        L F, (n, D, P, c), in the part's own unit per unit of t.
    answer
        DF[X x], (n, D, P, c).
    motion
        X' F, (n, D, P, c).
    error
        (n, D) bound on the norm of L F's numerical error, weighted: √Σ w‖error‖² / Σ w.
    weights
        (n, P).
    power
        (n,) Σ w‖F‖² / Σ w of the part itself.
    items
        (n, P, c) the values of the items.
    """

    value: Array
    answer: Array
    motion: Array
    error: Array
    weights: Array
    power: Array
    items: Array


def item_shares(weights: Array) -> Array:
    """Return the shares (n, P) of weights (n, P) in each image's sum; 0 where an image has none."""
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1.0))


@dataclass(frozen=True, slots=True)
class PartRows:
    """What is kept of every image of one part, per direction; arrays (n, D), ``weight`` and ``power`` (n,).

    ``lee`` is Σ w‖L‖² / Σ w over the image's items (0 where Σ w is 0: such an image counts for nothing), ``weight`` is
    Σ w over the number of items, ``inner`` and ``square`` are Σ w⟨DF[X x], X' F⟩ and Σ w‖X' F‖² over the same number:
    their sums over images make `follow`.
    """

    lee: Array
    lee_error: Array
    mean_abs: Array
    inner: Array
    square: Array
    weight: Array
    power: Array

    BY_DIRECTION: ClassVar[tuple[str, ...]] = ("lee", "lee_error", "mean_abs", "inner", "square")

    @classmethod
    def of(cls, derivative: PartDerivative) -> PartRows:
        """Reduce the derivative of one part to numbers per image."""
        weights, value = derivative.weights, derivative.value
        count = weights.shape[1]
        share = item_shares(weights)[:, None]
        lee = np.sum(share * np.sum(value**2, axis=3), axis=2)
        error = (2.0 * np.sqrt(lee) + derivative.error) * derivative.error
        wide = weights[:, None, :, None] / count
        return cls(
            lee=lee,
            lee_error=error,
            mean_abs=np.sum(share * np.linalg.norm(value, axis=3), axis=2),
            inner=np.sum(wide * derivative.answer * derivative.motion, axis=(2, 3)),
            square=np.sum(wide * derivative.motion**2, axis=(2, 3)),
            weight=weights.mean(axis=1),
            power=derivative.power,
        )


def part_derivative(
    derivatives: Derivatives, reading: Reading, fields: Sequence[Array | None] | None
) -> PartDerivative:
    """Return the derivative of one part.

    Parameters
    ----------
    derivatives
        Of the raw vectors: values (n, K), tangents (n, D, K).
    reading
        The part.
    fields
        The field (2, 3) of each direction, in pixels of the image per unit of t; None for one that moves no pixel. None
        for all where the directions are no generators'.
    """
    kind = reading.representation
    z, dz = derivatives.value, derivatives.tangent
    raw, draw = reading.raw(z), reading.raw(dz)
    value, answer = kind.value(raw), kind.differential(raw, draw)
    motion = np.zeros_like(answer)
    moving = [(d, field) for d, field in enumerate(fields or ()) if field is not None]
    for d, field in moving:
        motion[:, d] = kind.motion(value, field)
    weights = reading.weights(z)
    share = item_shares(weights)

    def squares(rows: Array) -> Array:
        return np.asarray(np.sum(share[:, None] * np.sum(rows**2, axis=3), axis=2))

    variance = np.zeros(dz.shape[:2])
    for spread in derivatives.spreads:
        variance += squares(kind.differential(raw, reading.raw(spread)))
    for error in (*derivatives.value_spreads, last_rounding(z)):
        # what an error of the values moves: the differential, where it bends, and X' F
        beside = raw + reading.raw(error)
        shift = kind.differential(beside, draw) - answer
        moved = kind.value(beside)
        for d, field in moving:
            shift[:, d] -= kind.motion(moved, field) - motion[:, d]
        variance += squares(shift)
    return PartDerivative(
        value=answer - motion,
        answer=answer,
        motion=motion,
        error=np.asarray(derivatives.coverage * np.sqrt(variance)),
        weights=weights,
        power=np.sum(share * np.sum(value**2, axis=2), axis=1),
        items=value,
    )
