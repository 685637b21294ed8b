"""What was measured of all images, ready to be judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lieaudit.derivatives.base import Float64Array
    from lieaudit.symmetries.plan import Plan

WIDE = 0.2
"""An error bar above this share of the value makes a result inconclusive."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All images' numbers.

    Attributes
    ----------
    lee, lee_error, mean_abs
        (N, G), see `PerImage`.
    power
        (N,) ‖F‖²/K, the size of the audited output itself.
    other
        (N, G) ‖DF[r]‖²/K along the directions of `relative`, mean over the partners; NaN for images it was not measured
        on.
    log_relative
        (N, G) mean over the partners of log(‖L F‖² / ‖DF[r]‖²), see `log_ratio`; NaN where that says nothing.
    top1
        (N,) the largest output's index; −1 for outputs that are no class scores.
    answers, other_answers
        (N, G) whether any derivative of the raw outputs is not exactly 0, along a direction that the generator is
        combined from, and along its direction of `relative`.
    moves
        (N, G) whether the image has a tangent along the generator at all.
    digest
        (N,) a checksum of the raw outputs: equal for equal outputs.
    gram
        (N, M, M) ⟨L_i F, L_j F⟩/K of the measured directions; M = 0 where nothing is combined.
    bars
        (N, M) bounds on the errors of ‖L_m F‖/√K.
    combined_from
        The directions that each generator was combined from; none where it was measured itself.
    weight, inner, square
        Of a part of an output (`lieaudit.parts`): (N,) what each image weighs, and (N, G) Σ w⟨DF[X x], X' F⟩ and
        Σ w‖X' F‖²; None of outputs without parts, whose images weigh the same.
    """

    lee: Float64Array
    lee_error: Float64Array
    mean_abs: Float64Array
    other: Float64Array
    log_relative: Float64Array
    power: Float64Array
    top1: npt.NDArray[np.int64]
    answers: npt.NDArray[np.bool_]
    other_answers: npt.NDArray[np.bool_]
    moves: npt.NDArray[np.bool_]
    digest: npt.NDArray[np.int64]
    gram: Float64Array
    bars: Float64Array
    combined_from: tuple[tuple[str, ...], ...] = ()
    weight: Float64Array | None = None
    inner: Float64Array | None = None
    square: Float64Array | None = None

    @property
    def shares(self) -> Float64Array:
        """(N,) of each image in means over images: 1/N, or by weight. All 0 where nothing has weight."""
        if self.weight is None:
            return np.full(len(self.lee), 1.0 / len(self.lee))
        return np.asarray(self.weight / (self.weight.sum() or 1.0))

    @property
    def means(self) -> Float64Array:
        """(G,) LEE."""
        return self.lee.mean(axis=0) if self.weight is None else np.asarray(self.shares @ self.lee)

    @property
    def error_bars(self) -> Float64Array:
        """(G,) bounds of the errors of the mean LEE: the images' errors are independent, so they add in squares."""
        if self.weight is None:
            return np.asarray(np.sqrt(np.sum(self.lee_error**2, axis=0)) / len(self.lee_error))
        return np.asarray(np.sqrt(np.sum((self.shares[:, None] * self.lee_error) ** 2, axis=0)))

    def wide(self, plan: Plan) -> list[int]:
        """Return the generators that were combined, and whose error bar is wide beside the value."""
        pairs = enumerate(zip(self.error_bars, self.means, strict=True))
        return [g for g, (bar, mean) in pairs if plan.combined_from[g] and bar > WIDE * mean]

    def with_direct(self, columns: Sequence[int], direct: Measured) -> Measured:
        """Put generators that were measured themselves in the place of what was combined."""
        changed: dict[str, Any] = {}
        for name in _BY_GENERATOR if self.inner is None else (*_BY_GENERATOR, "inner", "square"):
            changed[name] = getattr(self, name).copy()
            changed[name][:, columns] = getattr(direct, name)
        sources = tuple(() if g in columns else own for g, own in enumerate(self.combined_from))
        return replace(self, **changed, combined_from=sources)


_BY_GENERATOR = ("lee", "lee_error", "mean_abs", "other", "log_relative", "answers", "other_answers", "moves")
