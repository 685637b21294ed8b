"""Secants of a stated size: (T'_−t F(T_t x) − T'_t F(T_−t x)) / 2t.

A secant is no estimate of a derivative: it *is* the quantity, how much the audited function answers to a symmetry of
that size, so it has no truncation error and exists where a derivative does not, as in quantised graphs. The images
move by the exact flow T_t, the head is applied in float64, and a dense output is carried back by the flow on its own
grid. Two versions of a model in different precisions are compared by the same secants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.derivatives.rounding import COVERAGE, last_rounding
from lieaudit.derivatives.rows import RowEvaluator
from lieaudit.images import Images
from lieaudit.measure import any_beyond, checksums, in_shards
from lieaudit.measured import Measured
from lieaudit.metrics.lee import LieDerivative, PerImage, check_finite
from lieaudit.metrics.relative import PARTNERS, log_ratio
from lieaudit.symmetries import step_of_size, transform

if TYPE_CHECKING:
    from lieaudit.derivatives.base import Float32Array, Float64Array
    from lieaudit.graph.load import AuditableModel
    from lieaudit.progress import ProgressCallback, StageProgress
    from lieaudit.shards import Arrays, ShardStore
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator

_MIB = 1 << 20


class Secants:
    """Measures secants of one model.

    Parameters
    ----------
    model, spec
        The normalised model, and a specification whose ``secant_px`` is set.

    Raises
    ------
    ProviderError, ModelError, BudgetError
        As `RowEvaluator` does.
    """

    method = "secant"

    def __init__(self, model: AuditableModel, spec: AuditSpec) -> None:
        self._evaluator = RowEvaluator(model, spec)
        self._head = model.head
        self._generators = spec.actions(model.height, model.width)
        self._interpolation, self._padding = spec.interpolation, spec.padding
        size = spec.secant_px or 0.0
        self.steps = tuple(step_of_size(one, size, model.height, model.width) for one in self._generators)
        self.fallback_ops: Mapping[str, int] = self._evaluator.fallback_ops

    @property
    def rows_done(self) -> int:
        """Rows that went through the session so far."""
        return self._evaluator.rows_done

    def measure(self, images: Images, *, shards: ShardStore | None, progress: ProgressCallback | None) -> Measured:
        """Measure every image; finished shards are kept and not computed again.

        Raises
        ------
        ModelError
            OUTPUT_NOT_FINITE, or what the session raises.
        DataError
            What reading the images raises.
        """

        def compute(indices: list[int], relative: set[int], stage: StageProgress) -> Arrays:
            return self._shard(images, indices, relative, stage)

        found = in_shards(compute, self.method, images, what="secants", shards=shards, progress=progress)
        return Measured(**found)

    def _shard(self, images: Images, indices: list[int], relative: set[int], stage: StageProgress) -> Arrays:
        parts: list[dict[str, npt.NDArray[np.generic]]] = []
        for start in range(0, len(indices), self._at_once(images)):
            batch = indices[start : start + self._at_once(images)]
            pixels = images.load(batch)
            z = self._evaluator.base(pixels, images.further.rows(batch))
            check_finite(z, batch)
            value = self._head.value(z).reshape(len(batch), -1)
            rows = [self._generator(images, batch, pixels, g) for g in range(len(self._generators))]
            other = np.stack([self._others(images, batch, pixels, relative, which) for which in range(PARTNERS)])
            lee, lee_error = (np.concatenate([getattr(row, n) for row in rows], axis=1) for n in ("lee", "lee_error"))
            spatial = self._head.spatial
            top1 = np.full(len(batch), -1) if spatial else np.argmax(z.reshape(len(z), -1), axis=1)
            parts.append(
                {
                    "lee": lee,
                    "lee_error": lee_error,
                    "mean_abs": np.concatenate([row.mean_abs for row in rows], axis=1),
                    "other": other.mean(axis=0),
                    "log_relative": log_ratio(lee, lee_error, other),
                    "power": np.mean(value**2, axis=1),
                    "top1": top1.astype(np.int64),
                    "answers": np.concatenate([row.lee for row in rows], axis=1) != 0,
                    "other_answers": np.any(np.nan_to_num(other) != 0, axis=0),
                    "moves": any_beyond(images.tangents(pixels)),
                    "digest": checksums(z),
                    "gram": np.zeros((len(batch), 0, 0)),
                    "bars": np.zeros((len(batch), 0)),
                }
            )
            stage.advance(len(batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _generator(self, images: Images, batch: list[int], pixels: Float32Array, g: int) -> PerImage:
        """Measure one generator on some images, and how far rounding moves that."""
        t, generator = self.steps[g], self._generators[g]
        ends = [self._moved(images, pixels, generator, sign * t) for sign in (1, -1)]
        outputs = [
            self._carried_back(images, end, generator, sign * t, batch) for end, sign in zip(ends, (1, -1), strict=True)
        ]
        secant = (outputs[0][0] - outputs[1][0]) / (2 * t)
        # every pixel moved by one unit of its rounding: what float32 makes of it no exact arithmetic would notice
        redrawn = [
            self._carried_back(images, _redrawn(end, seed), generator, sign * t, batch)
            for seed, (end, sign) in enumerate(zip(ends, (1, -1), strict=True))
        ]
        moved = (redrawn[0][0] - redrawn[1][0]) / (2 * t) - secant
        spreads = [moved, *(end[1] / (2 * t) for end in outputs)]
        squares = sum(np.sum(spread.reshape(len(batch), -1) ** 2, axis=1) for spread in spreads)
        return PerImage.of(LieDerivative(secant[:, None], COVERAGE * np.sqrt(squares)[:, None]))

    def _others(
        self, images: Images, batch: list[int], pixels: Float32Array, relative: set[int], which: int
    ) -> Float64Array:
        """Measure the direction of `relative`: the change of another image, as large as this image's own."""
        found = np.full((len(batch), len(self._generators)), np.nan)
        places = [place for place, index in enumerate(batch) if index in relative]
        if not places:
            return found
        others = images.load([images.partner(batch[place], which) for place in places])
        here, further = pixels[places], images.further.rows([batch[place] for place in places])
        for g, generator in enumerate(self._generators):
            t = self.steps[g]
            own, other = (
                (self._moved(images, x, generator, t) - self._moved(images, x, generator, -t)) / 2
                for x in (here, others)
            )
            wanted, size = (np.linalg.norm(change.reshape(len(places), -1), axis=1) for change in (own, other))
            scale = np.where(size > 0, wanted / np.where(size > 0, size, 1.0), 0.0)
            change = other * scale[:, None, None, None]
            ahead, behind = (
                self._head.value(self._evaluator.base((here + sign * change).astype(np.float32), further))
                for sign in (1, -1)
            )
            found[places, g] = np.mean(((ahead - behind) / (2 * t)).reshape(len(places), -1) ** 2, axis=1)
        return found

    def _moved(self, images: Images, pixels: Float32Array, generator: Generator, t: float) -> Float64Array:
        """Return T_t x, float64."""
        spec = images.spec
        return np.asarray(
            transform(
                pixels.astype(np.float64), generator, t, interpolation=spec.interpolation, padding=spec.padding,
                zero_point=images.zero_point,
            )
        )  # fmt: skip

    def _carried_back(
        self, images: Images, pixels: Float64Array, generator: Generator, t: float, batch: list[int]
    ) -> tuple[Float64Array, Float64Array]:
        """Return T'_−t F at pixels, and how far the last rounding of the raw outputs moves it."""
        z = self._evaluator.base(pixels.astype(np.float32), images.further.rows(batch))
        check_finite(z, batch)
        value = self._head.value(z)
        rounded = self._head.value(z.astype(np.float64) + last_rounding(z)) - value
        if not (self._head.spatial and generator.spatial):
            return value, rounded
        carried = [
            np.asarray(
                transform(part, generator, -t, interpolation=self._interpolation, padding=self._padding), np.float64
            )
            for part in (value, rounded)
        ]
        return carried[0], carried[1]

    def _at_once(self, images: Images) -> int:
        """How many images, with some twenty arrays of float64 for inputs and outputs, fit a quarter of the budget."""
        target = images.target
        each = 8 * 20 * (target.channels * target.height * target.width + target.output_size)
        return int(max(1, min(32, images.spec.budget // 4 // each)))


def _redrawn(pixels: Float64Array, seed: int) -> Float64Array:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], pixels.shape)
    return np.asarray(pixels + signs * np.spacing(np.abs(pixels).astype(np.float32)), np.float64)
