"""What every derivative method gives: values and directional derivatives of the raw outputs z(x)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
FurtherRows = Mapping[str, npt.NDArray[Any]]
"""Values (n, …) of a model's further inputs for n images, by name; mostly there are none."""

Columns = int | npt.NDArray[np.intp]
"""Numbers (D,) of calibrated directions, or the first of consecutive ones."""

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
        Estimates of the error of `tangent` along the first J directions, each shape (n, J, *K): two computations of the
        same derivative subtracted. They are pushed through the head's differential like the tangent itself; the norm of
        the result, times `coverage`, is the error bar.
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

    def first(self, count: int) -> Derivatives:
        """Return those along the first so many directions."""
        return replace(self, tangent=self.tangent[:, :count], spreads=tuple(s[:, :count] for s in self.spreads))


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
        self,
        images: Float32Array,
        directions: Float32Array,
        columns: Columns = 0,
        further: FurtherRows = NOTHING,
        *,
        judged: int | None = None,
    ) -> Derivatives:
        """Differentiate at ``images`` (n, C, H, W) along ``directions`` (n, D, C, H, W).

        ``columns`` say which of the directions that it was calibrated for each of them is, if it is such a method:
        their numbers (D,), or the first of consecutive ones. ``further`` holds the values of the model's other inputs,
        which the symmetry does not move. Errors are estimated along the first ``judged`` directions; None: along all.
        """
        ...
