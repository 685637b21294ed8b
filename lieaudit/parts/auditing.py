"""From the parts' per-image numbers to their results, and whether they can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lieaudit.crosscheck import unchecked
from lieaudit.heads.steps import silent_reasons
from lieaudit.metrics.directions import affine_or_why
from lieaudit.outcome import Outcome
from lieaudit.parts.checking import Judged, crosscheck_parts
from lieaudit.parts.measuring import fields_of, measure_parts, refused
from lieaudit.report import Affine, GeneratorResult, ReportPart, Skipped
from lieaudit.statistics import ratio_of_sums
from lieaudit.symmetries.affine import basis_fields
from lieaudit.verdicts import generator_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lieaudit.derivatives.base import Differentiator
    from lieaudit.images import Images
    from lieaudit.measured import Measured
    from lieaudit.method import Method
    from lieaudit.parts.binding import BoundParts, Reading
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import ShardStore
    from lieaudit.symmetries.plan import Plan

NO_DETECTIONS = "NO_DETECTIONS"
"""Code of a part that was not measured: its weights are 0 on all images."""


def audit_parts(
    bound: BoundParts,
    images: Images,
    method: Method,
    *,
    common: tuple[str, ...],
    recalibrated: Callable[[Plan], Differentiator],
    calibrated: Mapping[str, tuple[float, float]],
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Measure all parts by one set of rows and judge each for itself.

    ``common`` are reasons why no result can be conclusive; ``calibrated`` holds step and noise of finite differences by
    direction, and is filled by ``recalibrated``.
    """
    measured = measure_parts(
        method.derivative, images, bound, recalibrated=recalibrated, shards=shards, progress=progress
    )
    agreements: Judged = {}
    if method.checker is not None:
        agreements = crosscheck_parts(method.derivative, method.checker, images, bound, progress=progress)
    parts: dict[str, ReportPart] = {}
    skipped: list[Skipped] = []
    reasons = list(common)
    for reading in bound.readings:
        own, left_out = _part(reading, measured[reading.name], images, method, common, calibrated, agreements)
        parts[reading.name] = own
        skipped += left_out
        if not own.results and not np.any(measured[reading.name].weight):
            reasons.append(f"{reading.name}: {_no_detections(reading)}")
        for name, result in own.results.items():
            reasons += [f"{reading.name}: {name}: {why}" for why in result.reasons if why not in common]
    every = {
        f"{part}.{name}": result.agreement
        for part, own in parts.items()
        for name, result in own.results.items()
        if result.agreement is not None
    }
    reasons += unchecked(every)
    top1 = np.full(images.count, -1, np.int64)
    return Outcome({}, tuple(skipped), tuple(reasons), top1, parts)


def _part(
    reading: Reading,
    measured: Measured,
    images: Images,
    method: Method,
    common: tuple[str, ...],
    calibrated: Mapping[str, tuple[float, float]],
    agreements: Judged,
) -> tuple[ReportPart, list[Skipped]]:
    """Write one part's results."""
    part = ReportPart(
        representation=reading.part.representation,
        unit=reading.representation.unit,
        results={},
        source=reading.part.text,
        items=int(np.prod(reading.representation.items, dtype=int)),
        size=float(np.sqrt(measured.shares @ measured.power)),
        weights=tuple(map(float, measured.weight)) if measured.weight is not None and reading.weighting else (),
    )
    if not np.any(measured.weight):
        return part, [Skipped(f"parts.{reading.name}", _no_detections(reading))]
    silent = silent_reasons(measured, images, method)
    found, skipped = generator_results(
        measured,
        images.spec,
        method.differentiator.method,
        asked=images.asked,
        size=(images.target.height, images.target.width),
        calibrated=calibrated,
        agreements=agreements.get(reading.name),
        doubts=[(*common, *own) for own in silent],
    )
    results: dict[str, GeneratorResult] = {}
    left_out = []
    fields = fields_of(images, images.asked)
    for g, (name, result) in enumerate(found.items()):
        why = refused(reading, images.asked[g], fields[g])
        if why:
            left_out.append(Skipped(f"parts.{reading.name}.results.{name}", why))
            continue
        follow, interval = _follow(measured, g, images)
        results[name] = replace(result, follow=follow, follow_ci95=interval)
    left_out += [
        replace(skip, what=f"parts.{reading.name}.{skip.what}")
        for skip in skipped
        if skip.what.split(".")[1] in results
    ]
    affine, why_none = _affine(reading, measured, images)
    left_out += [replace(skip, what=f"parts.{reading.name}.{skip.what}") for skip in why_none]
    return replace(part, results=results, affine=affine), left_out


def _affine(reading: Reading, measured: Measured, images: Images) -> tuple[Affine | None, tuple[Skipped, ...]]:
    """Return what is known of all affine directions of a part, with the images' weights as they are."""
    height, width = images.target.height, images.target.width
    refusals = [reading.representation.refuses(field) for field in basis_fields(height, width)]
    if any(refusals):
        return None, (Skipped("affine", next(filter(None, refusals))),)
    weight = len(measured.lee) * measured.shares
    weighted = replace(
        measured, gram=measured.gram * weight[:, None, None], bars=measured.bars * np.sqrt(weight)[:, None]
    )
    return affine_or_why(weighted, images)


def _follow(measured: Measured, g: int, images: Images) -> tuple[float | None, tuple[float, ...]]:
    """Return Σ w⟨DF[X x], X' F⟩ / Σ w‖X' F‖² over images; None where the part should not move."""
    if measured.inner is None or measured.square is None:
        return None, ()
    spec = images.spec
    return ratio_of_sums(measured.inner[:, g], measured.square[:, g], resamples=spec.bootstrap, seed=spec.seed)


def _no_detections(reading: Reading) -> str:
    weight = reading.part.weight.text if reading.part.weight is not None else ""
    return f"{NO_DETECTIONS}: its weights, {weight} to the power {reading.part.power:g}, are 0 on all images"
