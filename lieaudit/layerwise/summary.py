"""From per-image numbers to the report's `Layerwise`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.report import Cancellation, DepthTotal, KindTotal, Layerwise, Segment
from lieaudit.statistics import bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lieaudit.shards import Arrays
    from lieaudit.spec import AuditSpec

Float64Array = npt.NDArray[np.float64]

COMPLETE = {"forward": 1e-4, "torch": 1e-4, "finite_difference": 0.05}
"""Up to this ‖Σ C_k − L F‖ / ‖L F‖ a decomposition is complete: rounding, or the error of differences."""

_DRIFT = 0.05
"""Beyond this the sessions of the decomposition and of the audit do not measure the same derivative."""

_DEPTHS = 10
_CANCELLATIONS = 5


@dataclass(frozen=True, slots=True)
class Described:
    """What the report says of a segment beside its numbers; see `lieaudit.report.Segment`."""

    name: str
    ops: tuple[str, ...]
    kind: str
    boundary: str
    layout: str
    depth: int
    commutes: bool


def summarise(
    arrays: Arrays, g: int, generator: str, segments: Sequence[Described], spec: AuditSpec, method: str
) -> Layerwise:
    """Return the report's part of one generator, whichever way its contributions were computed.

    Parameters
    ----------
    arrays
        Of `lieaudit.layerwise.reduce.reduce_rows`, over all images.
    g, generator
        The generator, and its place in them.
    segments
        All of them, in the order of the arrays.
    method
        A key of `COMPLETE`.
    """
    lee, inner, error = (np.asarray(arrays[name], np.float64)[:, g] for name in ("lee", "inner", "error"))
    subnetwork = np.asarray(arrays["subnetwork"], np.float64)[:, g].mean(axis=0)
    size = float(arrays["size"][0])
    lie = float(np.mean(arrays["lie"][:, g]))
    residual = float(np.mean(arrays["residual"][:, g]))
    share = inner.mean(axis=0) / lie if lie > 0 else np.zeros(lee.shape[1])
    norm = np.sqrt(lee * size).mean(axis=0)
    interval = _intervals(lee, spec)
    found = [
        Segment(
            name=segment.name,
            ops=segment.ops,
            kind=segment.kind,
            lee=float(lee[:, k].mean()),
            norm=float(norm[k]),
            share=float(share[k]),
            lee_ci95=tuple(float(end) for end in interval[:, k]),
            error_bar=float(error[:, k].mean()),
            commutes=segment.commutes,
            boundary=segment.boundary,
            layout=segment.layout,
            depth=segment.depth,
            subnetwork=None if math.isnan(subnetwork[k]) else float(subnetwork[k]),
        )
        for k, segment in enumerate(segments)
    ]
    drift = float(np.mean(arrays["drift"][:, g]))
    reasons = _reasons(lie, residual, drift, method, generator, error, lee)
    return Layerwise(
        segments=tuple(found),
        completeness=_ratio(residual, lie),
        method=method,
        by_kind=kind_totals(found),
        by_depth=depth_totals(found),
        cancellations=_cancellations(
            np.asarray(arrays["gram"])[0, g] / len(lee), lie, [segment.name for segment in segments]
        ),
        status="inconclusive" if reasons else "ok",
        reasons=reasons,
    )


def _ratio(residual: float, lie: float) -> float:
    """Return ‖Σ C_k − L F‖ / ‖L F‖; with L F = 0 the norm of the residual itself."""
    return math.sqrt(residual / lie) if lie > 0 else math.sqrt(residual)


def _reasons(
    lie: float,
    residual: float,
    drift: float,
    method: str,
    generator: str,
    error: Float64Array,
    lee: Float64Array,
) -> tuple[str, ...]:
    if lie == 0:
        return (f"L F of {generator} is zero on these images: shares are not defined",)
    reasons = []
    complete = _ratio(residual, lie)
    if complete > COMPLETE[method]:
        reasons.append(
            f"the contributions add up to L F only within {complete:.2g} of its norm (limit {COMPLETE[method]:.0e})"
        )
    if _ratio(drift, lie) > _DRIFT:
        reasons.append(f"the L F that was decomposed differs from the audit's by {_ratio(drift, lie):.2g} of its norm")
    if method == "finite_difference" and error.mean(axis=0).sum() > lee.mean(axis=0).sum():
        reasons.append("the contributions' error bars are wider than the contributions")
    return tuple(reasons)


def _intervals(lee: Float64Array, spec: AuditSpec) -> Float64Array:
    """Return the 95 % interval of each segment's mean over images, (2, S); (0, S) for a single image: it has none."""
    if len(lee) < 2:
        return np.empty((0, lee.shape[1]))
    out = np.zeros((2, lee.shape[1]))
    moving = np.flatnonzero(lee.any(axis=0))
    if len(moving):
        out[:, moving] = bootstrap_interval(lee[:, moving], resamples=spec.bootstrap, seed=spec.seed)
    return out


def kind_totals(segments: Sequence[Segment]) -> tuple[KindTotal, ...]:
    """Add up the segments of each kind, the largest total LEE first."""
    totals = [
        KindTotal(
            kind,
            len(own),
            math.fsum(s.lee for s in own),
            math.fsum(s.norm for s in own),
            math.fsum(s.share for s in own),
        )
        for kind in dict.fromkeys(s.kind for s in segments)
        for own in [[s for s in segments if s.kind == kind]]
    ]
    return tuple(sorted(totals, key=lambda total: -total.lee))


def depth_totals(segments: Sequence[Segment]) -> tuple[DepthTotal, ...]:
    """Add up the segments up to each tenth of the network (Gruver et al. 2023, Figure 4)."""
    points = min(_DEPTHS, len(segments))
    ends = sorted({math.ceil(len(segments) * i / points) for i in range(1, points + 1)})
    return tuple(
        DepthTotal(
            end / len(segments), math.fsum(s.share for s in segments[:end]), math.fsum(s.lee for s in segments[:end])
        )
        for end in ends
    )


def _cancellations(gram: Float64Array, lie: float, names: Sequence[str]) -> tuple[Cancellation, ...]:
    """Return the pairs whose contributions point most against each other."""
    if lie <= 0 or not gram.size:
        return ()
    first, second = np.triu_indices(len(gram), 1)
    inner = gram[first, second] / lie
    order = np.argsort(inner)[:_CANCELLATIONS]
    return tuple(Cancellation(names[first[i]], names[second[i]], float(inner[i])) for i in order if inner[i] < 0)
