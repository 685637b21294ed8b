"""Ratios of sums over images, with bootstrap intervals: of numbers that may have either sign."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lieaudit.statistics.bootstrap import Array, blocks, check_samples, resample_counts


def ratio_of_sums(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> tuple[float | None, tuple[float, ...]]:
    """Return Σ a / Σ b over images and its 95 % percentile interval; images are resampled whole.

    Parameters
    ----------
    numerators, denominators
        (n,) of the same images; denominators are not negative.

    Returns
    -------
    None where the denominators are all 0; an empty interval for one image.

    Raises
    ------
    DataError
        No images, or values that are not finite.
    """
    above, below = (check_samples(values, "mean", least=1) for values in (numerators, denominators))
    if below.sum() <= 0:
        return None, ()
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return value, ()
    drawn: list[Array] = []
    random = np.random.default_rng(seed)
    for size in blocks(len(above), resamples):
        counts = resample_counts(len(above), size, random)
        total = counts @ below
        drawn.append((counts @ above)[total > 0] / total[total > 0])
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], method="inverted_cdf")
    return value, (float(low), float(high))
