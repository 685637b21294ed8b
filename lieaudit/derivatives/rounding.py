"""Rounding errors of known size as error bars: what methods that are exact but for rounding share."""

from __future__ import annotations

import numpy as np

from lieaudit.derivatives.base import Float32Array, Float64Array

COVERAGE = 4.0
"""Ratio of the error bar to the root mean square of redrawn rounding errors."""

_PATTERNS = 4
"""Random directions an error of known norm is spread over. A head may look at one direction only (two classes of a
confident image); with four, 98 % of such errors lie within `COVERAGE` (Student's t with 4 degrees of freedom)."""


def patterns(norms: Float64Array, shape: tuple[int, ...]) -> tuple[Float64Array, ...]:
    """Spread errors of given norms evenly over random directions of the outputs.

    Parameters
    ----------
    norms
        One norm per image, (n,), or per image and direction, (n, D).
    shape
        Of the errors: (n, *K) or (n, D, *K).

    Returns
    -------
    A few arrays of ``shape``, the sum of whose squares has these norms.
    """
    random = np.random.default_rng(0)
    found = []
    for _ in range(_PATTERNS):
        pattern = random.standard_normal(shape)
        size = np.linalg.norm(pattern.reshape(*norms.shape, -1), axis=-1)
        scale = norms / (size * np.sqrt(_PATTERNS))
        found.append(pattern * scale.reshape(*norms.shape, *[1] * (len(shape) - norms.ndim)))
    return tuple(found)


def last_rounding(value: Float32Array | Float64Array) -> Float64Array:
    """Draw the last rounding of values (n, *K), to the precision they come in: uniform within half a unit."""
    draws = np.random.default_rng(0).uniform(-0.5, 0.5, value.shape)
    return np.asarray(draws * np.spacing(np.abs(value)).astype(np.float64))
