"""The report of one audit: ``lieaudit.report/1``.

Dataclasses, JSON and the protobuf message ``lieaudit.v1.Report`` hold the same fields under the same names. A number
that was not measured is None, and `Report.skipped` says why; it is never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lieaudit.errors import DataError
from lieaudit.notebook import Notebook
from lieaudit.plain import from_plain, to_plain
from lieaudit.report_layers import Cancellation, DepthTotal, KindTotal, Layerwise, Segment, Skipped

__all__ = [
    "AGREES",
    "COULD_NOT_CHECK",
    "DISAGREES",
    "METRIC_VERSION",
    "SCHEMA",
    "Affine",
    "AffineDirection",
    "Agreement",
    "Cancellation",
    "Checks",
    "DepthTotal",
    "Environment",
    "Fidelity",
    "GeneratorResult",
    "HeadCheck",
    "KindTotal",
    "Layerwise",
    "Picture",
    "Report",
    "ReportData",
    "ReportFeed",
    "ReportModel",
    "ReportPart",
    "ReportTensor",
    "Segment",
    "Skipped",
    "Timing",
]

SCHEMA = "lieaudit.report/1"
AGREES, DISAGREES, COULD_NOT_CHECK = "agrees", "disagrees", "could_not_check"
"""Verdicts of a cross-check."""

METRIC_VERSION = 2
"""Raised whenever the same model and images would give other numbers; the gate compares only equal versions."""


@dataclass(frozen=True, slots=True)
class ReportTensor:
    """The audited input or output; symbolic sizes by name."""

    name: str
    shape: tuple[str, ...]
    dtype: str
    layout: str


@dataclass(frozen=True, slots=True)
class ReportModel:
    """What was audited.

    ``precision`` is the one that values and derivatives were computed in: float32 in onnxruntime, mostly float64 by
    torch. ``notes`` say what was changed to get there.
    """

    sha256: str
    name: str
    producer: str
    opset: int
    input: ReportTensor
    output: ReportTensor
    precision: str
    head: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportFeed:
    """The value of an input beside the image, as the graph took it.

    ``source`` is ``spec`` or ``data``; ``per_image`` says whether the first axis of ``shape`` holds the images;
    ``sha256`` is of the elements, little-endian; ``text`` shows the first of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str
    per_image: bool
    sha256: str
    text: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """The images, and what reached the model beside them.

    ``top1`` where labels were given and the output is a classification.
    """

    sha256: str
    count: int
    name: str = ""
    top1: float | None = None
    feeds: tuple[ReportFeed, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions, provider and device that computed the numbers."""

    lieaudit: str
    onnxruntime: str
    provider: str
    device: str
    onnx: str
    numpy: str
    python: str
    threads: int
    fallback_ops: Mapping[str, int] = field(default_factory=dict)
    torch: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cross-check of one derivative method by another on a few images.

    ``deviation`` is the norm of the difference over the norm of the derivative, ``allowed`` what the error bars of both
    explain: medians over the images on which both methods are sharpest. ``verdict`` is `AGREES` where the deviation is
    allowed and a difference of 5 % would not have been, `DISAGREES` where it is not allowed, else `COULD_NOT_CHECK`;
    ``agrees`` is whether it is the first.
    """

    method: str
    images: int
    deviation: float
    allowed: float
    agrees: bool
    lee: float
    verdict: str = ""

    def __post_init__(self) -> None:
        """Fill in the verdict of reports that were written before there were three."""
        if not self.verdict:
            object.__setattr__(self, "verdict", AGREES if self.agrees else DISAGREES)


@dataclass(frozen=True, slots=True)
class GeneratorResult:
    """LEE of one generator (Gruver et al. 2023, Eq. 4) with its uncertainty.

    ``lee`` is the mean over images of ‖L F‖²/K; ``ci95`` its bootstrap interval (sampling of images; empty where one
    image gives none); ``error_bar`` its numerical error; ``relative`` the ratio to the response to an equally large
    non-symmetric perturbation, image by image and in the geometric mean, with its own interval (empty where it was not
    measured on at least two images), and ``response`` the arithmetic mean of that response.
    ``step`` is the t of a finite difference or secant, ``secant_px`` that secant's root-mean-square displacement (None
    for a derivative, and for brightness, which moves nothing). ``geometric_mean`` is the typical image's value (None
    where one is 0), ``top_share`` the share of the sum that the largest 1 % of the images hold, at least one (None
    where all are 0). ``lee_per_px2`` is ``lee`` over the mean square displacement of the input's pixels per unit of
    t (`lieaudit.symmetries.affine`): what can be compared between generators, resolutions and models (None for
    brightness, which moves nothing). ``combined_from`` names the directions that it was combined from
    (`lieaudit.symmetries.plan`); empty where it was measured itself.

    Of a part of an output, in its own unit: ``lee`` is Σ w‖L‖² / Σ w over items and images, ``follow`` is
    Σ w⟨DF[X x], X' F⟩ / Σ w‖X' F‖², 1 where the part moves exactly with the picture, with its bootstrap interval; None
    where the part should not move.
    """

    lee: float
    ci95: tuple[float, ...]
    median: float
    quantiles: Mapping[str, float]
    mean_abs: float
    relative: float | None
    per_image: tuple[float, ...]
    method: str
    error_bar: float
    per_image_error: tuple[float, ...]
    unit: str
    step: float | None = None
    noise: float | None = None
    agreement: Agreement | None = None
    status: str = "ok"
    reasons: tuple[str, ...] = ()
    relative_ci95: tuple[float, ...] = ()
    secant_px: float | None = None
    geometric_mean: float | None = None
    top_share: float | None = None
    response: float | None = None
    lee_per_px2: float | None = None
    combined_from: tuple[str, ...] = ()
    follow: float | None = None
    follow_ci95: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class AffineDirection:
    """One affine direction, for one pixel of root-mean-square displacement.

    ``field`` is [[a, b, c], [d, e, f]]: v = (a x + b y + c, d x + e y + f), in pixels from the image's centre, as
    ``custom`` of the specification takes it, with its largest entry positive. ``lee`` is the LEE along it, ``ci95`` its
    interval and ``error_bar`` its numerical error, ``words`` what it does to an image. An extreme of many directions is
    biased, the largest upwards: ``bias`` is how much by, as the bootstrap sees it (None for a single image).
    """

    field: tuple[tuple[float, ...], ...]
    lee: float
    ci95: tuple[float, ...]
    error_bar: float
    words: str
    bias: float | None = None


@dataclass(frozen=True, slots=True)
class Affine:
    """LEE along every affine direction (`lieaudit.symmetries.affine`).

    ``gram`` is M (6, 6) over ``basis`` and ``displacement`` D, in px²: the LEE of a field with coefficients c is cᵀ M c
    and its mean square displacement cᵀ D c. ``eigenvalues`` of the two, ascending, are per px²; ``worst`` and ``best``
    are their extremes and ``mean`` that over all directions, with its bootstrap interval.
    """

    basis: tuple[str, ...]
    gram: tuple[tuple[float, ...], ...]
    displacement: tuple[tuple[float, ...], ...]
    eigenvalues: tuple[float, ...]
    worst: AffineDirection
    best: AffineDirection
    mean: float
    mean_ci95: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportPart:
    """One part of the outputs (docs/parts.md): what it holds, and its results by generator.

    ``source`` is the part as the specification writes it, ``unit`` that of its values, whose squares its ``lee`` is in;
    ``items`` is how many points, boxes or elements one image has, ``size`` the root mean square of the values over
    images (points and boxes from the image's centre); ``weights`` holds one number per image, the mean weight of its
    items, which an image counts by in means (empty: all count alike; an image of weight 0 counts for nothing, and its
    ``per_image`` is 0). ``affine`` is that of the report for this part, with the images' weights as they are.
    """

    representation: str
    unit: str
    results: Mapping[str, GeneratorResult]
    source: str = ""
    items: int = 0
    size: float = 0.0
    weights: tuple[float, ...] = ()
    affine: Affine | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of the audit and rows that went through the session."""

    seconds: float
    rows: float
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the worst images and its tangent under a generator, as PNG."""

    image: int
    generator: str
    png: bytes
    tangent_png: bytes
    lee: float


@dataclass(frozen=True, slots=True)
class HeadCheck:
    """Which head was ``chosen``, and on what evidence (docs/heads.md)."""

    chosen: str
    why: str


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The model as it was given, run untouched in its own precision, against the function that was audited.

    ``deviation`` is the largest difference of their outputs on ``images`` of the user's images over the largest size of
    the output, ``allowed`` what it may be; ``by`` is ``value``. Where the graph computes in int8, ``by`` is ``top1``,
    and both are shares of the images whose largest output is another one.
    """

    deviation: float
    allowed: float
    images: int
    ok: bool
    by: str = "value"


@dataclass(frozen=True, slots=True)
class Checks:
    """What shows that the right function was audited; absent, with a line in ``skipped``, where it was not checked."""

    fidelity: Fidelity | None = None
    head: HeadCheck | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Report(Notebook):
    """The whole report. ``to_json`` and ``from_json`` are inverse; `Notebook` shows it."""

    model: ReportModel
    data: ReportData
    environment: Environment
    spec: Mapping[str, Any]
    results: Mapping[str, GeneratorResult]
    timing: Timing
    layerwise: Mapping[str, Layerwise] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    status: str = "ok"
    reasons: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    checks: Checks = field(default_factory=Checks)
    affine: Affine | None = None
    parts: Mapping[str, ReportPart] = field(default_factory=dict)
    schema: str = SCHEMA
    metric_version: int = METRIC_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; absent optional values are left out."""
        plain = to_plain(self)
        assert isinstance(plain, dict)  # noqa: S101 - a dataclass gives a dict
        return plain

    def to_json(self, indent: int | None = 2) -> str:
        """Return the JSON text; raises ValueError on NaN or infinity, which no report may hold."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the JSON form. Raises `DataError` where it is not a report of this schema."""
        if values.get("schema") != SCHEMA:
            raise DataError(
                f"not a {SCHEMA} document: schema is {values.get('schema')!r}",
                reason="NOT_A_REPORT",
                subject="schema",
            )
        try:
            report = from_plain(cls, values)
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"malformed report: {problem}", reason="NOT_A_REPORT", subject="report") from problem
        assert isinstance(report, cls)  # noqa: S101 - from_plain builds what it is asked for
        return report

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON text. Raises `DataError` where it is not a report."""
        try:
            values = json.loads(text)
        except ValueError as problem:
            raise DataError(f"not JSON: {problem}", reason="NOT_A_REPORT", subject="report") from problem
        if not isinstance(values, dict):
            raise DataError("not a JSON object", reason="NOT_A_REPORT", subject="report")
        return cls.from_dict(values)
