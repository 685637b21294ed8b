"""Quantiles of per-image values, as the report names them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lieaudit.statistics.bootstrap import check_samples

LEVELS = (0.05, 0.25, 0.75, 0.95, 0.99)


def quantiles(samples: npt.ArrayLike) -> dict[str, float]:
    """Give the quantiles of per-image values (n,) at `LEVELS`, linearly interpolated, and the maximum.

    Keys are ``p05`` … ``p99`` and ``max``.

    Raises
    ------
    DataError
        No samples, or values that are not finite.
    """
    values = check_samples(samples, "median", least=1)
    found = {f"p{round(100 * level):02d}": float(np.quantile(values, level)) for level in LEVELS}
    return {**found, "max": float(np.max(values))}
