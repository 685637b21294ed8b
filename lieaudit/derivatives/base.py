"""What every derivative method gives: values and directional derivatives of the raw outputs z(x)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
FurtherRows = Mapping[str, npt.NDArray[Any]]
"""Values (n, …) of a model's further inputs for n images, by name; mostly there are none."""

NOTHING: FurtherRows = {}


def rows_of(further: FurtherRows, rows: slice | Sequence[int] | npt.NDArray[np.intp]) -> FurtherRows:
    """Return the values of some of the images."""
    return {name: values[rows] for name, values in further.items()}


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Raw outputs and their derivatives along D directions, for n images.

    Attributes
    ----------
    value
        z(x), float32 or float64, shape (n, *K).
    tangent
        Dz(x)[v_d], shape (n, D, *K).
    spreads
        Estimates of the error of `tangent`, each shape (n, D, *K): two computations of the same derivative
        subtracted. They are pushed through the head's differential like the tangent itself; the norm of the result,
        times `coverage`, is the error bar.
    coverage
        Factor that makes the norm of the spreads cover the true error on at least 95 % of images.
    value_spreads
        Estimates of the error of `value`, each shape (n, *K): behind a head that bends they are errors of its
        differential too.
    """

    value: Float32Array | Float64Array
    tangent: Float64Array
    spreads: tuple[Float64Array, ...]
    coverage: float
    value_spreads: tuple[Float64Array, ...] = ()


class Differentiator(Protocol):
    """A derivative method bound to one model.

    ``rows(D)`` says how many session rows one image with D directions costs: what batching divides the budget by.
    """

    method: str

    @property
    def fallback_ops(self) -> Mapping[str, int]:
        """Ops that ran elsewhere than on the provider asked for, and how many."""
        ...

    @property
    def rows_done(self) -> int:
        """Rows that went through the session so far."""
        ...

    def __call__(
        self, images: Float32Array, directions: Float32Array, first: int = 0, further: FurtherRows = NOTHING
    ) -> Derivatives:
        """Differentiate at ``images`` (n, C, H, W) along ``directions`` (n, D, C, H, W).

        The directions belong to the generators ``first`` … ``first + D − 1`` of the audit: a method that was
        calibrated per generator needs to know. ``further`` holds the values of the model's other inputs, which the
        symmetry does not move.
        """
        ...
