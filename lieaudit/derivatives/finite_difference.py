"""Central finite differences with a measured noise level, a chosen step and an error bar.

D(t) = (z(x + t v) − z(x − t v)) / 2t errs by truncation, which falls with t (as t² where z is smooth, about as t
across the kinks of ReLUs), and by rounding noise σ/(√2 t), which grows as t falls. No fixed step serves: the best one
moves by 300× between models, and between the images of one model with the kinks that happen to lie near.

So the scale of the step is chosen per generator on a few images, from a ladder; then every image is differentiated at
four steps 2t, t, t/2, t/4 and keeps the one whose measured error is least. Two things measure that error, and
both vanish for an exact derivative: the difference between neighbouring steps, and the second difference
S(t) = (z(x + t v) + z(x − t v) − 2 z(x)) / 2t. A kink at distance s < t bends both D and S by the same vector (up to
sign), whatever s is; the difference of neighbouring steps alone is blind to a kink at s ≪ t.

Where the output barely changes, both steps round to zero, and their agreement means nothing. The last rounding of
z is therefore part of every error, measured or not.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.derivatives.base import NOTHING, Columns, Derivatives, Float32Array, Float64Array, FurtherRows, rows_of
from lieaudit.derivatives.noise import EVALUATIONS, noise_level
from lieaudit.derivatives.rounding import last_rounding
from lieaudit.derivatives.rows import RowEvaluator
from lieaudit.errors import SpecError

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec

_quiet = np.errstate(invalid="ignore", over="ignore")
"""Outputs that are NaN or infinite are reported by the caller, who knows the image; numpy need not warn as well."""

LADDER = 2.0 ** np.arange(-18, -1, 2)
"""Candidate steps, as the size of t·v relative to the image (root mean squares)."""

_NOISE_STEP = 2.0**-21
"""Relative step for the noise table: about 4 units in the last place of float32."""

STEPS = 2.0 ** np.arange(1, -3, -1)
"""Steps that every image is differentiated at, relative to the calibrated t."""

_WORTH_EXTRAPOLATING = 0.5
"""Richardson extrapolation must halve the disagreement, since it amplifies noise by 2.7."""

_COVERAGE = 3.0
"""Error bar over the norm of the spreads. On trained ReLU networks the true error is below 1.6 to 2.7
times that norm for 95 % of images, depending on model and generator (tests/core/test_error_bars.py)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `FiniteDifference.calibrate` found, per direction.

    Attributes
    ----------
    steps
        (D,) the calibrated step t, in units of t; images use it times `STEPS`.
    richardson
        (D,) whether (4 D(t/2) − D(t)) / 3 is used instead of D(t/2): the model is smooth along this generator.
    noise
        (D,) σ of the raw outputs, root mean square over components and images; None where it was not measured.
    """

    steps: Float64Array
    richardson: npt.NDArray[np.bool_]
    noise: Float64Array | None


class FiniteDifference:
    """Central finite differences of one model: a `Differentiator`.

    Parameters
    ----------
    model, spec
        The normalised model; provider, threads, memory budget and a fixed ``step`` if any.

    Raises
    ------
    ProviderError, ModelError, BudgetError
        As `RowEvaluator` does.
    """

    method = "finite_difference"

    def __init__(self, model: AuditableModel, spec: AuditSpec) -> None:
        self._evaluator = RowEvaluator(model, spec)
        self._head = model.head
        self._fixed_step = spec.step
        self.calibration: Calibration | None = None
        self.fallback_ops = self._evaluator.fallback_ops

    @property
    def rows_done(self) -> int:
        """Rows that went through the session so far."""
        return self._evaluator.rows_done

    def for_other_directions(self) -> FiniteDifference:
        """Return the same method, on the same session, to be calibrated for other directions."""
        other = copy.copy(self)
        other.calibration = None
        return other

    def base(self, images: Float32Array, further: FurtherRows = NOTHING) -> Float32Array:
        """Return z(x) for images (n, C, H, W)."""
        return self._evaluator.base(images, further)

    @_quiet
    def calibrate(self, images: Float32Array, directions: Float32Array, further: FurtherRows = NOTHING) -> Calibration:
        """Measure noise and choose a step per generator on a few images.

        Parameters
        ----------
        images, directions
            (n, C, H, W) and (n, G, C, H, W), float32; a handful of images suffices.
        further
            Values of the model's other inputs for them.
        """
        unit = _unit_steps(images, directions)
        z = self._evaluator.base(images, further)
        noise = self._noise(images, directions, unit, further)
        if self._fixed_step is not None:
            steps = np.full(directions.shape[1], self._fixed_step)
            self.calibration = Calibration(steps, np.zeros(len(steps), bool), noise)
            return self.calibration
        best, richardson = self._chosen(images, directions, unit, z, further)
        self.calibration = Calibration(unit * best, richardson, noise)
        return self.calibration

    def _chosen(
        self, images: Float32Array, directions: Float32Array, unit: Float64Array, z: Float32Array, further: FurtherRows
    ) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
        """Choose the relative step, and whether to extrapolate, for each direction."""
        # image by image and direction by direction: a dense output is large, a ladder of them larger
        plain, extrapolated = [], []
        for g in range(directions.shape[1]):
            pairs = [
                _pairs(*self._ladder(images[one], directions[one, g : g + 1], unit[g], z[one], rows_of(further, one)))
                for one in (slice(i, i + 1) for i in range(len(images)))
            ]
            plain.append(_typical([pair[0] for pair in pairs]))
            extrapolated.append(_typical([pair[1] for pair in pairs]))
        plain_at, extrapolated_at = np.argmin(plain, axis=1), np.argmin(extrapolated, axis=1)
        gain = np.min(extrapolated, axis=1) - np.min(plain, axis=1)
        richardson = gain < np.log(_WORTH_EXTRAPOLATING)
        # The coarser of the best pair is limited by truncation, the finer by noise: the best step lies between them.
        best = np.where(richardson, LADDER[extrapolated_at + 1], LADDER[plain_at + 1] / np.sqrt(2.0))
        return best, richardson

    @_quiet
    def calibrate_for_checks(
        self, images: Float32Array, directions: Float32Array, further: FurtherRows = NOTHING
    ) -> Calibration:
        """Choose one relative step for all directions, along one combination of them, and measure no noise.

        Enough to check another method: every image is differentiated at four steps about it, and its error bar says
        what came of that. Parameters as of `calibrate`.
        """
        if self._fixed_step is not None:
            steps = np.full(directions.shape[1], self._fixed_step)
            self.calibration = Calibration(steps, np.zeros(len(steps), bool), None)
            return self.calibration
        unit = _unit_steps(images, directions)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], directions.shape[:2])
        mixed = np.einsum("nd,nd...->n...", (signs * unit).astype(np.float32), directions)[:, None]
        z = self._evaluator.base(images, further)
        along = _unit_steps(images, mixed)
        best, richardson = self._chosen(images, mixed, along, z, further)
        self.calibration = Calibration(unit * best[0], np.repeat(richardson, len(unit)), None)
        return self.calibration

    @_quiet
    def __call__(
        self,
        images: Float32Array,
        directions: Float32Array,
        columns: Columns = 0,
        further: FurtherRows = NOTHING,
        *,
        judged: int | None = None,
    ) -> Derivatives:
        """Differentiate along directions (n, D, C, H, W), which of the calibrated ones ``columns`` say.

        What measures the error decides about the step; it is kept along the first ``judged`` directions.

        Raises
        ------
        SpecError
            NOT_CALIBRATED: `calibrate` was not called.
        """
        if self.calibration is None:
            raise SpecError("finite differences need calibrate() first", reason="NOT_CALIBRATED", subject="step")
        group = columns + np.arange(directions.shape[1]) if isinstance(columns, int) else columns
        steps = self.calibration.steps[group, None] * STEPS
        z = self._evaluator.base(images, further)
        slopes, bends = self._differences(images, directions, steps, z, further)
        rounding = last_rounding(z)
        tangent = np.empty_like(slopes[:, :, 0])
        spreads = tuple(np.empty_like(tangent) for _ in range(4))
        for d, extrapolate in enumerate(self.calibration.richardson[group]):
            candidates = [
                (*parts, rounding * share)
                for parts, share in zip(
                    (_extrapolated if extrapolate else _plain)(slopes[:, d], bends[:, d]),
                    _rounding_share(steps[d], extrapolate=bool(extrapolate)),
                    strict=True,
                )
            ]
            if self._fixed_step is not None:
                # a secant of stated size is what was asked for: the first candidate is the one of step t itself
                candidates = candidates[:1]
            chosen = self._least_error(z, [candidate[1:] for candidate in candidates])
            for target, parts in zip((tangent, *spreads), zip(*candidates, strict=True), strict=True):
                target[:, d] = np.stack(parts)[chosen, np.arange(len(images))]
        kept = tuple(spread[:, :judged] for spread in spreads) if judged != 0 else ()
        return Derivatives(value=z, tangent=tangent, spreads=kept, coverage=_COVERAGE)

    def _least_error(self, z: Float32Array, spreads: list[tuple[Float64Array, ...]]) -> npt.NDArray[np.intp]:
        """Give, per image, the candidate whose spreads are smallest in the audited output."""
        errors = [
            sum(np.sum(self._head.differential(z, part[:, None]).reshape(len(z), -1) ** 2, axis=1) for part in parts)
            for parts in spreads
        ]
        return np.asarray(np.argmin(errors, axis=0))

    def _differences(
        self,
        images: Float32Array,
        directions: Float32Array,
        steps: Float64Array,
        z: Float32Array,
        further: FurtherRows,
    ) -> tuple[Float64Array, Float64Array]:
        """Return D(t) and S(t), float64 (n, D, S, *K), for steps (D, S)."""
        # the step that float32 rows really take
        steps = steps.astype(np.float32).astype(np.float64)
        signed = np.concatenate([steps, -steps], axis=1).astype(np.float32)
        rows = self._evaluator.along(images, directions, signed, further).astype(np.float64)
        ahead, behind = rows[:, :, : steps.shape[1]], rows[:, :, steps.shape[1] :]
        scale = (2.0 * steps).reshape(1, *steps.shape, *[1] * (rows.ndim - 3))
        return (ahead - behind) / scale, (ahead + behind - 2.0 * z[:, None, None].astype(np.float64)) / scale

    def _ladder(
        self, image: Float32Array, direction: Float32Array, unit: float, z: Float32Array, further: FurtherRows
    ) -> tuple[list[Float64Array], Float64Array]:
        """Return Dh D(t), flattened, and its rounding for every step of the ladder: one image, one direction."""
        steps = np.asarray(unit * LADDER[None], np.float64)
        derivatives, _ = self._differences(image, direction, steps, z, further)
        rounding = np.linalg.norm(self._head.differential(z, last_rounding(z)[:, None]))
        slopes = [self._head.differential(z, derivatives[:, :, s]).ravel() for s in range(len(LADDER))]
        return slopes, rounding / (np.sqrt(2.0) * steps[0])

    def _noise(
        self, images: Float32Array, directions: Float32Array, unit: Float64Array, further: FurtherRows
    ) -> Float64Array:
        table = unit[:, None] * _NOISE_STEP * np.arange(EVALUATIONS)
        variance = np.zeros(directions.shape[1])
        for one in (slice(i, i + 1) for i in range(len(images))):
            for g in range(directions.shape[1]):
                z = self._evaluator.along(
                    images[one],
                    directions[one, g : g + 1],
                    table[g : g + 1].astype(np.float32),
                    rows_of(further, one),
                )
                # below its resolution a function is not without noise, only without measurable noise
                resolution = np.spacing(np.abs(z[0, 0, 0])).astype(np.float64) / np.sqrt(12.0)
                noise = np.maximum(noise_level(z[0, 0].astype(np.float64)), resolution)
                variance[g] += np.mean(noise**2) / len(images)
        return np.sqrt(variance)


def _unit_steps(images: Float32Array, directions: Float32Array) -> Float64Array:
    """Give, per direction, the t at which t·v is as large as the image (root mean squares over the images)."""
    image = np.sqrt(np.mean(np.square(images, dtype=np.float64))) or 1.0  # black images have no size of their own
    moved = np.sqrt(np.mean(np.square(directions, dtype=np.float64), axis=(0, 2, 3, 4)))
    # a direction that is zero on all images (brightness of black ones) has derivative 0 at any step
    return np.asarray(np.where(moved > 0, image / np.where(moved > 0, moved, 1.0), 1.0))


def _pairs(ladder: list[Float64Array], rounding: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return how far neighbouring steps disagree, relative to the largest derivative: plain and extrapolated.

    The difference of two neighbours measures the error of the worse one. For the plain ones (S − 1,), with the
    Richardson extrapolation to step ratio 4 (16 D(t/4) − D(t)) / 15 one fewer. ``rounding`` (S,) is the least norm that
    the error of each derivative has.
    """
    scale = max(float(np.linalg.norm(derivative)) for derivative in ladder) or 1.0
    extrapolated = [(16.0 * fine - coarse) / 15.0 for fine, coarse in itertools.pairwise(ladder)]
    rounding_extrapolated = np.hypot(16.0 * rounding[:-1], rounding[1:]) / 15.0
    return _neighbours(ladder, rounding) / scale, _neighbours(extrapolated, rounding_extrapolated) / scale


def _neighbours(derivatives: list[Float64Array], rounding: Float64Array) -> Float64Array:
    measured = np.array([np.linalg.norm(b - a) for a, b in itertools.pairwise(derivatives)])
    return np.asarray(np.sqrt(measured**2 + rounding[:-1] ** 2 + rounding[1:] ** 2))


def _typical(disagreements: list[Float64Array]) -> Float64Array:
    """Return the mean logarithm over images, smoothed over neighbouring steps: a lucky coincidence must not win."""
    mean = np.mean(np.log(np.maximum(disagreements, np.finfo(np.float64).tiny)), axis=0)
    padded = np.pad(mean, 1, mode="edge")
    return np.asarray(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:])


def _plain(first: Float64Array, second: Float64Array) -> list[tuple[Float64Array, ...]]:
    """Return D(t) and its three spreads for every step but the first: arrays (n, S, *K) → per candidate (n, *K)."""
    return [
        (first[:, j], first[:, j] - first[:, j - 1], second[:, j], second[:, j - 1]) for j in range(1, first.shape[1])
    ]


def _extrapolated(first: Float64Array, second: Float64Array) -> list[tuple[Float64Array, ...]]:
    """Return (4 D(t/2) − D(t)) / 3 and its three spreads.

    Smooth curvature, which S(t) holds to first order in t, drops out of S(t) − 2 S(t/2); kinks and noise stay.
    """
    finer = (4.0 * first[:, 1:] - first[:, :-1]) / 3.0
    bends = second[:, :-1] - 2.0 * second[:, 1:]
    return [
        (finer[:, j], finer[:, j] - finer[:, j - 1], bends[:, j], bends[:, j - 1]) for j in range(1, finer.shape[1])
    ]


def _rounding_share(steps: Float64Array, *, extrapolate: bool) -> Float64Array:
    """Return the factor from an error of z to that of each candidate: two errors of z over 2t, halved steps over 3."""
    shares = 1.0 / (np.sqrt(2.0) * steps)
    return np.asarray(np.hypot(4.0 * shares[1:], shares[:-1]) / 3.0 if extrapolate else shares)[1:]
