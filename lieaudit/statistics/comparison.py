"""Paired comparison of two models on the same images: ratio, interval, non-inferiority, Holm's adjustment.

The interval of the ratio is a bootstrap of its logarithm over images, both models resampled together. For means the
resampled log ratios are spread like Student's t around the measured one, with as many degrees of freedom as the
images that carry the ratio give (Satterthwaite): where a few images carry it, a resample's spread is itself uncertain,
and plain percentiles leave out the truth nearly twice as often as they say. tests/statistics measures the coverage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lieaudit.errors import DataError
from lieaudit.statistics.bootstrap import (
    Array,
    blocks,
    check_samples,
    interval_of,
    point_estimate,
    resample_counts,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate against baseline.

    Attributes
    ----------
    statistic
        ``mean``, ``median`` or ``geometric_mean`` over images.
    candidate, baseline
        The statistic of each.
    ratio
        candidate / baseline; None where the baseline is 0.
    interval
        Two-sided interval of the ratio at `confidence`; None where an end is not finite (too many resamples of the
        baseline are 0).
    confidence
        Of the interval.
    log_ratios
        Logarithms of the resampled ratios (B,); −∞ and ∞ where one of the two is 0, 0 where both are.
    """

    statistic: str
    candidate: float
    baseline: float
    ratio: float | None
    interval: tuple[float, float] | None
    confidence: float
    log_ratios: Array = field(repr=False, compare=False)

    def p_non_inferior(self, margin: float) -> float:
        """Return the one-sided p-value of "candidate ≥ baseline·(1 + margin)": small shows that it is below."""
        return p_at_least(self.log_ratios, np.log1p(margin))

    def p_inferior(self, margin: float) -> float:
        """Return the one-sided p-value of "candidate ≤ baseline·(1 + margin)": small shows a regression."""
        return p_at_most(self.log_ratios, np.log1p(margin))


def compare(
    candidate: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    statistic: str = "mean",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare per-image values of two models, image by image.

    Parameters
    ----------
    candidate, baseline
        Non-negative per-image values (n,), of the same images in the same order.
    statistic
        What is compared: ``mean``, ``median`` or ``geometric_mean`` over images.
    confidence
        Of the two-sided interval.
    resamples, seed
        Number of bootstrap resamples and their seed.

    Raises
    ------
    DataError
        Different lengths, fewer than two images, values that are not finite or are negative, or a geometric mean of
        zeros.
    SpecError
        Unknown statistic or a confidence outside (0, 1).
    """
    first, second = (check_samples(v, statistic, least=2) for v in (candidate, baseline))
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(
            f"candidate {first.shape} and baseline {second.shape} are not values of the same images",
            reason="NOT_PAIRED",
            subject="images",
            hint="audit both models on the same images",
        )
    if min(first.min(), second.min()) < 0:
        raise DataError("per-image values are negative", reason="INVALID_SAMPLES", subject="samples")
    log_ratios = _log_ratios(first, second, statistic, resamples, np.random.default_rng(seed))
    value, reference = (float(point_estimate(v, statistic)) for v in (first, second))
    with np.errstate(over="ignore"):
        low, high = np.exp(interval_of(log_ratios, confidence))
    return Comparison(
        statistic=statistic,
        candidate=value,
        baseline=reference,
        ratio=value / reference if reference > 0 else None,
        interval=(float(low), float(high)) if np.isfinite(high) else None,
        confidence=confidence,
        log_ratios=log_ratios,
    )


def p_at_least(draws: Array, limit: float) -> float:
    """Return the one-sided p-value of "the statistic is at least ``limit``" from confidence draws (B,).

    (1 + #{draws ≥ limit}) / (B + 1): never 0, as B draws cannot show less than 1 / (B + 1).
    """
    return float((1 + np.count_nonzero(draws >= limit)) / (1 + len(draws)))


def p_at_most(draws: Array, limit: float) -> float:
    """Return the one-sided p-value of "the statistic is at most ``limit``" from confidence draws (B,)."""
    return float((1 + np.count_nonzero(draws <= limit)) / (1 + len(draws)))


def holm(p_values: npt.ArrayLike) -> Array:
    """Adjust p-values for multiplicity (Holm 1979): rejecting those ≤ α keeps the family-wise error rate ≤ α.

    Parameters
    ----------
    p_values
        (m,), each in [0, 1].

    Returns
    -------
    array
        float64 (m,), in the order given: the running maximum of (m − rank)·p over ascending p, at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise DataError("p-values are not numbers in [0, 1]", reason="INVALID_SAMPLES", subject="p_values")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1.0)
    return adjusted


def _log_ratios(candidate: Array, baseline: Array, statistic: str, resamples: int, rng: np.random.Generator) -> Array:
    n = len(candidate)
    if statistic == "geometric_mean":
        influence = np.log(candidate) - np.log(baseline)
        parts = [resample_counts(n, size, rng) @ influence / n for size in blocks(n, resamples)]
        centre = float(np.mean(influence))
        return _student(np.concatenate(parts), centre, influence - centre, rng)
    if statistic == "median":
        parts = []
        for size in blocks(n, resamples):
            index = rng.integers(0, n, (size, n))
            parts.append(_log_ratio(*(np.median(v[index], axis=1) for v in (candidate, baseline))))
        return np.concatenate(parts)
    # divided by the largest, so that squares neither overflow nor vanish
    scale = max(candidate.max(), baseline.max()) or 1.0
    first, second = candidate / scale, baseline / scale
    parts = []
    for size in blocks(n, resamples):
        counts = resample_counts(n, size, rng)
        parts.append(_log_ratio(counts @ first, counts @ second))
    draws = np.concatenate(parts)
    if not (first.any() and second.any()):
        return draws
    centre = float(_log_ratio(np.mean(first), np.mean(second)))
    return _student(draws, centre, first / np.mean(first) - second / np.mean(second), rng)


def _log_ratio(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Return log(first / second): 0 where they are equal, also at 0; ±∞ where one is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(first) - np.log(second)
    return np.where(np.equal(first, second), 0.0, logs)


def _student(draws: Array, centre: float, influence: Array, rng: np.random.Generator) -> Array:
    """Widen draws around ``centre`` from normal-like to t-like tails.

    ``influence`` (n,) is each image's linear effect on the centre. Its effective number m = (Σd²)²/Σd⁴ of images
    (n/3 for normal values) gives the variance 2/ν relative of its squared scale, 2/ν = 1/m − 1/n, hence ν degrees
    of freedom; a normal variable times √(ν/χ²_ν) is Student's t_ν.
    """
    largest = float(np.max(np.abs(influence)))
    if largest == 0:
        return draws
    squares = (influence / largest) ** 2
    relative_variance = float(np.sum(squares**2) / np.sum(squares) ** 2) - 1 / len(influence)
    if relative_variance <= 0:  # all of one magnitude: the scale is certain
        return draws
    freedom = 2 / relative_variance
    return centre + (draws - centre) * np.sqrt(freedom / rng.chisquare(freedom, len(draws)))
