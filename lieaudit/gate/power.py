"""How many images would decide a rule that these images do not decide."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from lieaudit.gate.measure import Measured

POWER = 0.8
"""Probability with which the stated number of images decides, the effect being as large as measured."""

_MOST = 2**31 - 1


def images_needed(measured: Measured, limit: float, tail: float, tests: int, power: float = POWER) -> int | None:
    """Return the number of images that decides with probability ``power``, or None where none does.

    The standard error of the statistic shrinks as 1/√n; the numerical error does not. With d the distance of the
    value from the limit less the numerical error, and s the standard error on n images, the normal approximation
    needs n·((z_{1−α} + z_power)·s/d)² images, where α is ``tail``, shared between ``tests`` rules where the value lies
    above the limit (Bonferroni: what Holm asks of the smallest p-value).

    Parameters
    ----------
    measured
        The rule's number with its draws.
    limit
        On the value's scale.
    tail
        One-sided level.
    tests
        How many rules were tested together.
    """
    if measured.draws is None or measured.value <= 0:
        return None
    value = math.log(measured.value) if measured.log else measured.value
    bound = measured.limit(limit)
    above = value > bound
    distance = abs(value - bound) - (measured.down if above else measured.up)
    # A quantile range instead of the standard deviation: draws of a ratio may be infinite.
    low, high = np.quantile(measured.draws, [0.1587, 0.8413], method="inverted_cdf")
    error = float(high - low) / 2
    if not (math.isfinite(error) and math.isfinite(distance)) or distance <= 0:
        return None
    needed = sample_size(error * math.sqrt(measured.images), distance, tail / (tests if above else 1), power)
    return max(needed, measured.images) if needed <= _MOST else None


def sample_size(deviation: float, distance: float, tail: float, power: float = POWER) -> int:
    """Return the images n for which an effect ``distance`` beyond the limit is found with probability ``power``.

    ``deviation`` is the standard deviation of one image's contribution (the standard error times √n), on the same
    scale; ``tail`` the one-sided level: n = ((z_{1−tail} + z_power)·deviation / distance)² + z²_{1−tail} / 2, where the
    last term is Guenther's (1981) for a spread that is estimated from the same images.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - tail)
    return math.ceil(((z + normal.inv_cdf(power)) * deviation / distance) ** 2 + z**2 / 2)
