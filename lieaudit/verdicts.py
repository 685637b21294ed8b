"""From per-image numbers to the report's results, and whether they can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lieaudit.measured import WIDE
from lieaudit.report import DISAGREES, Agreement, GeneratorResult, Skipped
from lieaudit.statistics import bootstrap_interval, compare, point_estimate, quantiles, top_share
from lieaudit.symmetries import velocity_field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lieaudit.derivatives.base import Float64Array
    from lieaudit.measured import Measured
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator

WIDE_AGAINST = "is wide against the value"
"""What the reason of a result says whose error bar is."""

NEGLIGIBLE = 1e-4
"""LEE below this share of the response to a non-symmetric perturbation is zero for every purpose; there an error bar
need not be small against the value, only against this floor."""

NEGLIGIBLE_POWER = 1e-8
"""So is LEE below this share of the squared output itself: a whole unit of t would change it by 1e-4 of its size."""


def generator_results(
    measured: Measured,
    spec: AuditSpec,
    method: str,
    *,
    asked: Sequence[Generator],
    size: tuple[int, int],
    calibrated: Mapping[str, tuple[float, float]] | None = None,
    agreements: dict[str, Agreement] | None = None,
    doubts: Sequence[tuple[str, ...]] = (),
) -> tuple[dict[str, GeneratorResult], list[Skipped]]:
    """Return the results by generator and what could not be measured.

    ``asked`` are the generators and ``size`` is (H, W) of the images; ``calibrated`` holds step and noise of finite
    differences by the direction that was measured; ``doubts`` are, per generator, reasons that were found before any
    number was looked at.
    """
    results: dict[str, GeneratorResult] = {}
    skipped: list[Skipped] = []
    for g, action in enumerate(asked):
        generator = action.id
        lee = measured.lee[:, g]
        mean = float(measured.means[g])
        counted = lee if measured.weight is None else lee[measured.weight > 0]
        agreement = (agreements or {}).get(generator)
        step, noise = (calibrated or {}).get(generator, (None, None))
        relative, floor, relative_interval = _relative(measured.log_relative[:, g], measured.other[:, g], spec)
        floor = max(floor, NEGLIGIBLE_POWER * float(measured.shares @ measured.power))
        bar = float(measured.error_bars[g])
        reasons = list(doubts[g]) if doubts else []
        if bar > WIDE * max(mean, floor):
            reasons.append(f"the error bar {bar:.2g} {WIDE_AGAINST} {mean:.2g}")
        if agreement is not None and agreement.verdict == DISAGREES:
            reasons.append(
                f"{method} and {agreement.method} disagree by {agreement.deviation:.2g} of the derivative "
                f"where their error bars allow {agreement.allowed:.2g}"
            )
        interval: tuple[float, ...] = ()
        if len(counted) > 1:
            interval = _interval(lee, measured.weight, spec)
        else:
            why = "one image has no sampling error to estimate; give at least two"
            skipped.append(Skipped(f"results.{generator}.ci95", why))
            reasons.append("one image gives no interval")
        if relative is None:
            skipped.append(Skipped(f"results.{generator}.relative", _why_not_relative(measured.other[:, g], spec)))
        results[generator] = GeneratorResult(
            lee=mean,
            ci95=interval,
            median=float(np.median(counted)),
            quantiles=quantiles(counted),
            mean_abs=float(measured.shares @ measured.mean_abs[:, g]),
            relative=relative,
            per_image=tuple(map(float, lee)),
            method=method,
            error_bar=bar,
            per_image_error=tuple(map(float, measured.lee_error[:, g])),
            unit=action.unit_of(spec.convention),
            step=step,
            noise=noise,
            agreement=agreement,
            status="inconclusive" if reasons else "ok",
            reasons=tuple(reasons),
            relative_ci95=relative_interval,
            geometric_mean=float(point_estimate(counted, "geometric_mean")) if np.all(counted > 0) else None,
            top_share=top_share(lee if measured.weight is None else measured.weight * lee),
            response=_mean_of(measured.other[:, g]),
            lee_per_px2=_per_px2(mean, action, size, spec.convention),
            combined_from=measured.combined_from[g] if measured.combined_from else (),
        )
    return results, skipped


def _interval(lee: Float64Array, weight: Float64Array | None, spec: AuditSpec) -> tuple[float, ...]:
    """Return the bootstrap interval of the mean over images, or of Σ w·lee / Σ w, drawn together."""
    if weight is None or np.ptp(weight) == 0:
        low, high = bootstrap_interval(lee, resamples=spec.bootstrap, seed=spec.seed)
        return float(low), float(high)
    if not np.any(weight * lee):
        return 0.0, 0.0
    found = compare(weight * lee, weight, resamples=spec.bootstrap, seed=spec.seed)
    return found.interval or ()


def _per_px2(lee: float, generator: Generator, size: tuple[int, int], convention: str) -> float | None:
    """Return LEE per squared pixel of displacement; None where no pixel moves."""
    if not generator.spatial:
        return None
    moved = float(np.mean(np.sum(velocity_field(generator, *size, convention=convention) ** 2, axis=0)))
    return lee / moved if moved > 0 else None


FEW_IMAGES = 256
"""Below so many images few of them decide a mean (docs/numerics.md, section 4)."""


def few_images(results: Mapping[str, GeneratorResult], count: int) -> tuple[str, ...]:
    """Say where few images decide the means, and how much of them the largest hold."""
    shares = [result.top_share for result in results.values() if result.top_share is not None]
    if count >= FEW_IMAGES or not shares:
        return ()
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    span = low if low == high else f"{low} to {high}"
    said = f"{count} images are few for a mean: the largest 1 % of them (at least one) hold {span} % of it, so look at "
    return (f"{said}the median and the geometric mean first, or measure {FEW_IMAGES} images or more",)


def _mean_of(other: Float64Array) -> float | None:
    """Return the mean of what was measured; None where nothing was."""
    both = np.isfinite(other)
    return float(other[both].mean()) if both.any() else None


def _relative(
    logs: Float64Array, other: Float64Array, spec: AuditSpec
) -> tuple[float | None, float, tuple[float, ...]]:
    """Return the geometric mean over images of ‖L F‖² / ‖DF[r]‖², the floor that counts as zero, and the interval.

    A ratio image by image: how confident the model is on an image scales both, and cancels. A ratio of means would
    follow the few images that carry them, and with them the seed.
    """
    both = np.isfinite(other)
    scale = float(other[both].mean()) if both.any() else 0.0
    logs = logs[~np.isnan(logs)]
    if scale <= np.finfo(np.float32).tiny or not len(logs):
        return None, 0.0, ()
    if not np.all(np.isfinite(logs)):  # a LEE of exactly 0, known without error
        return 0.0, NEGLIGIBLE * scale, ()
    interval: tuple[float, ...] = ()
    if len(logs) > 1:
        found = compare(
            np.exp(logs), np.ones_like(logs), statistic="geometric_mean", resamples=spec.bootstrap, seed=spec.seed
        )
        interval = found.interval or ()
    return float(np.exp(logs.mean())), NEGLIGIBLE * scale, interval


def _why_not_relative(other: Float64Array, spec: AuditSpec) -> str:
    if not spec.relative_images:
        return "relative_images is 0"
    if len(other) < 2:
        return "needs a second image whose tangent serves as the other direction"
    return "the output does not respond to the other direction at all"
