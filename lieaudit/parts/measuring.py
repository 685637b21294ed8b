"""Measuring all parts of a model's outputs by one set of rows: shards, directions, per-image numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.measure import any_beyond, checksums, directions_at_once, groups, in_batches, in_shards
from lieaudit.measured import Measured
from lieaudit.metrics.lee import PerImage, check_derivative, check_finite
from lieaudit.metrics.relative import PARTNERS, log_ratio
from lieaudit.parts.derivative import PartDerivative, PartRows, item_shares, part_derivative
from lieaudit.symmetries.affine import field_of
from lieaudit.symmetries.plan import Plan, combination

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lieaudit.derivatives.base import Derivatives, Differentiator
    from lieaudit.images import Images
    from lieaudit.measure import Batch
    from lieaudit.parts.binding import BoundParts, Reading
    from lieaudit.parts.placing import Array
    from lieaudit.progress import ProgressCallback, StageProgress
    from lieaudit.shards import Arrays, ShardStore
    from lieaudit.symmetries import Generator

_NAMES = tuple(Measured.__dataclass_fields__)


def measure_parts(
    differentiator: Differentiator,
    images: Images,
    bound: BoundParts,
    *,
    recalibrated: Callable[[Plan], Differentiator],
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> dict[str, Measured]:
    """Measure every image; one entry for each reading, by its name.

    As `lieaudit.measure.measure`: the plan's directions are measured once for all parts, and a generator whose combined
    error bar is wide for a part is measured itself for that part.

    Raises
    ------
    ModelError
        OUTPUT_NOT_FINITE, DERIVATIVE_NOT_FINITE, or what the session raises.
    DataError
        NEGATIVE_WEIGHT, or what reading the images raises.
    """

    def along(plan: Plan, method: Differentiator) -> dict[str, Measured]:
        def compute(indices: list[int], relative: set[int], stage: StageProgress) -> Arrays:
            return in_batches(partial(_batch, method, images, plan, bound), images, plan, indices, relative, stage)

        what = f"parts-{plan.digest}"
        found = in_shards(compute, method.method, images, what=what, shards=shards, progress=progress)
        return {
            reading.name: Measured(
                **{name: found[f"{at}.{name}"] for name in _NAMES if f"{at}.{name}" in found},
                combined_from=plan.combined_from,
            )
            for at, reading in enumerate(bound.readings)
        }

    plan = images.plan
    found = along(plan, differentiator)
    fields = fields_of(images, plan.asked)
    wide = {
        reading.name: [g for g in found[reading.name].wide(plan) if not refused(reading, plan.asked[g], fields[g])]
        for reading in bound.readings
    }
    again = sorted({g for own in wide.values() for g in own})
    if not again:
        return found
    direct = Plan.direct([plan.asked[g] for g in again])
    itself = along(direct, recalibrated(direct))
    return {
        name: measured.with_direct(wide[name], _only(itself[name], [again.index(g) for g in wide[name]]))
        if wide[name]
        else measured
        for name, measured in found.items()
    }


def fields_of(images: Images, generators: Sequence[Generator]) -> list[Array | None]:
    """Return the fields of generators, in pixels of the image; None for one that is no affine field."""
    size, convention = (images.target.height, images.target.width), images.spec.convention
    return [
        field_of(generator, *size, convention=convention) if generator.spatial and generator.affine else None
        for generator in generators
    ]


def refused(reading: Reading, generator: Generator, field: Array | None) -> str:
    """Say why a part is not judged under a generator; empty where it is."""
    if field is not None:
        return reading.representation.refuses(field)
    return "" if not generator.spatial else f"{generator.id} is no affine field, along which parts are known to move"


def _only(measured: Measured, columns: list[int]) -> Measured:
    """Return some generators' numbers."""
    changed: dict[str, Any] = {
        name: value[:, columns]
        for name in _NAMES
        if isinstance(value := getattr(measured, name), np.ndarray) and value.ndim == 2
    }
    return replace(measured, **changed)


@dataclass(slots=True)
class _Gathered:
    """One part's vectors of a batch, as the groups of directions come in."""

    values: list[Array]
    errors: list[Array]
    answers: list[npt.NDArray[np.bool_]]
    others: list[Array]
    last: PartDerivative | None = None


def _batch(differentiator: Differentiator, images: Images, plan: Plan, bound: BoundParts, batch: Batch) -> Arrays:
    lanes = len(plan.measured)
    total = batch.directions.shape[1]
    measured = fields_of(images, plan.measured)
    gathered = [_Gathered([], [], [], []) for _ in bound.readings]
    value = None
    for group in groups(total, directions_at_once(images, len(batch.indices))):
        judged = max(0, min(group.stop, lanes) - group.start)
        columns = np.arange(group.start, group.stop) % lanes
        found = differentiator(batch.pixels, batch.directions[:, group], columns, batch.further, judged=judged)
        check_finite(found.value, batch.indices)
        value = found.value
        for reading, kept in zip(bound.readings, gathered, strict=True):
            _gather(kept, found, reading, measured[group.start : group.start + judged])
    assert value is not None  # noqa: S101 - there is a direction
    arrays: dict[str, Any] = {}
    for at, (reading, kept) in enumerate(zip(bound.readings, gathered, strict=True)):
        own = _numbers(kept, reading, images, plan, batch)
        arrays |= {f"{at}.{name}": array for name, array in own.items()}
        arrays[f"{at}.digest"] = checksums(value[:, reading.places])
    return arrays


def _gather(kept: _Gathered, found: Derivatives, reading: Reading, fields: list[Array | None]) -> None:
    judged = len(fields)
    kept.answers.append(any_beyond(found.tangent[..., reading.places]))
    if judged:
        kept.last = part_derivative(found.first(judged), reading, fields)
        kept.values.append(kept.last.value)
        kept.errors.append(kept.last.error)
    if found.tangent.shape[1] > judged:
        moved = reading.representation.differential(reading.raw(found.value), reading.raw(found.tangent[:, judged:]))
        shares = item_shares(reading.weights(found.value))
        kept.others.append(moved * np.sqrt(shares)[:, None, :, None])


def _numbers(kept: _Gathered, reading: Reading, images: Images, plan: Plan, batch: Batch) -> Arrays:
    """Combine one part's vectors to the generators' and reduce them."""
    assert kept.last is not None  # noqa: S101 - the first group holds own directions
    weights, power = kept.last.weights, kept.last.power
    lie, bars = np.concatenate(kept.values, axis=1), plan.bars(np.concatenate(kept.errors, axis=1))
    count, lanes = lie.shape[:2]
    items, rows = kept.last.items, []
    for g, (weight, field) in enumerate(zip(plan.weights, fields_of(images, plan.asked), strict=True)):
        vector = combination(lie, weight)[:, None]
        motion = np.zeros_like(vector) if field is None else reading.representation.motion(items, field)[:, None]
        rows.append(
            PartRows.of(PartDerivative(vector, vector + motion, motion, bars[:, g : g + 1], weights, power, items))
        )
    joined = {name: np.concatenate([getattr(row, name) for row in rows], axis=1) for name in PartRows.BY_DIRECTION}
    numbers = PerImage(joined["lee"], joined["lee_error"], joined["mean_abs"])
    check_derivative(numbers, [generator.id for generator in plan.asked], batch.indices)
    answers = np.concatenate(kept.answers, axis=1)
    other, other_answers = _others(kept, plan, batch, answers)
    shared = (lie * np.sqrt(item_shares(weights))[:, None, :, None]).reshape(count, lanes, -1)
    return {
        **joined,
        "other": other.mean(axis=0),
        "log_relative": log_ratio(numbers.lee, numbers.lee_error, other),
        "power": power,
        "weight": rows[0].weight,
        "top1": np.full(count, -1, np.int64),
        "answers": np.any(answers[:, None, :lanes] & (plan.weights != 0), axis=2),
        "other_answers": other_answers,
        "moves": batch.moves,
        "gram": shared @ np.moveaxis(shared, 1, 2),
        "bars": np.concatenate(kept.errors, axis=1),
    }


def _others(
    kept: _Gathered, plan: Plan, batch: Batch, answers: npt.NDArray[np.bool_]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return ‖DF[r]‖² along the directions of `relative`, (partners, n, G), and whether any answers (n, G)."""
    count, lanes = len(batch.indices), len(plan.measured)
    other = np.full((PARTNERS, count, len(plan.asked)), np.nan)
    answering = np.zeros((count, len(plan.asked)), bool)
    moved = np.concatenate(kept.others, axis=1) if kept.others else None
    for which, partner in enumerate(batch.others):
        assert moved is not None  # noqa: S101 - the batch's directions hold the partners'
        span = moved[:, which * lanes : (which + 1) * lanes]
        other[which] = partner.combined(span) * (span.shape[2] * span.shape[3])
        own = answers[:, (which + 1) * lanes : (which + 2) * lanes]
        answering |= np.any(own[:, None] & (partner.weights != 0), axis=2)
    return other, answering
