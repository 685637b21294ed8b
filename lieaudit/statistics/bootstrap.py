"""Bootstrap confidence intervals over images for heavy-tailed per-image values.

Everything goes through *confidence draws*: numbers whose α-quantile is the upper end of a one-sided interval of
confidence α. A two-sided interval is a pair of their quantiles, a one-sided p-value the share of them beyond a limit.

* ``mean``: bootstrap-t (Efron & Tibshirani 1993, section 12.5). Where few images carry the mean, percentile and BCa
  intervals are too short at the top: tests/statistics measures the coverage of all three. So is bootstrap-t, as no
  resample shows the rare image that was not drawn. Of values that cannot be negative the upper end therefore counts one
  further image, `_UNSEEN` times as far from the mean as the largest seen.
* ``geometric_mean``: bootstrap-t of the mean of logarithms.
* ``median``: percentile, drawn exactly (the median of a resample is an order statistic whose rank has a closed form).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lieaudit.errors import DataError, SpecError

Array = npt.NDArray[np.float64]

STATISTICS = ("mean", "median", "geometric_mean")

# Resampled indices held at once: 32 MiB of int64.
_BLOCK = 1 << 22
# A resample that holds none of the few images which carry the mean has next to no spread of its own, and dividing by
# it would put the upper bound at 10^6 means. The floor, a share of the sample's own standard error, bounds it by
# 1 + 1/0.1 = 11 means, twice what one image seen once would allow (the exact Poisson bound of 5.6).
_SPREAD_FLOOR = 0.1
# How far from the mean the next image beyond the largest may lie, in distances of the largest: the median excess of a
# Pareto tail of index 1.7 (2^(1/1.7)), about that of the per-image LEE of trained classifiers (bench/intervals.py). It
# counts in full where the largest image carries a fifth of the spread, which in a sample without a tail none does.
_UNSEEN = 1.5
_TAIL = 0.2
_UNSEEN_FLOOR = 0.05


def point_estimate(samples: npt.ArrayLike, statistic: str) -> Array:
    """Return the statistic over images: float64 () of samples (n,), or (G,) of samples (n, G).

    Raises
    ------
    DataError
        No samples, values that are not finite, or a geometric mean of values that are not positive.
    SpecError
        Unknown statistic.
    """
    values = check_samples(samples, statistic, least=1)
    if statistic == "median":
        return np.asarray(np.median(values, axis=0))
    if statistic == "geometric_mean":
        return np.asarray(np.exp(np.mean(np.log(values), axis=0)))
    return np.asarray(np.mean(values, axis=0))


def confidence_draws(samples: npt.ArrayLike, *, statistic: str = "mean", resamples: int = 2000, seed: int = 0) -> Array:
    """Draw from the bootstrap confidence distribution of a statistic over images.

    Parameters
    ----------
    samples
        Per-image values (n,) or, for G generators, (n, G).
    statistic
        ``mean``, ``median`` or ``geometric_mean``.
    resamples
        B, the number of resamples; all generators share them.
    seed
        Of the resampling.

    Returns
    -------
    array
        float64 (B,) or (B, G), unsorted.

    Raises
    ------
    DataError
        Fewer than two samples (one image has no sampling error to estimate), values that are not finite, or a
        geometric mean of values that are not positive.
    SpecError
        Unknown statistic.
    """
    values = check_samples(samples, statistic, least=2)
    rng = np.random.default_rng(seed)
    columns = values.reshape(len(values), -1)
    if statistic == "median":
        draws = _median_draws(columns, resamples, rng)
    elif statistic == "geometric_mean":
        draws = np.exp(_studentised_draws(np.log(columns), resamples, rng))
    else:
        draws = _studentised_draws(columns, resamples, rng)
        positive = np.all(columns >= 0, axis=0) & np.any(columns != columns[0], axis=0)
        if positive.any():
            draws[:, positive] = _with_unseen(draws[:, positive], columns[:, positive], rng)
    return draws.reshape(resamples, *values.shape[1:])


def bootstrap_interval(
    samples: npt.ArrayLike,
    *,
    statistic: str = "mean",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Array:
    """Return the two-sided bootstrap interval of a statistic over images.

    Parameters as of `confidence_draws`, whose errors it raises; ``confidence`` in (0, 1).

    Returns
    -------
    array
        float64 (2,) or (2, G): lower and upper end. The point estimate always lies inside.
    """
    draws = confidence_draws(samples, statistic=statistic, resamples=resamples, seed=seed)
    estimate = point_estimate(samples, statistic)
    low, high = interval_of(draws, confidence)
    return np.stack([np.minimum(low, estimate), np.maximum(high, estimate)])


def interval_of(draws: Array, confidence: float) -> Array:
    """Return the two-sided interval (2, ...) of confidence draws (B, ...). Infinite draws give infinite ends."""
    if not 0 < confidence < 1:
        raise SpecError(f"confidence: {confidence} is not between 0 and 1", reason="INVALID_SPEC", subject="confidence")
    tail = (1 - confidence) / 2
    # order statistics rather than interpolation: ∞ − ∞ is not a number
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0, method="inverted_cdf"), dtype=np.float64)


def check_samples(samples: npt.ArrayLike, statistic: str, *, least: int) -> Array:
    """Return the samples as float64 (n,) or (n, G); `DataError` or `SpecError` where they do not fit the statistic."""
    if statistic not in STATISTICS:
        raise SpecError(
            f"statistic: {statistic!r} is not one of {', '.join(STATISTICS)}",
            reason="INVALID_SPEC",
            subject="statistic",
        )
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim not in {1, 2}:
        raise DataError(
            f"samples have shape {values.shape}, not (n,) or (n, G)", reason="INVALID_SAMPLES", subject="samples"
        )
    if len(values) < least:
        raise DataError(
            f"{len(values)} images are too few: at least {least} are needed",
            reason="TOO_FEW_IMAGES",
            subject="images",
            hint="use more images",
        )
    if not np.all(np.isfinite(values)):
        raise DataError("per-image values are not finite", reason="INVALID_SAMPLES", subject="samples")
    if statistic == "geometric_mean" and not np.all(values > 0):
        raise DataError(
            "the geometric mean of per-image values needs all of them positive; some are zero or negative",
            reason="NOT_POSITIVE",
            subject="samples",
            hint="use the mean or the median",
        )
    return values


def resample_counts(n: int, resamples: int, rng: np.random.Generator) -> Array:
    """Draw how often each of n images is in each resample: float64 (resamples, n), rows summing to n."""
    index = rng.integers(0, n, (resamples, n))
    index += np.arange(resamples)[:, None] * n
    return np.bincount(index.reshape(-1), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def blocks(n: int, resamples: int) -> list[int]:
    """Cut the resamples into blocks that fit the memory bound: their sizes."""
    size = max(1, _BLOCK // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _with_unseen(draws: Array, columns: Array, rng: np.random.Generator) -> Array:
    """Raise the upper half of a mean's draws (B, G) to those of the values with one further image, not seen so far.

    In the order of ``draws``: theirs is random, and draws of two data sets are subtracted one by one. A mean of values
    that cannot be negative is not negative.
    """
    scale = columns.max(axis=0)
    mean = np.mean(columns / scale, axis=0)
    spread = np.sum((columns / scale - mean) ** 2, axis=0)
    tail = np.minimum(1.0, (1.0 - mean) ** 2 / spread / _TAIL)
    unseen = (mean + _UNSEEN * tail * (1.0 - mean)) * scale
    further = np.concatenate([columns, unseen[None]])
    raised = np.sort(_studentised_draws(further, len(draws), rng), axis=0)
    rank = np.argsort(np.argsort(draws, axis=0, kind="stable"), axis=0)
    above = np.maximum(draws, np.take_along_axis(raised, rank, axis=0))
    return np.maximum(np.where(2 * rank < len(draws), draws, above), 0.0)


def _studentised_draws(columns: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Return t − T*·s for every resample: t the mean, s its standard error, T* = (t* − t) / s*."""
    n = len(columns)
    scale = np.max(np.abs(columns), axis=0)
    scale[scale == 0] = 1.0
    mean = np.mean(columns / scale, axis=0)
    # centred, so that the variance of nearly constant values does not cancel
    centred = columns / scale - mean
    spread = np.sqrt(np.mean(centred**2, axis=0) / n)
    draws = np.empty((resamples, columns.shape[1]))
    start = 0
    for size in blocks(n, resamples):
        counts = resample_counts(n, size, rng)
        shift = counts @ centred / n
        variance = np.maximum(counts @ centred**2 / n - shift**2, 0.0) / n
        pivot_scale = np.maximum(np.sqrt(variance), _SPREAD_FLOOR * spread)
        with np.errstate(invalid="ignore"):
            pivot = np.where(spread > 0, shift / pivot_scale, 0.0)
        draws[start : start + size] = (mean - pivot * spread) * scale
        start += size
    return draws


def _median_draws(columns: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Draw medians of resamples.

    The k-th smallest of n drawn images has rank ⌊n·U_(k)⌋, U_(k) ~ Beta(k, n+1−k) the k-th of n uniforms; given it,
    the rest above are uniform again.
    """
    n = len(columns)
    ordered = np.sort(columns, axis=0)
    k = (n + 1) // 2
    lower = rng.beta(k, n + 1 - k, resamples)
    upper = lower
    if n % 2 == 0:
        upper = 1 - (1 - lower) * rng.random(resamples) ** (1 / (n - k))
    ranks = (np.minimum((n * u).astype(np.intp), n - 1) for u in (lower, upper))
    first, second = (ordered[rank] for rank in ranks)
    return first + (second - first) / 2
