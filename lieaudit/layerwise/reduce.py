"""Reducing contribution vectors to numbers per image and segment, after the head in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.layerwise.contribution_rows import Rows

if TYPE_CHECKING:
    from lieaudit.metrics.head import Head
    from lieaudit.metrics.lee import OutputAction
    from lieaudit.shards import Arrays
    from lieaudit.symmetries import Generator
    from lieaudit.symmetries.plan import Plan

Float64Array = npt.NDArray[np.float64]

GRAM_SEGMENTS = 512
"""With more segments the pairwise inner products (and so the cancellations) are left out."""


def reduce_rows(
    rows: Rows,
    lie: Float64Array,
    head: Head,
    segments: int,
    plan: Plan,
    action: OutputAction | None,
) -> Arrays:
    """Apply the head's differential and keep, for n images, G generators and S segments:

    ``lee`` (n, G, S) ‖C_k‖²/K; ``inner`` (n, G, S) ⟨C_k, L F⟩; ``error`` (n, G, S) bound on the error of ``lee``;
    ``subnetwork`` (n, G, S), NaN where not measured; ``lie`` (n, G) ‖L F‖²; ``residual`` (n, G) ‖Σ C_k − L F‖²;
    ``drift`` (n, G) ‖L F − L F of the audit‖²; ``gram`` (1, G, S, S) Σ over images of ⟨C_a, C_b⟩, empty beyond
    `GRAM_SEGMENTS`; ``size`` (n,) K.

    L F is the derivative that went through the same sessions uncut, where there is one, else the audit's. The audit's
    own may differ by more than rounding, without a fault in either: where a unit of a ReLU lies within rounding of its
    kink, two sessions with another order of sums may take different sides.

    Without an error estimate of its own, every contribution is taken to be as wrong as their sum and as the drift.

    Parameters
    ----------
    rows
        Of the plan's measured directions.
    lie
        The audit's L F, (n, G, *K).
    plan
        How the G generators are combined from the measured directions.
    action
        The symmetry on dense outputs; None where the output does not transform.
    """  # noqa: D400 - a list of what is kept follows
    n, count = len(rows.value), len(plan.asked)
    sources = list(rows.sources)
    extra = _head_rows(rows, head, plan.asked, action)
    own = None
    if rows.total is not None:
        total = np.stack(list(plan.combined(rows.total)), axis=1)
        own = _lie(rows.value, total, head, plan.asked, action)
    if extra is not None:
        sources.append(segments - 1)
    size = int(np.prod(rows.value.shape[1:]))
    out = empty(n, count, segments, size)
    out["subnetwork"][...] = np.nan
    bars = _bars(rows, head)
    for g, pushed in enumerate(plan.combined(np.moveaxis(rows.contributions, 2, 1))):
        vectors = head.differential(rows.value, pushed).reshape(n, len(rows.sources), size)
        if extra is not None:
            vectors = np.concatenate([vectors, extra[:, g].reshape(n, 1, size)], axis=1)
        audited = lie[:, g].reshape(n, size)
        target = audited if own is None else own[:, g].reshape(n, size)
        out["drift"][:, g] = np.square(target - audited).sum(axis=1)
        weights = plan.weights[g]
        inside = np.einsum("i,nsij,j->ns", weights, rows.subnetwork, weights)
        out["subnetwork"][:, g, list(rows.sources)] = np.maximum(inside, 0.0)
        wrong = None if bars is None else bars @ np.abs(weights)
        fill(out, g, sources, vectors, target, wrong)
    return out


def _bars(rows: Rows, head: Head) -> Float64Array | None:
    """Return bounds on the norms of the errors of Dh[C_k], (n, S, M); None where none were estimated."""
    if not rows.spreads:
        return None
    n, segments, lanes = rows.contributions.shape[:3]
    squares, size = np.zeros((n, segments, lanes)), int(np.prod(rows.value.shape[1:]))
    for spread in rows.spreads:
        for m in range(lanes):
            pushed = head.differential(rows.value, spread[:, :, m]).reshape(n, segments, size)
            squares[:, :, m] += np.einsum("nsk,nsk->ns", pushed, pushed)
    return np.asarray(rows.coverage * np.sqrt(squares))


def empty(n: int, generators: int, segments: int, size: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the arrays of `reduce_rows`, to be filled generator by generator."""
    width = segments if segments <= GRAM_SEGMENTS else 0
    return {name: np.zeros((n, generators, segments)) for name in ("lee", "inner", "error", "subnetwork")} | {
        "lie": np.zeros((n, generators)),
        "residual": np.zeros((n, generators)),
        "drift": np.zeros((n, generators)),
        "gram": np.zeros((1, generators, width, width)),
        "size": np.full(n, float(size)),
    }


def fill(
    out: dict[str, npt.NDArray[np.float64]],
    g: int,
    sources: Sequence[int],
    vectors: Float64Array,
    target: Float64Array,
    wrong: Float64Array | None,
) -> None:
    """Reduce the contributions under one generator to the numbers of `reduce_rows`, in place.

    Parameters
    ----------
    out, g
        The arrays, with ``drift`` set, and the generator's place in them.
    sources
        Segments of the contributions.
    vectors, target
        C_k, float64 (n, len(sources), K), and L F, (n, K).
    wrong
        Bound on the norm of their errors, for the first of them: (n, ≤ len(sources)). None: none was estimated.
    """
    squares = np.einsum("nsk,nsk->ns", vectors, vectors)
    residual = vectors.sum(axis=1) - target
    size = target.shape[1]
    out["residual"][:, g] = np.einsum("nk,nk->n", residual, residual)
    out["lie"][:, g] = np.einsum("nk,nk->n", target, target)
    out["lee"][:, g, sources] = squares / size
    out["inner"][:, g, sources] = np.einsum("nsk,nk->ns", vectors, target)
    if out["gram"].size:
        out["gram"][np.ix_([0], [g], sources, sources)] = np.einsum("nak,nbk->ab", vectors, vectors, optimize=True)
    rounding = np.sqrt(out["residual"][:, g] + out["drift"][:, g])
    bound = np.broadcast_to(rounding[:, None], squares.shape).copy()
    if wrong is not None:
        bound[:, : wrong.shape[1]] = wrong
    out["error"][:, g, sources] = (2 * np.sqrt(squares) + bound) * bound / size


def _head_rows(
    rows: Rows, head: Head, generators: Sequence[Generator], action: OutputAction | None
) -> Float64Array | None:
    """Return Dh(z)[X z] − X' h(z) of a pointwise function on a map, (n, G, *K): the head's own contribution."""
    if action is None or head.function == "identity":
        return None
    z = rows.value.astype(np.float64)
    return head.differential(z, action.tangents(z, generators)) - action.tangents(head.value(z), generators)


def _lie(
    value: npt.NDArray[np.float32],
    total: npt.NDArray[Any],
    head: Head,
    generators: Sequence[Generator],
    action: OutputAction | None,
) -> Float64Array:
    """Return L F = Dh(z)[D z[X x]] − X' F, float64 (n, G, *K)."""
    pushed = head.differential(value, total)
    return pushed if action is None else pushed - action.tangents(head.value(value), generators)


def join(parts: Sequence[Arrays]) -> dict[str, npt.NDArray[np.generic]]:
    """Join the arrays of batches or shards; the inner products are summed."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    joined["gram"] = joined["gram"].sum(axis=0, keepdims=True)
    return joined
