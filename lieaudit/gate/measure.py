"""The number behind a rule, with both of its uncertainties.

Sampling: bootstrap confidence draws over images (`lieaudit.statistics`), on a log scale for ratios. Numerical: the
per-image error bars, independent between images as in the report's own error bar. In a mean they add in squares;
through the median and the geometric mean they are propagated by seeded draws. A ratio takes the candidate's upper with
the baseline's lower bound, and the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from lieaudit_policy import WORST, Rule

from lieaudit.errors import DataError
from lieaudit.measured import WIDE
from lieaudit.report import GeneratorResult, Report
from lieaudit.statistics import compare, confidence_draws, point_estimate
from lieaudit.verdicts import NEGLIGIBLE, WIDE_AGAINST

Array = npt.NDArray[np.float64]

_PROPAGATED = 64
"""Draws of the numerical errors: their standard deviation is then known within 9 %."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """No number exists for the rule: stable ``reason`` and the clause that explains it."""

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A rule's number.

    Attributes
    ----------
    value
        What the limit applies to.
    draws
        Confidence draws (B,) on the decision's scale (`log`: logarithms); None where the report has a value only.
    down, up
        Numerical error on the decision's scale: the value may be that much lower or higher. Infinite where the error
        bars reach the whole baseline.
    images
        How many it was measured on.
    status, why
        Of the results it stands on: ``inconclusive`` with the reasons, or ``ok``.
    """

    value: float
    log: bool
    draws: Array | None
    down: float
    up: float
    images: int
    candidate_value: float | None = None
    baseline_value: float | None = None
    status: str = "ok"
    why: str = ""
    two_sided: bool = False
    """The draws, of the larger over the smaller, must reach beyond the limit in neither direction."""
    reversed: bool = False
    """The value is that of a gap rule's dataset over that on the data."""

    def limit(self, limit: float) -> float:
        """Return the limit on the decision's scale."""
        if not self.log:
            return limit
        return math.log(limit) if limit > 0 else -math.inf

    def interval(self, tail: float) -> tuple[float, float] | None:
        """Return the interval on the value's scale: ``tail`` beyond either end, widened by the numerical error.

        None where an end is not finite, or no interval of sampling exists and the numerical error is 0.
        """
        low, high = self.bounds(tail)
        if self.log:
            low, high = math.exp(low), math.exp(high) if high < 700 else math.inf
        if not (math.isfinite(low) and math.isfinite(high)) or (self.draws is None and low == high):
            return None
        return low, high

    def bounds(self, tail: float) -> tuple[float, float]:
        """Return the interval on the decision's scale."""
        if self.draws is None:
            return self.value - self.down, self.value + self.up
        ends = np.quantile(self.draws, [tail, 1 - tail], method="inverted_cdf")
        return float(ends[0]) - self.down, float(ends[1]) + self.up

    def numerical_error(self) -> float | None:
        """Return the half width of the numerical error on the value's scale; None where it is unbounded."""
        width = max(self.down, self.up)
        if self.log:
            width = self.value * math.expm1(width) if width < 700 else math.inf
        return width if math.isfinite(width) else None


def measure(
    rule: Rule, generator: str, candidate: Report, other: Report | None, resamples: int, seed: int
) -> Measured | Unmeasured:
    """Measure one rule on one generator; ``other`` is the baseline, or the report of the gap rule's dataset."""
    if rule.kind == "kind_share":
        return _share(rule, generator, candidate)
    if rule.kind == WORST:
        return _worst(candidate, resamples)
    reports = {"candidate": candidate} | ({rule.subject or "baseline": other} if other is not None else {})
    for name, report in reports.items():
        if generator not in report.results:
            why = next((s.why for s in report.skipped if s.what in {generator, f"results.{generator}"}), "")
            said = f"the report of the {name} does not hold {generator}" + (f": {why}" if why else "")
            return Unmeasured("NOT_MEASURED", said)
    status, why = trust(generator, reports)
    try:
        found = _of_results(rule, generator, candidate, other, resamples, seed)
    except DataError as problem:
        found = Unmeasured(problem.reason, f"{problem.message[0].lower()}{problem.message[1:]}")
    if isinstance(found, Measured):
        return replace(found, status=status, why=why)
    return found if status == "ok" else Unmeasured("RESULT_INCONCLUSIVE", f"the measurement is inconclusive ({why})")


def trust(generator: str, reports: Mapping[str, Report]) -> tuple[str, str]:
    """Say whether a decision about ``generator`` may stand on these reports (by their role): status and reasons.

    It may not where the generator's own result is inconclusive, and not where the report as a whole is, for a reason
    that is not about another generator or about the layers alone: a number that was not measured must not pass.
    """
    whys: list[str] = []
    for name, report in reports.items():
        result = report.results.get(generator)
        found: list[str] = []
        if result is not None and result.status != "ok":
            found += result.reasons or ("its error bar is too wide",)
        if report.status != "ok":
            found += _of_the_whole(report)
        whys += [f"{name}: {reason}" if len(reports) > 1 else reason for reason in dict.fromkeys(found)]
    return ("inconclusive", "; ".join(dict.fromkeys(whys))) if whys else ("ok", "")


def _of_the_whole(report: Report) -> list[str]:
    """Return the reasons of an inconclusive report that concern every generator."""
    elsewhere = ("layerwise", *(f"{name}: " for name in report.results))
    general = [reason for reason in report.reasons if not reason.startswith(elsewhere)]
    explained = any(result.status != "ok" for result in report.results.values()) or bool(report.reasons)
    return general if explained else ["the report is inconclusive and does not say why"]


def _of_results(
    rule: Rule, generator: str, candidate: Report, other: Report | None, resamples: int, seed: int
) -> Measured | Unmeasured:
    result = candidate.results[generator]
    if rule.kind == "relative":
        return _relative(result, candidate, resamples)
    if rule.kind == "limit" or other is None:
        return _limit(result, rule, resamples, seed)
    if rule.kind == "gap":
        return _gap(result, other.results[generator], rule, resamples, seed)
    same = candidate.model.sha256 == other.model.sha256
    return _paired(result, other.results[generator], rule.statistic, resamples, seed, same=same)


def _limit(result: GeneratorResult, rule: Rule, resamples: int, seed: int) -> Measured | Unmeasured:
    statistic = rule.statistic
    values, errors = _values(result)
    if rule.subject == "lee_per_px2":
        if result.lee_per_px2 is None:
            return Unmeasured("NOT_MEASURED", "it moves no pixel, so its LEE has no value per px²")
        if result.lee > 0:  # a LEE of 0 is 0 by any measure
            values, errors = (rows * (result.lee_per_px2 / result.lee) for rows in (values, errors))
    value = float(point_estimate(values, statistic))
    low, high = _shifted(values, errors, statistic)
    draws = confidence_draws(values, statistic=statistic, resamples=resamples, seed=seed)
    return _point(value, draws, (value - low, high - value), len(values))


def _paired(
    candidate: GeneratorResult, baseline: GeneratorResult, statistic: str, resamples: int, seed: int, *, same: bool
) -> Measured | Unmeasured:
    values, errors = _values(candidate)
    others, other_errors = _values(baseline)
    comparison = compare(values, others, statistic=statistic, resamples=resamples, seed=seed)
    if same and np.array_equal(values, others):
        # One model, one computation: whatever numerical error there is, it is the same on both sides.
        errors = other_errors = np.zeros_like(values)
    low, high = _shifted(values, errors, statistic)
    other_low, other_high = _shifted(others, other_errors, statistic)
    return _ratio(
        (comparison.candidate, low, high),
        (comparison.baseline, other_low, other_high),
        comparison.log_ratios,
        len(values),
    )


def _gap(here: GeneratorResult, there: GeneratorResult, rule: Rule, resamples: int, seed: int) -> Measured | Unmeasured:
    values, errors = _values(here)
    others, other_errors = _values(there)
    # Two samples of different images: independent draws.
    first = confidence_draws(values, statistic=rule.statistic, resamples=resamples, seed=seed)
    second = confidence_draws(others, statistic=rule.statistic, resamples=resamples, seed=seed + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.log(first) - np.log(second)
    draws = np.where(first == second, 0.0, draws)
    point, other = (float(point_estimate(v, rule.statistic)) for v in (values, others))
    mine = (point, *_shifted(values, errors, rule.statistic))
    theirs = (other, *_shifted(others, other_errors, rule.statistic))
    images = min(len(values), len(others))
    both = rule.direction == "both"
    # of both directions the larger over the smaller: by what factor they differ, whichever is worse
    swapped = other > point if both else rule.direction == "dataset_no_worse"
    found = _ratio(theirs, mine, -draws, images) if swapped else _ratio(mine, theirs, draws, images)
    return replace(found, two_sided=both, reversed=swapped) if isinstance(found, Measured) else found


def _ratio(
    top: tuple[float, float, float],
    bottom: tuple[float, float, float],
    draws: Array,
    images: int,
) -> Measured | Unmeasured:
    """Form the ratio of two (value, low, high) with numerical bounds low ≤ value ≤ high."""
    if top[0] == bottom[0]:
        ratio = 1.0  # also 0/0: where both are exactly 0 neither is worse
    elif bottom[0] <= 0:
        return Unmeasured("BASELINE_ZERO", "the baseline is exactly 0, so no ratio to it exists: set a `limit` rule")
    else:
        ratio = top[0] / bottom[0]
    same = top[0] == top[1] == top[2] == bottom[0] == bottom[1] == bottom[2]
    up = 0.0 if same else _log_quotient(top[2], bottom[1]) - _log(ratio)
    down = 0.0 if same else _log(ratio) - _log_quotient(top[1], bottom[2])
    return Measured(
        ratio,
        log=True,
        draws=draws,
        down=max(0.0, down),
        up=max(0.0, up),
        images=images,
        candidate_value=top[0],
        baseline_value=bottom[0],
    )


def _point(value: float, draws: Array | None, error: tuple[float, float], images: int) -> Measured:
    """Form a number that is no ratio."""
    down, up = error
    return Measured(value, log=False, draws=draws, down=down, up=up, images=images)


def _share(rule: Rule, generator: str, candidate: Report) -> Measured | Unmeasured:
    part = candidate.layerwise.get(generator)
    if part is None:
        return Unmeasured("NOT_MEASURED", f"the report holds no layerwise attribution of {generator}")
    found = next((total for total in part.by_kind if total.kind == rule.subject), None)
    if found is None:
        known = ", ".join(sorted(total.kind for total in part.by_kind)) or "none"
        return Unmeasured("NOT_MEASURED", f"the model has no layer of kind {rule.subject!r} (its kinds: {known})")
    # The parts add up to the whole within `completeness`: no share is known better than that.
    error = part.completeness
    status, why = trust(generator, {"candidate": candidate})
    if part.status != "ok":
        status, why = "inconclusive", "; ".join(filter(None, (*part.reasons, why)))
    share = _point(found.share, None, (error, error), candidate.data.count)
    return replace(share, status=status, why=why)


def _relative(result: GeneratorResult, candidate: Report, resamples: int) -> Measured | Unmeasured:
    """Take the report's ratio and its 95 % interval.

    The report does not hold the ratio per image, so the draws are those of a split normal on the log scale whose 95 %
    interval is the report's: exact at that level, an approximation at others.
    """
    value, interval = result.relative, result.relative_ci95
    if value is None or len(interval) != 2:
        return Unmeasured("NOT_MEASURED", "the report holds no `relative` with an interval")
    images = min(len(result.per_image), int(candidate.spec.get("relative_images", 64)))
    if min(interval[0], value) <= 0:
        return Unmeasured("NOT_MEASURED", "`relative` or an end of its interval is exactly 0")
    draws = _split_normal(value, interval, resamples)
    # Only the numerator's error bar is known; both derivatives come from one method, so it counts twice.
    error = min(2 * result.error_bar / result.lee, 0.99) if result.lee > 0 else 0.0
    down, up = -math.log1p(-error), math.log1p(error)
    return Measured(value, log=True, draws=draws, down=down, up=up, images=images)


def _split_normal(value: float, interval: tuple[float, ...], resamples: int) -> Array:
    """Return draws of the logarithm of a value, median its own, whose central 95 % are the interval's."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((k + 0.5) / resamples) for k in range(resamples)])
    lower, upper = (abs(_log(end) - _log(value)) / normal.inv_cdf(0.975) for end in interval)
    return np.asarray(_log(value) + np.where(z < 0, lower, upper) * z)


def _worst(candidate: Report, resamples: int) -> Measured | Unmeasured:
    """Take the LEE along the worst direction and its 95 % interval, as `_relative` takes its own."""
    if candidate.affine is None:
        why = next((skip.why for skip in candidate.skipped if skip.what == "affine"), "")
        return Unmeasured("NOT_MEASURED", "the report holds no `affine`" + (f": {why}" if why else ""))
    worst, images = candidate.affine.worst, candidate.data.count
    whys = list(dict.fromkeys(_of_the_whole(candidate))) if candidate.status != "ok" else []
    whys += [
        f"{name}: {reason}"
        for name, result in candidate.results.items()
        for reason in result.reasons
        if WIDE_AGAINST not in reason  # of a generator of its own; the direction's own bar counts here
    ]
    if worst.error_bar > WIDE * worst.lee:
        whys.append(f"the error bar {worst.error_bar:.2g} {WIDE_AGAINST} {worst.lee:.2g}")
    status = "inconclusive" if whys else "ok"
    if len(worst.ci95) != 2 or min(worst.lee, worst.ci95[0]) <= 0:
        return Unmeasured("NOT_MEASURED", "the worst direction has no interval above 0")
    error = min(worst.error_bar / worst.lee, 0.99)
    draws = _split_normal(worst.lee, worst.ci95, resamples)
    found = Measured(worst.lee, log=True, draws=draws, down=-math.log1p(-error), up=math.log1p(error), images=images)
    return replace(found, status=status, why="; ".join(whys))


def _values(result: GeneratorResult) -> tuple[Array, Array]:
    values = np.asarray(result.per_image, dtype=np.float64)
    errors = np.asarray(result.per_image_error, dtype=np.float64)
    if errors.shape != values.shape:
        raise DataError(
            f"{len(values)} per-image values but {len(errors)} error bars",
            reason="NOT_A_REPORT",
            subject="per_image_error",
        )
    return values, errors


def _shifted(values: Array, errors: Array, statistic: str) -> tuple[float, float]:
    """Return the statistic's lower and upper numerical bound; LEE cannot be negative."""
    point = float(point_estimate(values, statistic))
    if statistic == "mean":
        error = float(np.sqrt(np.sum(errors**2)) / len(errors))
    else:
        normal = np.random.default_rng(0).standard_normal((len(values), _PROPAGATED))
        # a bar is two standard deviations; LEE is a square, so a value below 0 is one above it
        moved = point_estimate(np.abs(values[:, None] + 0.5 * errors[:, None] * normal), statistic)
        error = float(abs(moved.mean() - point) + 2.0 * moved.std()) if np.any(errors) else 0.0
    return max(0.0, point - error), point + error


def negligible(result: GeneratorResult) -> bool:
    """Whether the LEE is zero for every purpose, so that no ratio to it matters.

    Its upper bound, sampling and numerical, lies below `lieaudit.verdicts.NEGLIGIBLE` of the response to an equally
    large perturbation that is no symmetry (``response``).
    """
    if not result.response or not result.ci95:
        return False
    return result.ci95[1] + result.error_bar <= NEGLIGIBLE * result.response


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _log_quotient(top: float, bottom: float) -> float:
    if bottom <= 0:
        return math.inf
    return _log(top / bottom)
