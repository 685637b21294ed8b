"""What one pass over the segments gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    r"""Rows of n images, S segments that have one and G measured directions.

    Attributes
    ----------
    value
        z, float32 (n, *K).
    sources
        Indices of the S segments.
    contributions
        D z of each C_k, before the head: (n, S, G, *K).
    total
        D z[X x] carried through the same sessions, (n, G, *K): what the contributions add up to, the action on the
        output aside. None where it was not carried.
    subnetwork
        ⟨L_i h, L_j h⟩ / dim h at the end of each segment's stage, float64 (n, S, G, G), of the pairs that were asked
        for; NaN where not measured.
    spreads
        Estimates of the error of `contributions`, of their shape; none for a method whose error is rounding.
    coverage
        Factor that makes the norm of `spreads` cover the error.
    """

    value: Float32Array
    sources: tuple[int, ...]
    contributions: Float32Array | Float64Array
    total: Float32Array | None
    subnetwork: Float64Array
    spreads: tuple[Float64Array, ...] = ()
    coverage: float = 1.0
