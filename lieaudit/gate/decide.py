"""From a policy and reports to a verdict.

Every rule is tested both ways on one two-sided interval (docs/numerics.md, section 9): it passes where the whole
interval meets the limit, fails where the whole interval lies beyond it, and is inconclusive otherwise. A false *fail*
is controlled over all rules together (Holm 1979 on the one-sided p-values); a false *pass* needs no adjustment, because
the verdict passes only if every rule does (an intersection-union test, Berger 1982). Both errors have probability at
most (1 − confidence)/2. Looking again with more images shares that level between the looks (Bonferroni).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from lieaudit_policy import Policy, Rule

from lieaudit.errors import ComparisonError
from lieaudit.gate import own, sentences
from lieaudit.gate.comparable import require_paired, require_same_model, require_size
from lieaudit.gate.decision import FAIL, INCONCLUSIVE, PASS, SKIPPED, WAIVED, Decision, RuleOutcome, RuleWaiver
from lieaudit.gate.measure import Measured, Unmeasured, measure, negligible
from lieaudit.gate.parsing import parse
from lieaudit.gate.parts import missing, of_part, readings
from lieaudit.gate.power import POWER, images_needed
from lieaudit.report import Report
from lieaudit.statistics import holm, p_at_least, p_at_most

FIRST_VERSION = ("limits", "pass")
"""What to do without a baseline: let the other rules decide; `pass` passes where there are none."""
_ORDER = {FAIL: 0, INCONCLUSIVE: 1, WAIVED: 2, SKIPPED: 3, PASS: 4}
_NONE: Mapping[str, own.Measure] = MappingProxyType({})
_MORE_MAY_DECIDE = {"STRADDLES_LIMIT", "TOO_FEW_IMAGES", "MULTIPLICITY"}


@dataclass(frozen=True, slots=True)
class _Test:
    rule: Rule
    generator: str
    found: Measured | Unmeasured
    reason: str = ""
    """Why it cannot be decided whatever the numbers are; empty where it can."""
    part: str = ""
    """The result of a part that it is about; empty of outputs without parts."""
    negligible: bool = False
    """The candidate's LEE is zero for every purpose: it is no worse than anything."""


def evaluate(
    candidate: Report,
    baseline: Report | None,
    policy_yaml: str,
    datasets: Mapping[str, Report] | None = None,
    *,
    power: bool = False,
    own_preprocessing: bool = False,
    first_version: str = "",
    measures: Mapping[str, own.Measure] = _NONE,
    today: dt.date | None = None,
) -> Decision:
    """Decide whether the candidate meets the policy.

    Parameters
    ----------
    candidate
        The report of the model version in question.
    baseline
        That of the version it is compared with; where a rule is ``noninferiority``, needed unless ``first_version`` is
        given.
    policy_yaml
        The policy's text.
    datasets
        Reports of the candidate on further datasets, by the name that gap rules use.
    power
        Also say how many images would decide an inconclusive rule.
    own_preprocessing
        Candidate and baseline may take the same pixels in their own way (scale, mean, std, order of the channels).
    first_version
        One of `FIRST_VERSION`: there is no baseline yet, so rules that compare with one are skipped.
    measures
        What limit rules may bound beside LEE, by name (`lieaudit.gate.own`).
    today
        The day that decides whether waivers hold; the UTC date by default.

    Raises
    ------
    PolicyError
        The policy is not valid.
    ComparisonError
        A report that a rule needs is missing, or was measured on other terms.
    """
    policy = parse(policy_yaml, tuple(measures))
    others = dict(datasets or {})
    _require(policy, candidate, baseline, others, own_preprocessing=own_preprocessing, first_version=first_version)
    tail = (1 - policy.confidence) / 2 / _looks(policy)
    tests = _tests(policy, candidate, baseline, others, tail, measures)
    adjusted = _adjusted(tests)
    day = today or dt.datetime.now(dt.UTC).date()
    outcomes = [
        _outcome(policy, test, p, tail, len(adjusted), day, power=power, secant=candidate.spec.get("secant_px"))
        for test, p in zip(tests, adjusted, strict=True)
    ]
    verdict = _verdict(policy, outcomes, first_version)
    told = sorted((o for o in outcomes if o.outcome != PASS), key=lambda o: _ORDER[o.outcome])
    return Decision(
        verdict=verdict,
        headline=sentences.headline(verdict, outcomes),
        rules=tuple(outcomes),
        reasons=tuple(o.sentence for o in told),
        policy_sha256=policy.sha256,
        candidate_sha256=candidate.model.sha256,
        baseline_sha256=baseline.model.sha256 if baseline is not None else "",
        on_inconclusive=policy.on_inconclusive,
        confidence=1 - 2 * tail,
        false_fail_rate=(1 - policy.confidence) / 2,
        secant_px=candidate.spec.get("secant_px"),
        next_images=_next_images(policy, candidate, outcomes) if verdict == INCONCLUSIVE else None,
    )


def _require(
    policy: Policy,
    candidate: Report,
    baseline: Report | None,
    others: Mapping[str, Report],
    *,
    own_preprocessing: bool,
    first_version: str,
) -> None:
    if first_version and (first_version not in FIRST_VERSION or baseline is not None):
        raise ComparisonError(
            f"first_version: {first_version!r} is not one of {', '.join(FIRST_VERSION)}"
            if baseline is None
            else "first_version says that there is no baseline, and one is given",
            reason="INVALID_FIRST_VERSION",
            subject="first_version",
            hint="give a baseline, or say what to do without one",
        )
    require_size(candidate, policy.secant_px, "candidate")
    if policy.needs_baseline and not first_version:
        if baseline is None:
            rule = next(r for r in policy.rules if r.kind == "noninferiority")
            raise ComparisonError(
                f"rule {rule.id!r} (line {rule.line}) compares with a baseline, and none is given",
                reason="BASELINE_MISSING",
                subject=rule.id,
                hint="name one: a report, an ONNX file, an audit id or a registry's version; or say --first-version",
            )
        require_paired(candidate, baseline, own_preprocessing=own_preprocessing)
    for name in policy.datasets:
        if name not in others:
            raise ComparisonError(
                f"a gap rule needs a report on dataset {name!r}, and none is given",
                reason="DATASET_MISSING",
                subject=name,
                hint=f"name its images: --dataset {name}=DATA",
            )
        require_same_model(candidate, others[name], name)


def _looks(policy: Policy) -> int:
    """Count the looks that doubling from the least to the most images can take."""
    if policy.on_inconclusive != "more_images" or policy.max_images is None:
        return 1
    return 1 + math.ceil(math.log2(policy.max_images / policy.min_images))


def _tests(
    policy: Policy,
    candidate: Report,
    baseline: Report | None,
    others: Mapping[str, Report],
    tail: float,
    measures: Mapping[str, own.Measure],
) -> list[_Test]:
    pairs = [
        (rule, generator, part)
        for rule in policy.rules
        for generator in rule.generators
        for part in readings(rule, generator, candidate)
    ]
    # The smallest p-value that B draws can show, times the rules it is adjusted for, must lie well below the level.
    resamples = min(20_000, max(4_000, math.ceil(4 * len(pairs) / tail)))
    seed = int(candidate.spec.get("seed", 0))
    tests = []
    for rule, generator, part in pairs:
        other = {"noninferiority": baseline, "gap": others.get(rule.subject)}.get(rule.kind)
        mine = of_part(candidate, part, rule.statistic)
        theirs = None if other is None else of_part(other, part, rule.statistic)
        absent = missing(rule, candidate)
        if absent:
            found: Measured | Unmeasured = Unmeasured("PART_NEEDED", absent)
        elif rule.kind == "limit" and rule.subject in measures:
            found = own.measured(measures[rule.subject], rule, generator, mine, resamples, seed)
        else:
            found = _found(rule, generator, mine, theirs, resamples, seed)
        reason = ""
        result = mine.results.get(generator)
        none = rule.kind == "noninferiority" and result is not None and negligible(result)
        if isinstance(found, Unmeasured):
            reason = found.reason
        elif found.status != "ok":
            reason = "RESULT_INCONCLUSIVE"
        elif found.images < policy.min_images:
            reason = "TOO_FEW_IMAGES"
        tests.append(_Test(rule, generator, found, reason, part, none and reason in {"", "BASELINE_ZERO"}))
    return tests


def _found(
    rule: Rule, generator: str, candidate: Report, other: Report | None, resamples: int, seed: int
) -> Measured | Unmeasured:
    if rule.kind == "noninferiority" and other is None:  # `_require` lets only a first version come here without one
        return Unmeasured("FIRST_VERSION", "there is no baseline yet to compare it with")
    return measure(rule, generator, candidate, other, resamples, seed)


def _adjusted(tests: list[_Test]) -> list[tuple[float, float] | None]:
    """Return (p, adjusted p) of "the limit is met" for every test that draws decide."""
    raw = [_p_met(test) for test in tests]
    family = iter(holm([p for p in raw if p is not None]).tolist())
    return [None if p is None else (p, next(family)) for p in raw]


def _p_met(test: _Test) -> float | None:
    found = test.found
    if isinstance(found, Unmeasured) or found.draws is None or test.reason or test.negligible:
        return None
    limit = found.limit(test.rule.limit)
    above = p_at_most(found.draws - found.down, limit)
    if not found.two_sided:
        return above
    # either side may be the worse one: two chances (Bonferroni)
    return min(1.0, 2 * min(above, p_at_least(found.draws + found.up, -limit)))


def _outcome(
    policy: Policy,
    test: _Test,
    p: tuple[float, float] | None,
    tail: float,
    tests: int,
    day: dt.date,
    *,
    power: bool,
    secant: float | None,
) -> RuleOutcome:
    rule, found = test.rule, test.found
    outcome, reason = _decide(test, p, tail)
    said = sentences.sentence(rule, test.generator, found, outcome, reason, tail, policy.min_images, secant)
    said = f"{test.part}: {said}" if test.part else said
    needed = None
    if power and outcome == INCONCLUSIVE and isinstance(found, Measured) and reason in _MORE_MAY_DECIDE:
        needed = images_needed(found, rule.limit, tail, tests)
        said += sentences.needed(rule, needed, POWER)
    result = RuleOutcome(
        id=rule.id,
        generator=test.generator,
        kind=rule.kind,
        statistic=rule.statistic,
        outcome=outcome,
        limit=rule.limit,
        sentence=said,
        line=rule.line,
        p_value=p[0] if p else None,
        adjusted_p_value=p[1] if p else None,
        images_needed=needed,
        reason=reason,
        subject=rule.subject or None,
        part=test.part or None,
    )
    if isinstance(found, Measured):
        result = replace(
            result,
            images=found.images,
            value=found.value,
            interval=found.interval(tail) or (),
            candidate_value=found.candidate_value,
            baseline_value=found.baseline_value,
            numerical_error=found.numerical_error(),
        )
    return _waive(policy, rule, result, day)


def _decide(test: _Test, p: tuple[float, float] | None, tail: float) -> tuple[str, str]:
    """Return outcome and, where it is inconclusive, the reason."""
    found = test.found
    if test.negligible:
        return PASS, "NEGLIGIBLE"
    if isinstance(found, Unmeasured) or test.reason:
        return SKIPPED if test.reason == "FIRST_VERSION" else INCONCLUSIVE, test.reason
    limit = found.limit(test.rule.limit)
    low, high = found.bounds(tail)
    if high <= limit and not (found.two_sided and low < -limit):
        return PASS, ""
    if found.draws is None:
        return (FAIL, "") if low > limit else (INCONCLUSIVE, "NUMERICAL_ERROR")
    if low > limit:
        return (FAIL, "") if p is not None and p[1] <= tail else (INCONCLUSIVE, "MULTIPLICITY")
    undisturbed = (low + found.down, high - found.up)
    decided = math.isnan(undisturbed[1]) or undisturbed[1] <= limit or undisturbed[0] > limit
    return INCONCLUSIVE, "NUMERICAL_ERROR" if decided else "STRADDLES_LIMIT"


def _waive(policy: Policy, rule: Rule, result: RuleOutcome, day: dt.date) -> RuleOutcome:
    waiver = policy.waiver(rule, result.generator)
    if waiver is None:
        return result
    expired = waiver.expired(day)
    shown = RuleWaiver(waiver.owner, waiver.reason, waiver.expires.isoformat(), expired)
    if result.outcome in {PASS, SKIPPED}:
        return replace(result, waiver=shown)
    said = result.sentence + sentences.waived(waiver, expired=expired)
    return replace(result, waiver=shown, sentence=said, outcome=result.outcome if expired else WAIVED)


def _verdict(policy: Policy, outcomes: list[RuleOutcome], first_version: str) -> str:
    kinds = {o.outcome for o in outcomes}
    if FAIL in kinds:
        return FAIL
    nothing_left = kinds == {SKIPPED} and first_version != "pass"
    if INCONCLUSIVE in kinds or nothing_left:
        return FAIL if policy.on_inconclusive == "fail" else INCONCLUSIVE
    return PASS


def _next_images(policy: Policy, candidate: Report, outcomes: list[RuleOutcome]) -> int | None:
    if policy.on_inconclusive != "more_images" or policy.max_images is None:
        return None
    open_rules = [o for o in outcomes if o.outcome == INCONCLUSIVE and o.reason in _MORE_MAY_DECIDE]
    if not open_rules or candidate.data.count >= policy.max_images:
        return None
    return min(policy.max_images, max(2 * candidate.data.count, policy.min_images))
