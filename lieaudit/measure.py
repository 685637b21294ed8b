"""Measuring one model on one set of images with one derivative method: shards, directions, per-image numbers."""

from __future__ import annotations

import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.measured import Measured
from lieaudit.metrics.lee import (
    LieDerivative,
    OutputAction,
    PerImage,
    check_derivative,
    check_finite,
    lie_derivative,
)
from lieaudit.metrics.relative import PARTNERS, Other, inner_products, log_ratio, norms
from lieaudit.progress import StageProgress
from lieaudit.shards import compute_once
from lieaudit.symmetries.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lieaudit.derivatives.base import Differentiator, Float32Array, Float64Array, FurtherRows
    from lieaudit.images import Images
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import Arrays, ShardStore

SHARD = 32
"""Images per shard: what an interrupted audit loses at most. Fixed, so that every run cuts alike."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images with everything the session needs of them.

    Attributes
    ----------
    indices
        Of the n images in the data set.
    pixels
        float32 (n, C, H, W).
    directions
        float32 (n, B·M, C, H, W): the images' own tangents along the M measured directions, then those of `relative`
        of each partner where they are measured on these images (B = 1 or 1 + PARTNERS).
    others
        What combines the answers along each partner's directions.
    moves
        (n, G) whether the image has a tangent along the generator.
    further
        Values of the model's further inputs, (n, …) by name.
    """

    indices: list[int]
    pixels: Float32Array
    directions: Float32Array
    others: list[Other]
    moves: npt.NDArray[np.bool_]
    further: FurtherRows


def measure(
    differentiator: Differentiator,
    images: Images,
    *,
    recalibrated: Callable[[Plan], Differentiator] | None = None,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Measured:
    """Measure every image; finished shards are kept in ``shards`` and not computed again.

    The directions of ``images.plan`` are measured and the generators combined from them. A generator whose error bar
    is then wide beside its value, as that of a small difference of large vectors, is measured itself.

    Parameters
    ----------
    differentiator
        Calibrated for the plan's directions, where it is one that must be.
    recalibrated
        Returns it for the directions of another plan; default: it is none that is calibrated.

    Raises
    ------
    ModelError
        OUTPUT_NOT_FINITE, DERIVATIVE_NOT_FINITE, or what the session raises.
    DataError
        What reading the images raises.
    """

    def along(plan: Plan, method: Differentiator) -> Measured:
        compute = partial(_measure_shard, method, images, plan)
        found = in_shards(compute, method.method, images, what=plan.digest, shards=shards, progress=progress)
        return Measured(**found, combined_from=plan.combined_from)

    plan = images.plan
    found = along(plan, differentiator)
    wide = found.wide(plan)
    if not wide:
        return found
    direct = Plan.direct([plan.asked[g] for g in wide])
    return found.with_direct(wide, along(direct, differentiator if recalibrated is None else recalibrated(direct)))


def in_shards(
    compute: Callable[[list[int], set[int], StageProgress], Arrays],
    method: str,
    images: Images,
    *,
    what: str,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    """Compute the arrays of every image, shard by shard.

    By ``compute(indices, those that `relative` is measured on, stage)``; ``what`` tells the shards of what is measured
    from others of the same audit.
    """
    relative = set(images.spread(images.spec.relative_images if images.count > 1 else 0))
    stage = StageProgress(progress, "audit", images.count)
    found: list[Arrays] = []
    for start in range(0, images.count, SHARD):
        indices = list(range(start, min(start + SHARD, images.count)))
        work = partial(compute, indices, relative, stage)
        arrays, computed = compute_once(shards, f"audit-{method}-{start:08d}-{what}", work)
        if not computed:
            stage.advance(len(indices), measured=False)
        found.append(arrays)
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}


def _measure_shard(
    differentiator: Differentiator,
    images: Images,
    plan: Plan,
    indices: list[int],
    relative: set[int],
    stage: StageProgress,
) -> Arrays:
    return in_batches(partial(_measure_batch, differentiator, images, plan), images, plan, indices, relative, stage)


def in_batches(
    compute: Callable[[Batch], Arrays],
    images: Images,
    plan: Plan,
    indices: list[int],
    relative: set[int],
    stage: StageProgress,
) -> Arrays:
    """Compute the arrays of a shard's images by ``compute(batch)``, in their order."""
    order: list[int] = []
    parts: list[Arrays] = []
    for batch in _prefetched(images, plan, indices, relative):
        order += batch.indices
        parts.append(compute(batch))
        stage.advance(len(batch.indices))
    by_index = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[by_index] for name in parts[0]}


def _measure_batch(differentiator: Differentiator, images: Images, plan: Plan, batch: Batch) -> Arrays:
    head, count, lanes = images.target.head, len(batch.indices), len(plan.measured)
    other = np.full((PARTNERS, count, len(plan.asked)), np.nan)
    other_answers = np.zeros((count, len(plan.asked)), bool)
    blocks = batch.directions.shape[1] // lanes
    at_once = directions_at_once(images, count)
    # dense outputs go block by block, and in groups of directions: those of all are never held at once
    for first, behind in [(0, blocks)] if blocks * lanes <= at_once else [(b, b + 1) for b in range(blocks)]:
        vectors = _vectors(differentiator, images, plan, batch, slice(first * lanes, behind * lanes), at_once)
        if vectors.lie is not None:
            own = vectors
        for b in range(max(first, 1), behind):
            rows = slice((b - max(first, 1)) * lanes, (b - max(first, 1) + 1) * lanes)
            partner = batch.others[b - 1]
            other[b - 1] = partner.combined(vectors.others[:, rows])
            answering = vectors.answers[:, (b - first) * lanes : (b - first + 1) * lanes]
            other_answers |= np.any(answering[:, None] & (partner.weights != 0), axis=2)
    assert own.lie is not None  # noqa: S101 - the first block is the images' own
    numbers = per_image(own.lie, plan)
    check_derivative(numbers, [generator.id for generator in plan.asked], batch.indices)
    flat = own.lie.value.reshape(count, lanes, -1)
    value = own.value.reshape(count, -1)
    return {
        "lee": numbers.lee,
        "lee_error": numbers.lee_error,
        "mean_abs": numbers.mean_abs,
        "other": other.mean(axis=0),
        "log_relative": log_ratio(numbers.lee, numbers.lee_error, other),
        "power": np.mean(head.value(own.value).reshape(count, -1) ** 2, axis=1),
        "top1": np.full(count, -1, np.int64) if head.spatial else np.argmax(value, axis=1).astype(np.int64),
        "answers": np.any(own.answers[:, None, :lanes] & (plan.weights != 0), axis=2),
        "other_answers": other_answers,
        "moves": batch.moves,
        "digest": checksums(own.value),
        "gram": flat @ np.moveaxis(flat, 1, 2) / flat.shape[2],
        "bars": own.lie.error / math.sqrt(flat.shape[2]),
    }


@dataclass(frozen=True, slots=True)
class _Vectors:
    """What a model answers to directions of n images: raw values, L F along the measured ones, Dh[dz] along others."""

    value: npt.NDArray[Any]
    answers: npt.NDArray[np.bool_]
    lie: LieDerivative | None
    others: Float64Array


def _vectors(
    differentiator: Differentiator, images: Images, plan: Plan, batch: Batch, span: slice, at_once: int
) -> _Vectors:
    """Differentiate along a span of the batch's directions, in groups; error bars for the images' own ones alone."""
    head, lanes = images.target.head, len(plan.measured)
    action = OutputAction.of(images.spec) if head.spatial else None
    answers, own, others = [], [], []
    for group in groups(span.stop - span.start, at_once):
        start, stop = span.start + group.start, span.start + group.stop
        judged = max(0, min(stop, lanes) - start)
        columns = np.arange(start, stop) % lanes
        found = differentiator(batch.pixels, batch.directions[:, start:stop], columns, batch.further, judged=judged)
        check_finite(found.value, batch.indices)
        answers.append(any_beyond(found.tangent))
        if judged:
            own.append(lie_derivative(found.first(judged), head, plan.measured[start : start + judged], action))
        others.append(head.differential(found.value, found.tangent[:, judged:]))
    joined = LieDerivative.joined(own) if own else None
    return _Vectors(found.value, np.concatenate(answers, axis=1), joined, np.concatenate(others, axis=1))


def per_image(lie: LieDerivative, plan: Plan) -> PerImage:
    """Combine L F of the measured directions to the generators' and reduce it: the vectors of one at a time."""
    bars = plan.bars(lie.error)
    rows = [
        PerImage.of(LieDerivative(vector[:, None], bars[:, g : g + 1]))
        for g, vector in enumerate(plan.combined(lie.value))
    ]
    return PerImage.joined(rows)


def _prefetched(images: Images, plan: Plan, indices: list[int], relative: set[int]) -> Iterator[Batch]:
    """Return batches; the next one is read and differentiated while the session works on this.

    The images that `relative` is measured on go together: their own directions and the partners' in one pass.
    """

    def prepare(batch: list[int]) -> Batch:
        pixels = images.load(batch)
        own = images.tangents(pixels, plan.measured)
        moves = norms(inner_products(own), plan.weights) > 0
        directions, others = [own], []
        for which in range(PARTNERS if batch[0] in relative else 0):
            partners = images.load([images.partner(i, which) for i in batch])
            rows, other = Other.of(own, images.tangents(partners, plan.measured), plan)
            directions.append(rows)
            others.append(other)
        return Batch(batch, pixels, np.concatenate(directions, axis=1), others, moves, images.further.rows(batch))

    batches = []
    for chosen, blocks in ((True, 1 + PARTNERS), (False, 1)):
        some = [index for index in indices if (index in relative) == chosen]
        at_once = _images_at_once(images, plan, blocks)
        batches += [some[i : i + at_once] for i in range(0, len(some), at_once)]
    with ThreadPoolExecutor(1, thread_name_prefix="lieaudit-tangents") as pool:
        pending = pool.submit(prepare, batches[0])
        for following in [*batches[1:], None]:
            ready = pending.result()
            if following is not None:
                pending = pool.submit(prepare, following)
            yield ready


def _images_at_once(images: Images, plan: Plan, blocks: int) -> int:
    """How many images' tangents (with those of the prefetched batch), and vectors, fit an eighth of the budget each."""
    target, lanes = images.target, len(plan.measured)
    budget = images.spec.budget // 8
    pixels = 4 * target.channels * target.height * target.width * (1 + 3 * blocks * lanes)
    vectors = 8 * target.output_size * 2 * lanes
    return max(1, min(SHARD, budget // pixels, budget // vectors))


def directions_at_once(images: Images, count: int) -> int:
    """Say how many directions' outputs (float64, about ten arrays of them) fit an eighth of the budget."""
    each = 8 * images.target.output_size * count * 10
    return max(1, images.spec.budget // 8 // each)


def checksums(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return a checksum of each of n outputs (n, *K): equal for equal ones."""
    return np.array([zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in values], np.int64)


def any_beyond(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say of rows (n, D, …) which (n, D) are not exactly 0."""
    return np.asarray(np.any(rows.reshape(*rows.shape[:2], -1) != 0, axis=2))


def groups(count: int, at_once: int) -> Iterator[slice]:
    """Cut 0 … count − 1 into as few even parts of at most ``at_once`` as there are."""
    number = math.ceil(count / at_once)
    for i in range(number):
        yield slice(count * i // number, count * (i + 1) // number)
