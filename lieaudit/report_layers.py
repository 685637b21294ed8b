"""The report's layerwise part; `lieaudit.report` holds it under the same names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not measured: ``what`` is a dotted path in the report, a tensor or an op."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment's contribution C_k to L F (Eq. 5).

    ``lee`` is E‖C_k‖²/K, ``norm`` E‖C_k‖, ``share`` E⟨C_k, L F⟩/E‖L F‖²; ``lee_ci95`` is empty for a single image.
    """

    name: str
    ops: tuple[str, ...]
    kind: str
    lee: float
    norm: float
    share: float
    lee_ci95: tuple[float, ...]
    error_bar: float
    commutes: bool
    boundary: str
    layout: str
    depth: int
    subnetwork: float | None = None


@dataclass(frozen=True, slots=True)
class KindTotal:
    """Totals over the segments of one kind: ``lee`` = Σ_k E‖C_k‖²/K, ``norm`` = Σ_k E‖C_k‖, ``share`` = Σ_k share_k."""

    kind: str
    segments: int
    lee: float
    norm: float
    share: float


@dataclass(frozen=True, slots=True)
class DepthTotal:
    """Share and LEE of the segments up to a relative depth in (0, 1] (the paper's Figure 4)."""

    depth: float
    share: float
    lee: float


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A pair of segments whose contributions point against each other: ``inner`` = E⟨C_a, C_b⟩ / E‖L F‖² < 0."""

    first: str
    second: str
    inner: float


@dataclass(frozen=True, slots=True)
class Layerwise:
    """Layerwise decomposition of one generator; ``completeness`` = ‖Σ C_k − L F‖ / ‖L F‖ over all images."""

    segments: tuple[Segment, ...]
    completeness: float
    method: str
    by_kind: tuple[KindTotal, ...] = ()
    by_depth: tuple[DepthTotal, ...] = ()
    cancellations: tuple[Cancellation, ...] = ()
    merged: tuple[Skipped, ...] = ()
    status: str = "ok"
    reasons: tuple[str, ...] = ()
