"""The decision as data: the fields of ``lieaudit.v1.Decision``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

PASS = "pass"  # noqa: S105 - a verdict, not a password
FAIL = "fail"
INCONCLUSIVE = "inconclusive"
WAIVED = "waived"
SKIPPED = "skipped"
"""A rule that compares with a baseline, where there is none yet."""


@dataclass(frozen=True, slots=True)
class RuleWaiver:
    """The waiver of one outcome, as the policy gives it; ``expires`` is an ISO date."""

    owner: str
    reason: str
    expires: str
    expired: bool


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """One rule on one generator.

    ``value`` is what ``limit`` applies to: the statistic itself, a ratio (then ``candidate_value`` and
    ``baseline_value`` are its parts) or a share; None where it was not measured. ``interval`` is two-sided, at the
    decision's confidence, and widened by ``numerical_error`` (the derivative's error bars, as a width on the value's
    scale); empty where none exists. ``reason`` is a stable code of why the outcome is inconclusive or skipped.
    """

    id: str
    generator: str
    kind: str
    statistic: str
    outcome: str
    limit: float
    sentence: str
    line: int
    images: int = 0
    value: float | None = None
    interval: tuple[float, ...] = ()
    candidate_value: float | None = None
    baseline_value: float | None = None
    numerical_error: float | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    waiver: RuleWaiver | None = None
    images_needed: int | None = None
    reason: str = ""
    subject: str | None = None
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict with every rule's outcome; ``reasons`` are the sentences that matter, the worst first.

    ``headline`` is the verdict in words, as every output reads it: a pass that stands on waivers counts them.

    ``on_inconclusive`` is what the policy wants done about an inconclusive verdict, ``next_images`` how many images to
    measure next where it wants more, ``secant_px`` the size of the secants that were compared (None: derivatives).
    """

    verdict: str
    headline: str
    rules: tuple[RuleOutcome, ...]
    reasons: tuple[str, ...]
    policy_sha256: str
    candidate_sha256: str
    baseline_sha256: str
    on_inconclusive: str
    confidence: float
    false_fail_rate: float
    next_images: int | None = None
    secant_px: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the names of the protobuf message, absent values left out."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)  # noqa: S101 - a dict stays one
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
