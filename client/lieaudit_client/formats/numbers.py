"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from lieaudit_api.v1 import report_pb2

T = TypeVar("T")


def number(value: float | None) -> str:
    """Return three significant digits, or "not measured"."""
    if value is None:
        return "not measured"
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def interval(bounds: Sequence[float]) -> str:
    """Return ``[low, high]``, or a dash where there is none."""
    return f"[{number(bounds[0])}, {number(bounds[1])}]" if len(bounds) == 2 else "–"


def per_unit(unit: str) -> str:
    """Say in which unit of t a LEE is: it goes with the square of t's."""
    if not unit:
        return ""
    return f"per {unit}²" if " " not in unit else f"per ({unit})²"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def short(sha256: str) -> str:
    """Return the first twelve digits of a checksum."""
    return sha256[:12]


def feed_line(feed: report_pb2.ReportFeed) -> str:
    """Say what one of the model's further inputs was fed."""
    size = f" ({', '.join(map(str, feed.shape))})" if feed.shape else ""
    per_image = ", one per image" if feed.per_image else ""
    return f"{feed.name} {feed.dtype}{size}{per_image}: {feed.text}  {short(feed.sha256)}"


def verdict_of(agreement: report_pb2.Agreement) -> str:
    """Return the verdict of a cross-check; reports written before there were three hold a truth value."""
    return agreement.verdict or ("agrees" if agreement.agrees else "disagrees")


def fidelity_line(fidelity: report_pb2.Fidelity) -> str:
    """Say how close the audited function is to the model as it was given."""
    verdict = "as given" if fidelity.ok else "NOT as given"
    images = f"{fidelity.images} image{'s' if fidelity.images != 1 else ''}"
    if fidelity.by == "top1":
        shares = f"{percent(fidelity.deviation)} of {images} (allowed {percent(fidelity.allowed)})"
        return f"{verdict}: top-1 differs on {shares}"
    if fidelity.deviation == 0:
        return f"{verdict}: the same outputs on {images}, to the last bit"
    return (
        f"{verdict}: outputs differ by at most {number(fidelity.deviation)} of the largest on {images} "
        f"(allowed {number(fidelity.allowed)})"
    )


FEW_IMAGES = 256
"""Below so many images few of them decide a mean: median and geometric mean come first."""


def lead(mean: Sequence[T], typical: Sequence[T], *, few: bool) -> tuple[T, ...]:
    """Return the columns of the mean and those of the typical image, these first where few images decide the mean."""
    return (*typical, *mean) if few else (*mean, *typical)


def relative(result: report_pb2.GeneratorResult) -> str:
    """Return `relative` with its interval, or "not measured"."""
    if not result.HasField("relative"):
        return "not measured"
    said = number(result.relative)
    return f"{said} {interval(result.relative_ci95)}" if len(result.relative_ci95) == 2 else said


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``count`` independent images (Wilson 1927)."""
    z2 = 1.959964**2
    middle, spread = share + z2 / (2 * count), math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count)
    return max(0.0, (middle - spread) / (1 + z2 / count)), min(1.0, (middle + spread) / (1 + z2 / count))
