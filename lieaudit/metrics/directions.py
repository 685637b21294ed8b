"""Every affine direction from one Gram matrix: the ones that a model answers to most and least for one pixel of motion.

M_ij = E⟨L_i F, L_j F⟩/K over the basis and D_ij, the mean of v_i · v_j over the grid, say for every affine field c what
its LEE is, cᵀ M c, and how far it moves the pixels, cᵀ D c (`lieaudit.symmetries.affine`).

Among many directions the largest estimate is one that the sample flattered. The intervals of the extremes therefore
hold two things: the bootstrap interval of the LEE along the stated field, and that of the extreme itself over
resamples of the images, scaled down by its bias (`AffineDirection.bias`: the mean over resamples less the estimate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.report import Affine, AffineDirection, Skipped
from lieaudit.statistics import bootstrap_interval
from lieaudit.symmetries.affine import BASIS, coefficients, directions, displacement_matrix, eigenvalues
from lieaudit.symmetries.words import in_words

if TYPE_CHECKING:
    from lieaudit.images import Images
    from lieaudit.measured import Measured
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries.plan import Plan

Array = npt.NDArray[np.float64]

_BLOCK = 1 << 20


def affine_or_why(measured: Measured, images: Images) -> tuple[Affine | None, tuple[Skipped, ...]]:
    """Return what is known of all affine directions, or why nothing is."""
    plan = images.plan
    if images.spec.secant_px is not None:
        why = "secants of a stated size are not linear in the direction"
    elif plan.basis is None:
        why = "the generators do not span all affine directions: ask for all geometric ones"
    elif images.target.height < 2 and images.target.width < 2:
        why = "an image of one pixel moves nowhere"
    else:
        size = (images.target.height, images.target.width)
        return affine_result(measured.gram, measured.bars, plan, size, images.spec), ()
    return None, (Skipped("affine", why),)


def affine_result(gram: Array, bars: Array, plan: Plan, size: tuple[int, int], spec: AuditSpec) -> Affine:
    """Return what the report says of all affine directions.

    Parameters
    ----------
    gram
        (N, M, M) ⟨L_i F, L_j F⟩/K of every image over the plan's measured directions.
    bars
        (N, M) bounds on the errors of ‖L_m F‖/√K.
    plan
        One whose measured directions span the basis.
    size
        (H, W) of the images.
    spec
        Resamples and seed.
    """
    basis = plan.basis
    assert basis is not None  # noqa: S101 - asked of the caller
    own = np.einsum("im,nmk,jk->nij", basis, gram, basis)
    whole = own.mean(axis=0)
    found = directions(whole, *size)
    draws = _draws(own, size, spec)
    means = _interval(draws.mean(axis=1), found.mean) if len(own) > 1 else ()

    def extreme(at: int) -> AffineDirection:
        c = coefficients(found.fields[at], *size)
        values = np.maximum(np.einsum("i,nij,j->n", c, own, c), 0.0)
        errors = bars @ np.abs(c @ basis)
        errors = (2.0 * np.sqrt(values) + errors) * errors
        lee = float(found.eigenvalues[at])
        bias: float | None = None
        interval: tuple[float, ...] = ()
        if len(own) > 1:
            bias = float(draws[:, at].mean() - lee)
            scale = lee / draws[:, at].mean() if lee > 0 else 1.0
            low, high = _interval(scale * draws[:, at], lee)
            along = bootstrap_interval(values, resamples=spec.bootstrap, seed=spec.seed)
            interval = (max(0.0, min(low, float(along[0]))), max(high, float(along[1])))
        return AffineDirection(
            field=tuple(tuple(map(float, row)) for row in found.fields[at]),
            lee=max(lee, 0.0),
            ci95=interval,
            error_bar=float(np.sqrt(np.sum(errors**2)) / len(errors)),
            words=in_words(found.fields[at], *size),
            bias=bias,
        )

    return Affine(
        basis=BASIS,
        gram=_rows(whole),
        displacement=_rows(displacement_matrix(*size)),
        eigenvalues=tuple(max(float(value), 0.0) for value in found.eigenvalues),
        worst=extreme(-1),
        best=extreme(0),
        mean=max(found.mean, 0.0),
        mean_ci95=means,
    )


def _draws(own: Array, size: tuple[int, int], spec: AuditSpec) -> Array:
    """Return the eigenvalues of resampled images' mean Gram matrix, (B, r) ascending."""
    count, rng = len(own), np.random.default_rng(spec.seed)
    flat = own.reshape(count, -1)
    at_once = max(1, _BLOCK // count)
    found = []
    for start in range(0, spec.bootstrap, at_once):
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=min(at_once, spec.bootstrap - start))
        found.append(eigenvalues((drawn @ flat / count).reshape(-1, *own.shape[1:]), *size))
    return np.concatenate(found)


def _interval(draws: Array, estimate: float) -> tuple[float, ...]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return max(0.0, min(float(low), estimate)), max(float(high), estimate)


def _rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in matrix)
