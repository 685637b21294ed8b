"""One audit with a chosen method, from measuring to the report: what ONNX graphs and torch modules share."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.crosscheck import crosscheck, unchecked
from lieaudit.data import Dataset
from lieaudit.environment import environment
from lieaudit.errors import DataError, LieauditError
from lieaudit.heads.checking import Checked
from lieaudit.heads.steps import silent_reasons
from lieaudit.images import Images
from lieaudit.measure import measure
from lieaudit.method import Method, recalibrated, steps_and_noise
from lieaudit.metrics.accuracy import image_classes, top1
from lieaudit.metrics.directions import affine_or_why
from lieaudit.outcome import Outcome
from lieaudit.parts.auditing import audit_parts
from lieaudit.pictures import worst_pictures
from lieaudit.progress import StageProgress
from lieaudit.report import GeneratorResult, Layerwise, Report, ReportData, ReportModel, Skipped, Timing
from lieaudit.runtime.budget import automatic_budget
from lieaudit.runtime.failures import cleaned
from lieaudit.secants import Secants
from lieaudit.shards import compute_once
from lieaudit.verdicts import few_images, generator_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lieaudit.derivatives.base import Differentiator
    from lieaudit.parts.binding import BoundParts
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import ShardStore
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries.plan import Plan

ImagesLike = npt.NDArray[Any] | Dataset


def run(
    model: ReportModel,
    images: Images,
    method: Method,
    *,
    checks: Checked,
    attribute: Callable[[], Mapping[str, Layerwise]] | None = None,
    parts: BoundParts | None = None,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
    started: float,
) -> Report:
    """Measure with a chosen method and write the report: what the ONNX and the torch path share.

    Parameters
    ----------
    checks
        Whether the right function is audited.
    attribute
        Gives the layerwise part, where it was asked for.
    parts
        What the raw values are made of, where the specification says.
    started
        `time.monotonic` at the beginning of the audit.
    """
    spec = images.spec
    classes, unlabelled = image_classes(images)  # before any work: a list of classes that does not fit is refused
    used = method.differentiator
    calibrated = {} if isinstance(used, Secants) else steps_and_noise(used, images.plan)

    def other_directions(plan: Plan) -> Differentiator:
        other = recalibrated(method, images, plan, shards=shards, progress=progress)
        calibrated.update(steps_and_noise(other, plan))
        return other

    common = (*checks.reasons, *method.reasons)
    outcome = (_whole if parts is None else partial(audit_parts, parts))(
        images, method, common=common, recalibrated=other_directions, calibrated=calibrated, shards=shards,
        progress=progress,
    )  # fmt: skip
    layerwise, unattributed = _attributed(attribute)
    StageProgress(progress, "statistics", 1).advance(1)
    unread = tuple(f"{skip.what} was not measured: {skip.why}" for skip in unattributed)
    reasons = (*outcome.reasons, *unread)
    seconds = time.monotonic() - started
    rows = method.rows_done
    return Report(
        model=replace(
            model,
            precision=method.precision or model.precision,
            notes=(*model.notes, *images.notes, *method.notes, *few_images(outcome.every_result, images.count)),
        ),
        data=ReportData(
            images.dataset.sha256, images.count, images.dataset.name, top1(outcome.top1, classes), images.further.feeds
        ),
        environment=environment(spec, method.fallback_ops, torch=used.method == "torch"),
        spec=spec.to_dict(),
        results=outcome.results,
        timing=Timing(seconds, rows, rows / seconds),
        layerwise=layerwise,
        skipped=(*method.skipped, *checks.skipped, *unlabelled, *unattributed, *outcome.skipped),
        status="inconclusive" if reasons else "ok",
        reasons=reasons,
        pictures=outcome.pictures,
        checks=checks.checks,
        affine=outcome.affine,
        parts=outcome.parts,
    )


def _whole(
    images: Images,
    method: Method,
    *,
    common: tuple[str, ...],
    recalibrated: Callable[[Plan], Differentiator],
    calibrated: Mapping[str, tuple[float, float]],
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Measure a model whose one output is judged as its head says."""
    used, spec = method.differentiator, images.spec
    if isinstance(used, Secants):
        measured = used.measure(images, shards=shards, progress=progress)
    else:
        measured = measure(used, images, recalibrated=recalibrated, shards=shards, progress=progress)
    agreements = (
        crosscheck(method.derivative, method.checker, images, progress=progress) if method.checker is not None else {}
    )
    results, skipped = generator_results(
        measured,
        spec,
        used.method,
        asked=images.asked,
        size=(images.target.height, images.target.width),
        calibrated=calibrated,
        agreements=agreements,
        doubts=[(*common, *own) for own in silent_reasons(measured, images, method)],
    )
    if isinstance(used, Secants):
        results = _of_stated_size(results, used.steps, images)
    affine, directions_skipped = affine_or_why(measured, images)
    own = (f"{name}: {why}" for name, result in results.items() for why in result.reasons if why not in common)
    reasons = (*common, *unchecked(agreements), *own)
    pictures = worst_pictures(images, measured)
    return Outcome(results, (*directions_skipped, *skipped), reasons, measured.top1, pictures=pictures, affine=affine)


def _of_stated_size(
    results: Mapping[str, GeneratorResult], steps: Sequence[float], images: Images
) -> dict[str, GeneratorResult]:
    """Write the size of the secants beside what they gave."""
    return {
        action.id: replace(results[action.id], step=t, secant_px=images.spec.secant_px if action.spatial else None)
        for action, t in zip(images.asked, steps, strict=True)
    }


def _attributed(
    attribute: Callable[[], Mapping[str, Layerwise]] | None,
) -> tuple[Mapping[str, Layerwise], tuple[Skipped, ...]]:
    """Return the layerwise part, or why there is none: the audit's own results are finished, and stand."""
    if attribute is None:
        return {}, ()
    try:
        return attribute(), ()
    except LieauditError as problem:
        return {}, (Skipped("layerwise", str(problem)),)
    except MemoryError:
        return {}, (Skipped("layerwise", "not enough memory (lower --budget, or cut less finely with --depth)"),)
    except Exception as problem:
        logging.getLogger(__name__).exception("layerwise attribution failed")
        what = f"{type(problem).__name__}: {cleaned(str(problem))}"
        return {}, (Skipped("layerwise", f"an error of lieaudit's own ({what}); please report the model"),)


def with_budget(spec: AuditSpec, shards: ShardStore | None, *, device: str = "") -> AuditSpec:
    """Return a specification with the memory budget that an audit takes.

    Of one that states none it is found now, on the device if not on the provider's; an audit that goes on from its
    shards takes the one it began with.
    """
    if spec.budget_mib:
        return spec
    found, _ = compute_once(shards, "budget", lambda: {"mib": np.array(automatic_budget(device or spec.provider))})
    return replace(spec, budget_mib=int(found["mib"]))


def as_dataset(images: ImagesLike, labels: npt.NDArray[Any] | None) -> Dataset:
    """Take arrays or a dataset. Raises `DataError` LABELS_TWICE where a dataset comes with further labels."""
    if not isinstance(images, Dataset):
        return Dataset.from_arrays(np.asarray(images), labels)
    if labels is not None:
        raise DataError("the dataset brings its own labels", reason="LABELS_TWICE", subject="labels")
    return images
