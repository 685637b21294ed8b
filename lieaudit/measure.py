"""Measuring one model on one set of images with one derivative method: shards, directions, per-image numbers."""

from __future__ import annotations

import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lieaudit.data.arrays import check_whole
from lieaudit.derivatives.base import rows_of
from lieaudit.feeds import Further
from lieaudit.metrics.head import Head
from lieaudit.metrics.lee import OutputAction, PerImage, check_derivative, check_finite, lie_derivative
from lieaudit.progress import StageProgress
from lieaudit.shards import compute_once
from lieaudit.symmetries import tangents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lieaudit.data import Dataset
    from lieaudit.derivatives.base import Differentiator, Float32Array, Float64Array, FurtherRows
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import Arrays, ShardStore
    from lieaudit.spec import AuditSpec

PARTNERS = 2
"""Other images whose tangents `relative` compares with, for each image: how a model answers to one varies by a factor
of three to eight between partners (trained classifiers), which a mean of logarithms over images evens out."""

SHARD = 32
"""Images per shard: what an interrupted audit loses at most. Fixed, so that every run cuts alike."""

_MIB = 1 << 20


class Target(Protocol):
    """What measuring needs to know of a model, ONNX or torch."""

    @property
    def channels(self) -> int:
        """C of the input."""
        ...

    @property
    def height(self) -> int:
        """H of the input."""
        ...

    @property
    def width(self) -> int:
        """W of the input."""
        ...

    @property
    def pixel_range(self) -> tuple[int, int] | None:
        """Least and greatest pixel of a model that takes integers; None for floats."""
        ...

    @property
    def head(self) -> Head:
        """The head applied to the raw outputs."""
        ...

    @property
    def output_size(self) -> int:
        """K, the number of output components."""
        ...

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one image's output."""
        ...


@dataclass(frozen=True, slots=True)
class Images:
    """The images of an audit, as the model takes them, their tangents, and what comes with them."""

    dataset: Dataset
    target: Target
    spec: AuditSpec
    further: Further = field(default_factory=Further)

    @property
    def count(self) -> int:
        """N, the number of images audited."""
        return min(self.dataset.count, self.spec.max_images or self.dataset.count)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report's reader should know about the images."""
        notes = self.dataset.notes
        if self.spec.convention == "reference" and "brightness" in self.spec.generators:
            return (*notes, "brightness scales the normalised images, as the reference code does, not raw intensities")
        if self.dataset.dtype != "uint8" and "brightness" in self.spec.generators:
            notes += ("brightness scales the float32 images as given: how they were normalised is not known",)
        return notes

    @property
    def zero_point(self) -> npt.ArrayLike:
        """What brightness scales around, one value or one per channel: what a raw intensity of 0 is in the images.

        The reference convention scales the images as the model takes them, around 0: the published code does.
        """
        if self.spec.convention == "reference":
            return np.zeros(self.target.channels)
        return self.dataset.zero_point(self.spec.preprocessing, self.target.channels)

    def load(self, indices: Sequence[int]) -> Float32Array:
        """Give images (n, C, H, W)."""
        target, preprocessing = self.target, self.spec.preprocessing
        if list(indices) == list(range(indices[0], indices[0] + len(indices))):
            spans = [(indices[0], indices[0] + len(indices))]
        else:
            spans = [(i, i + 1) for i in indices]
        parts = [
            self.dataset.load(
                start,
                stop,
                preprocessing=preprocessing,
                channels=target.channels,
                height=target.height,
                width=target.width,
            )
            for start, stop in spans
        ]
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if target.pixel_range is not None:
            check_whole(images, target.pixel_range, indices)
        return images

    def tangents(self, images: Float32Array) -> Float32Array:
        """Give X x for every generator: (n, G, C, H, W)."""
        moved = tangents(
            images,
            self.spec.generators,
            interpolation=self.spec.interpolation,
            padding=self.spec.padding,
            convention=self.spec.convention,
            zero_point=self.zero_point,
        )
        return np.asarray(moved, np.float32)

    def other_tangents(self, indices: Sequence[int], own: Float32Array, which: int = 0) -> Float32Array:
        """Give X x' of another image x', rescaled to the norm of ``own`` X x: the directions of `relative`.

        A tangent of another image is as large and as smooth as the symmetry's own direction, and no symmetry.
        ``which`` of the `PARTNERS` other images.
        """
        if not indices:
            return own
        others = self.tangents(self.load([self.partner(i, which) for i in indices]))
        wanted, found = _norms(own), _norms(others)
        scale = np.where(found > 0, wanted / np.where(found > 0, found, 1.0), 0.0).astype(np.float32)
        others *= scale[:, :, None, None, None]
        return others

    def partner(self, index: int, which: int = 0) -> int:
        """Return one of the `PARTNERS` images that `relative` compares an image with: the next in a seeded order."""
        order = np.random.default_rng([self.spec.seed, which]).permutation(self.count)
        return int(order[(int(np.argsort(order)[index]) + 1) % self.count])

    def spread(self, count: int) -> list[int]:
        """Give up to ``count`` image indices spread evenly over the set."""
        return sorted({int(i) for i in np.linspace(0, self.count - 1, min(count, self.count))}) if count else []


@dataclass(frozen=True, slots=True)
class Measured:
    """All images' numbers.

    Attributes
    ----------
    lee, lee_error, mean_abs
        (N, G), see `PerImage`.
    power
        (N,) ‖F‖²/K, the size of the audited output itself.
    other
        (N, G) ‖DF[r]‖²/K along the directions of `relative`, mean over the partners; NaN for images it was not measured
        on.
    log_relative
        (N, G) mean over the partners of log(‖L F‖² / ‖DF[r]‖²), see `log_ratio`; NaN where that says nothing.
    top1
        (N,) the largest output's index; −1 for outputs that are no class scores.
    answers, other_answers
        (N, G) whether any derivative of the raw outputs is not exactly 0, along the generator and along the direction
        of `relative`.
    moves
        (N, G) whether the image has a tangent along the generator at all.
    digest
        (N,) a checksum of the raw outputs: equal for equal outputs.
    """

    lee: Float64Array
    lee_error: Float64Array
    mean_abs: Float64Array
    other: Float64Array
    log_relative: Float64Array
    power: Float64Array
    top1: npt.NDArray[np.int64]
    answers: npt.NDArray[np.bool_]
    other_answers: npt.NDArray[np.bool_]
    moves: npt.NDArray[np.bool_]
    digest: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images with everything the session needs of them.

    Attributes
    ----------
    indices
        Which images they are.
    pixels, directions
        (n, C, H, W) and their tangents (n, G, C, H, W).
    compared
        Places in the batch of the m images that `relative` is measured on.
    others
        The directions of `relative`, (m, G, C, H, W) for each partner.
    further
        Values of the model's further inputs, (n, …) by name.
    """

    indices: list[int]
    pixels: Float32Array
    directions: Float32Array
    compared: list[int]
    others: list[Float32Array]
    further: FurtherRows


def measure(
    differentiator: Differentiator,
    images: Images,
    *,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Measured:
    """Measure every image; finished shards are kept in ``shards`` and not computed again.

    Raises
    ------
    ModelError
        OUTPUT_NOT_FINITE, DERIVATIVE_NOT_FINITE, or what the session raises.
    DataError
        What reading the images raises.
    """
    compute = partial(_measure_shard, differentiator, images)
    return in_shards(compute, differentiator.method, images, shards=shards, progress=progress)


def in_shards(
    compute: Callable[[list[int], set[int], StageProgress], Arrays],
    method: str,
    images: Images,
    *,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Measured:
    """Measure every image by ``compute(indices, images that `relative` is measured on, stage)``, shard by shard."""
    relative = set(images.spread(images.spec.relative_images if images.count > 1 else 0))
    stage = StageProgress(progress, "audit", images.count)
    found: list[Arrays] = []
    for start in range(0, images.count, SHARD):
        indices = list(range(start, min(start + SHARD, images.count)))
        work = partial(compute, indices, relative, stage)
        arrays, computed = compute_once(shards, f"audit-{method}-{start:08d}", work)
        if not computed:
            stage.advance(len(indices), measured=False)
        found.append(arrays)
    joined = {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
    return Measured(**joined)


def _measure_shard(
    differentiator: Differentiator, images: Images, indices: list[int], relative: set[int], stage: StageProgress
) -> Arrays:
    spec, target = images.spec, images.target
    action = OutputAction.of(spec) if target.head.spatial else None
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    for batch in _prefetched(images, indices, relative, _images_at_once(target, spec)):
        count, pixels = len(batch.indices), batch.pixels
        other = np.full((PARTNERS, count, len(spec.generators)), np.nan)
        other_answers = np.zeros((count, len(spec.generators)), bool)
        rows: list[PerImage] = []
        answers: list[npt.NDArray[np.bool_]] = []
        top1 = np.full(count, -1, np.int64)
        # directions in groups, so that dense outputs of all of them are never held at once
        for group in _groups(len(spec.generators), _directions_at_once(target, spec, count)):
            derivatives = differentiator(pixels, batch.directions[:, group], group.start, batch.further)
            value = derivatives.value
            check_finite(value, batch.indices[0])
            power = np.mean(target.head.value(value).reshape(count, -1) ** 2, axis=1)
            if not target.head.spatial:
                top1 = np.argmax(value.reshape(count, -1), axis=1).astype(np.int64)
            lie = lie_derivative(derivatives, target.head, spec.generators[group], action)
            rows.append(PerImage.of(lie))
            answers.append(any_beyond(derivatives.tangent))
            check_derivative(rows[-1], spec.generators[group], batch.indices[0])
        for which, directions in enumerate(batch.others if batch.compared else ()):
            for group in _groups(len(spec.generators), _directions_at_once(target, spec, len(batch.compared))):
                beside = rows_of(batch.further, batch.compared)
                derivatives = differentiator(pixels[batch.compared], directions[:, group], group.start, beside)
                other_answers[batch.compared, group] |= any_beyond(derivatives.tangent)
                answer = PerImage.of(lie_derivative(derivatives, target.head, (), None)).lee
                other[which, batch.compared, group] = answer
        lee, lee_error = (np.concatenate([getattr(row, n) for row in rows], axis=1) for n in ("lee", "lee_error"))
        parts.append(
            {
                "lee": lee,
                "lee_error": lee_error,
                "mean_abs": np.concatenate([row.mean_abs for row in rows], axis=1),
                "other": other.mean(axis=0),
                "log_relative": log_ratio(lee, lee_error, other),
                "power": power,
                "top1": top1,
                "answers": np.concatenate(answers, axis=1),
                "other_answers": other_answers,
                "moves": any_beyond(batch.directions),
                "digest": checksums(value),
            }
        )
        stage.advance(count)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def log_ratio(lee: Float64Array, lee_error: Float64Array, other: Float64Array) -> Float64Array:
    """Return the mean over partners of log(‖L F‖² / ‖DF[r]‖²), (N, G), from ``other`` (partners, N, G).

    A LEE below its own numerical error is taken to be that error. NaN where an image does not answer to some partner's
    direction: then no ratio exists; −∞ where LEE and its error are exactly 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(lee, lee_error)) - np.log(other).mean(axis=0)
    return np.asarray(np.where(np.all(other > 0, axis=0), logs, np.nan))


def _prefetched(images: Images, indices: list[int], relative: set[int], at_once: int) -> Iterator[Batch]:
    """Give batches; the next one is read and differentiated while the session works on this."""

    def prepare(batch: list[int]) -> Batch:
        pixels = images.load(batch)
        directions = images.tangents(pixels)
        compared = [place for place, index in enumerate(batch) if index in relative]
        asked = [batch[place] for place in compared]
        others = [images.other_tangents(asked, directions[compared], which) for which in range(PARTNERS)]
        return Batch(batch, pixels, directions, compared, others, images.further.rows(batch))

    batches = [indices[i : i + at_once] for i in range(0, len(indices), at_once)]
    with ThreadPoolExecutor(1, thread_name_prefix="lieaudit-tangents") as pool:
        pending = pool.submit(prepare, batches[0])
        for following in [*batches[1:], None]:
            ready = pending.result()
            if following is not None:
                pending = pool.submit(prepare, following)
            yield ready


def _images_at_once(target: Target, spec: AuditSpec) -> int:
    """How many images' tangents (with those of `relative` and the prefetched batch) fit an eighth of the budget."""
    each = 4 * target.channels * target.height * target.width * (1 + (3 + PARTNERS) * len(spec.generators))
    return max(1, min(SHARD, spec.budget_mib * _MIB // 8 // each))


def _directions_at_once(target: Target, spec: AuditSpec, images: int) -> int:
    """How many directions' outputs (float64, about ten arrays of them) fit an eighth of the budget."""
    each = 8 * target.output_size * images * 10
    return max(1, spec.budget_mib * _MIB // 8 // each)


def checksums(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return a checksum of each of n outputs (n, *K): equal for equal ones."""
    return np.array([zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in values], np.int64)


def any_beyond(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say of rows (n, D, …) which (n, D) are not exactly 0."""
    return np.asarray(np.any(rows.reshape(*rows.shape[:2], -1) != 0, axis=2))


def _norms(moved: Float32Array) -> Float64Array:
    """Give the Euclidean norms of tangents (n, G, C, H, W): (n, G)."""
    return np.asarray(np.sqrt(np.einsum("ngchw,ngchw->ng", moved, moved, dtype=np.float64)), np.float64)


def _groups(count: int, at_once: int) -> Iterator[slice]:
    number = math.ceil(count / at_once)
    for i in range(number):
        yield slice(count * i // number, count * (i + 1) // number)
