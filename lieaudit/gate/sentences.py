"""The sentences of the gate: what was found about a rule, in words."""

from __future__ import annotations

from collections.abc import Sequence

from lieaudit_policy import WORST, Rule, Waiver

from lieaudit.gate.decision import FAIL, INCONCLUSIVE, PASS, SKIPPED, WAIVED, RuleOutcome
from lieaudit.gate.measure import Measured, Unmeasured
from lieaudit.symmetries.generators import BRIGHTNESS_STEP
from lieaudit.verdicts import NEGLIGIBLE

_STATISTIC = {"mean": "mean LEE", "median": "median LEE", "geometric_mean": "geometric mean LEE"}


def number(value: float) -> str:
    """Return three significant digits."""
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def headline(verdict: str, outcomes: Sequence[RuleOutcome]) -> str:
    """Say the verdict in words. A pass that stands on waivers, or on no baseline, says so: it is not a plain one."""
    waived = sum(outcome.outcome == WAIVED for outcome in outcomes)
    skipped = sum(outcome.outcome == SKIPPED for outcome in outcomes)
    if skipped and skipped == len(outcomes):
        return f"{verdict.upper()} of a first version: every rule compares with a baseline, and there is none yet"
    if verdict == FAIL:
        return "FAIL: at least one rule is broken"
    if verdict == INCONCLUSIVE:
        return "INCONCLUSIVE: these measurements do not decide it"
    left = len(outcomes) - waived - skipped
    met = "every rule is met" if left == len(outcomes) else "every other rule is met" if left else "no rule is left"
    counted = f" with {waived} waiver{'' if waived == 1 else 's'}" if waived else ""
    first = " of a first version" if skipped else ""
    without = f"; {skipped} had no baseline to compare with" if skipped else ""
    return f"PASS{first}{counted}: {met}{without}"


def sentence(
    rule: Rule,
    generator: str,
    found: Measured | Unmeasured,
    outcome: str,
    reason: str,
    tail: float,
    min_images: int,
    secant: float | None = None,
) -> str:
    """Say what was found: the number, its interval, the limit, and why it is not decided where it is not.

    ``secant`` is the size in pixels of what was measured, where it was no derivative.
    """
    name = generator.replace("_", " ")
    if secant is not None:
        name += f", secants of {secant:g} px" if generator != "brightness" else f", secants of t = {BRIGHTNESS_STEP:g}"
    if reason == "NEGLIGIBLE":
        return (
            f"{name}: the candidate's LEE is zero for every purpose: its upper bound is below {NEGLIGIBLE:g} of the "
            "response to an equally large change that is no symmetry."
        )
    if reason == "FIRST_VERSION" and isinstance(found, Unmeasured):
        return f"{name}: skipped, because {found.why}."
    if isinstance(found, Unmeasured):
        return f"{name}: not decided, because {found.why}."
    said = f"{name}: {_value(rule, found)}{_interval(found, tail)}; {_limit(rule)}"
    if outcome == PASS:
        return said + "."
    if outcome == FAIL:
        return f"{said}, which it exceeds."
    return f"{said}. Not decided: {_why(rule, found, reason, min_images)}."


def waived(waiver: Waiver, *, expired: bool) -> str:
    """Say that a waiver holds, or that it no longer does."""
    if expired:
        return f" The waiver by {waiver.owner} expired on {waiver.expires.isoformat()}: fix it, or renew the waiver."
    return f" Waived until {waiver.expires.isoformat()} by {waiver.owner}: {waiver.reason.rstrip('.')}."


def needed(rule: Rule, images: int | None, power: float) -> str:
    """Say how many images would decide, and where they are given; or what else there is to change."""
    if images is None:
        return (
            " No number of images would decide it: the value lies at the limit, within its numerical error. A smaller "
            "error (--method forward) or another limit would."
        )
    where = {
        "noninferiority": f"--max-images {images} for both models, of --data with as many",
        "relative": f"--relative-images {images}, of --data with as many",
        "gap": f"as many in --data and in --dataset {rule.subject}",
    }.get(rule.kind, f"--max-images {images}, of --data with as many")
    return (
        f" If the difference is as large as it looks, about {images} images would decide it ({100 * power:g} % power): "
        f"{where}."
    )


def _value(rule: Rule, found: Measured) -> str:
    if rule.kind == "kind_share":
        return f"{rule.subject} layers cause {100 * found.value:.3g} % of the error"
    if rule.kind == "relative":
        return f"it answers to the symmetry {number(found.value)} × as strongly as to an equally large other change"
    if rule.kind in {"limit", WORST} or found.candidate_value is None or found.baseline_value is None:
        return f"{_what(rule)} is {number(found.value)}"
    what = _STATISTIC[rule.statistic]
    parts = f"{number(found.candidate_value)} against {number(found.baseline_value)}"
    if rule.kind != "gap":
        return f"{what} is {number(found.value)} × the baseline's ({parts})"
    if found.reversed:
        return f"{what} on {rule.subject!r} is {number(found.value)} × the one on the data ({parts})"
    return f"{what} is {number(found.value)} × the one on {rule.subject!r} ({parts})"


def _what(rule: Rule) -> str:
    if rule.kind == WORST:
        return "for one pixel of motion LEE"
    if rule.subject not in {"", "lee_per_px2"}:  # another distribution's
        return f"{rule.statistic.replace('_', ' ')} {rule.subject}"
    return _STATISTIC[rule.statistic] + (" per px²" if rule.subject else "")


def _interval(found: Measured, tail: float) -> str:
    bounds = found.interval(tail)
    if bounds is None:
        return "" if found.draws is None else ", with an interval that has no upper end"
    low, high = bounds
    if found.draws is None:
        return f" (± {number((high - low) / 2)} numerically; how it varies between images is not measured)"
    return f", between {number(low)} and {number(high)} with {100 * (1 - 2 * tail):.4g} % confidence"


def _limit(rule: Rule) -> str:
    if rule.kind == "kind_share":
        return f"at most {100 * rule.limit:.3g} % is accepted"
    if rule.kind == "gap" and rule.direction == "both":
        return f"up to {number(rule.limit)} × is accepted, in either direction"
    if rule.kind in {"noninferiority", "gap"}:
        return f"up to {number(rule.limit)} × is accepted"
    return f"at most {number(rule.limit)} is accepted"


def _why(rule: Rule, found: Measured, reason: str, min_images: int) -> str:
    if reason == "TOO_FEW_IMAGES" and rule.kind == "relative":
        return f"`relative` was measured on {found.images} images (--relative-images), the policy wants {min_images}"
    if reason == "TOO_FEW_IMAGES":
        return f"{found.images} images were measured and the policy wants at least {min_images}"
    if reason == "RESULT_INCONCLUSIVE":
        return f"the measurement itself is inconclusive ({found.why or 'its error bar is too wide'})"
    if reason == "NUMERICAL_ERROR":
        return "the numerical error of the derivative alone spans the limit; `method: forward` has the smallest"
    if reason == "MULTIPLICITY":
        return "it looks exceeded, but not surely enough for one of several rules tested together"
    return "the interval spans the limit"
