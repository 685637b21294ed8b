"""Quantiles of per-image values, as the report names them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lieaudit.statistics.bootstrap import check_samples

LEVELS = (0.05, 0.25, 0.75, 0.95, 0.99)


def quantiles(samples: npt.ArrayLike) -> dict[str, float]:
    """Return the quantiles of per-image values (n,) at `LEVELS`, linearly interpolated, and the maximum.

    Keys are ``p05`` … ``p99`` and ``max``.

    Raises
    ------
    DataError
        No samples, or values that are not finite.
    """
    values = check_samples(samples, "median", least=1)
    found = {f"p{round(100 * level):02d}": float(np.quantile(values, level)) for level in LEVELS}
    return {**found, "max": float(np.max(values))}


TOP = 0.01
"""Share of the images that `top_share` looks at."""


def top_share(samples: npt.ArrayLike) -> float | None:
    """Return the share of the sum of per-image values (n,) that the largest 1 % of them hold, at least one value.

    0.01 where all are equal (1/n with fewer than 100 images), near 1 where one image decides the mean; None where all
    are 0.

    Raises
    ------
    DataError
        No samples, or values that are not finite.
    """
    values = np.sort(np.abs(check_samples(samples, "median", least=1)))[::-1]
    if values[0] == 0:
        return None
    values = values / values[0]  # sums neither overflow nor vanish
    return float(values[: math.ceil(TOP * len(values))].sum() / values.sum())
