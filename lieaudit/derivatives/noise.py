"""The noise level of a computed function (Moré & Wild, *Estimating computational noise*, SIAM J. Sci. Comput. 2011).

Rounding makes f(x) jitter when x moves by tiny equal steps. In the table of k-th differences of m + 1 such values a
smooth f dies out like h^k while noise of standard deviation σ stays: E (Δ^k f)² = σ² (2k)! / (k!)² (Theorem 2.1).
"""

from __future__ import annotations

import math

import numpy as np

from lieaudit.derivatives.base import Float64Array

EVALUATIONS = 8
"""Values along the line; Moré & Wild find 7 to 9 enough."""

_LEVELS = range(2, 6)


def noise_level(values: Float64Array) -> Float64Array:
    """Estimate σ of every output component from values at equally spaced points.

    Parameters
    ----------
    values
        (EVALUATIONS, ...), float64 values f(x + i·h·v), i = 0 … EVALUATIONS − 1, with h at the scale of rounding.

    Returns
    -------
    array
        σ, shape ``values.shape[1:]``: the smallest estimate over the difference levels 2 … 5, since remaining
        smooth variation only raises an estimate and dies out with the level.
    """
    estimates = []
    for k in _LEVELS:
        differences = np.diff(values, n=k, axis=0)
        gamma = math.factorial(k) ** 2 / math.factorial(2 * k)
        estimates.append(gamma * np.mean(differences**2, axis=0))
    return np.asarray(np.sqrt(np.min(estimates, axis=0)))
