"""Central finite differences with a measured noise level, a chosen step and an error bar.

D(t) = (z(x + t v) − z(x − t v)) / 2t errs by truncation, which falls with t (as t² where z is smooth, about as t across the
kinks of ReLUs), and by rounding noise σ/(√2 t), which grows as t falls. No fixed step serves: the best one moves
by 300× between models. So the step is chosen on a few images from a ladder of steps, and every image is
differentiated at two steps, t and t/2, whose difference is the measured error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.derivatives.base import Derivatives, Float32Array, Float64Array
from lieaudit.derivatives.noise import EVALUATIONS, noise_level
from lieaudit.derivatives.rows import RowEvaluator
from lieaudit.errors import SpecError

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec

LADDER = 2.0 ** np.arange(-18, -1, 2)
"""Candidate steps, as the size of t·v relative to the image (root mean squares)."""

_NOISE_STEP = 2.0**-21
"""Relative step for the noise table: about 4 units in the last place of float32."""

_COVERAGE = 3.0
"""Error bar over ‖D(t) − D(t/2)‖. For pure noise the true error of D(t/2) is 0.9 of that difference, for a kink 1.0 on
average but more where the kink lies within t/2 of the image; 3 covers 95 % of images on trained ReLU networks
(tests/core/test_error_bars.py measures it)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `FiniteDifference.calibrate` found, per generator.

    Attributes
    ----------
    steps
        (G,) the larger step t, in units of t.
    richardson
        (G,) whether (4 D(t/2) − D(t)) / 3 is used instead of D(t/2).
    noise
        (G,) σ of the raw outputs, root mean square over components and images.
    """

    steps: Float64Array
    richardson: npt.NDArray[np.bool_]
    noise: Float64Array


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

    def rows(self, directions: int) -> int:
        """Give the number of session rows per image: the image, and four per direction."""
        return 1 + 4 * directions

    def base(self, images: Float32Array) -> Float32Array:
        """Give z(x) for images (n, C, H, W)."""
        return self._evaluator.base(images)

    def calibrate(self, images: Float32Array, directions: Float32Array) -> Calibration:
        """Measure noise and choose a step per generator on a few images.

        Parameters
        ----------
        images, directions
            (n, C, H, W) and (n, G, C, H, W), float32; a handful of images suffices.
        """
        unit = _unit_steps(images, directions)
        z = self._evaluator.base(images)
        noise = self._noise(images, directions, unit)
        if self._fixed_step is not None:
            steps = np.full(directions.shape[1], self._fixed_step)
            self.calibration = Calibration(steps, np.zeros(len(steps), bool), noise)
            return self.calibration
        ladder = unit[:, None] * LADDER
        derivatives = self._central(images, directions, ladder)
        heads = np.stack([self._head.differential(z, derivatives[:, :, s]) for s in range(len(LADDER))])
        # heads: (S, n, G, *K); consecutive differences measure the error of the worse of two neighbouring steps
        plain, plain_at = _best_pair(heads)
        extrapolated, extrapolated_at = _best_pair((16.0 * heads[:-1] - heads[1:]) / 15.0)
        richardson = extrapolated < 0.5 * plain
        # The best single step lies between the two of the best pair; t and t/2 straddle it.
        best = np.where(richardson, LADDER[extrapolated_at + 1], LADDER[plain_at + 1] / np.sqrt(2.0))
        self.calibration = Calibration(unit * best, richardson, noise)
        return self.calibration

    def __call__(self, images: Float32Array, directions: Float32Array) -> Derivatives:
        """Differentiate along directions (n, D, C, H, W); D is a multiple of the G that calibration saw.

        Raises
        ------
        SpecError
            NOT_CALIBRATED: `calibrate` was not called.
        """
        if self.calibration is None:
            raise SpecError("finite differences need calibrate() first", reason="NOT_CALIBRATED", subject="step")
        repeats = directions.shape[1] // len(self.calibration.steps)
        steps = np.tile(self.calibration.steps, repeats)
        richardson = np.tile(self.calibration.richardson, repeats)
        z = self._evaluator.base(images)
        both = self._central(images, directions, np.stack([steps, steps / 2.0], axis=1))
        full, half = both[:, :, 0], both[:, :, 1]
        difference = half - full
        extrapolate = richardson.reshape(-1, *[1] * (full.ndim - 2))
        tangent = half + np.where(extrapolate, difference / 3.0, 0.0)
        return Derivatives(value=z, tangent=tangent, spreads=(difference,), coverage=_COVERAGE)

    def _central(self, images: Float32Array, directions: Float32Array, steps: Float64Array) -> Float64Array:
        """Give D(t), float64 (n, D, S, *K), for steps (D, S)."""
        # the step that float32 rows really take
        steps = steps.astype(np.float32).astype(np.float64)
        signed = np.concatenate([steps, -steps], axis=1).astype(np.float32)
        z = self._evaluator.along(images, directions, signed).astype(np.float64)
        count = steps.shape[1]
        scale = (2.0 * steps).reshape(1, *steps.shape, *[1] * (z.ndim - 3))
        return np.asarray((z[:, :, :count] - z[:, :, count:]) / scale)

    def _noise(self, images: Float32Array, directions: Float32Array, unit: Float64Array) -> Float64Array:
        table = unit[:, None] * _NOISE_STEP * np.arange(EVALUATIONS)
        z = self._evaluator.along(images, directions, table.astype(np.float32)).astype(np.float64)
        sigma = noise_level(np.moveaxis(z, 2, 0))
        axes = (0, *range(2, sigma.ndim))
        return np.asarray(np.sqrt(np.mean(sigma**2, axis=axes)))


def _unit_steps(images: Float32Array, directions: Float32Array) -> Float64Array:
    """Give, per direction, the t at which t·v is as large as the image (root mean squares over the images)."""
    image = np.sqrt(np.mean(np.square(images, dtype=np.float64)))
    moved = np.sqrt(np.mean(np.square(directions, dtype=np.float64), axis=(0, 2, 3, 4)))
    # a direction that is zero on all images (brightness of black ones) has derivative 0 at any step
    return np.asarray(np.where(moved > 0, image / np.where(moved > 0, moved, 1.0), 1.0))


def _best_pair(heads: Float64Array) -> tuple[Float64Array, npt.NDArray[np.intp]]:
    """Find, per generator, the neighbouring steps that agree best; give their relative difference and lower index."""
    axes = tuple(range(3, heads.ndim))
    norms = np.sqrt(np.sum(heads**2, axis=axes))
    differences = np.sqrt(np.sum(np.diff(heads, axis=0) ** 2, axis=axes))
    scale = np.median(norms, axis=0)
    relative = np.median(differences / np.where(scale > 0, scale, 1.0), axis=1)
    at = np.argmin(relative, axis=0)
    return np.min(relative, axis=0), at
