"""Outcomes against closed forms and against what the bootstrap must do; refusals that name the difference."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from lieaudit_api.v1 import gate_pb2

from lieaudit.errors import ComparisonError
from lieaudit.feeds import described
from lieaudit.gate import evaluate, parse
from lieaudit.report import METRIC_VERSION, Affine, AffineDirection, KindTotal, Layerwise, Report, Skipped
from lieaudit.spec import GENERATORS
from lieaudit.symmetries.affine import BASIS

Maker = Callable[..., Report]
Draw = Callable[..., np.ndarray]
BASELINE = {"model": "b" * 64, "name": "v7.onnx"}


def policy(*rules: str, **top: Any) -> str:
    head = "".join(f"{name}: {value}\n" for name, value in top.items())
    return f"version: 1\n{head}rules:\n" + "".join(f"  - {rule}\n" for rule in rules)


NO_WORSE = "{id: no-worse, kind: noninferiority, generators: rotation, margin: 0.1}"


@pytest.fixture
def pair(make_report: Maker, lognormal: Draw) -> Callable[..., tuple[Report, Report]]:
    """Return a function: true ratio → (candidate, baseline) on the same 400 images with paired noise of 0.3."""

    def make(ratio: float, *, images: int = 400, **fields: Any) -> tuple[Report, Report]:
        image = lognormal(images, 1, sigma=0.8)
        noise = np.random.default_rng(2).normal(0, 0.3, (2, images))
        candidate = make_report({"rotation": ratio * image * np.exp(noise[0])}, **fields)
        return candidate, make_report({"rotation": image * np.exp(noise[1])}, **BASELINE, **fields)

    return make


def test_a_model_is_no_worse_than_itself_even_with_a_margin_of_zero_and_wide_error_bars(
    make_report: Maker, lognormal: Draw
) -> None:
    report = make_report({"rotation": lognormal(60, 1)}, error=0.3)
    decision = evaluate(report, report, policy(NO_WORSE.replace("0.1", "0")))
    rule = decision.rules[0]
    assert decision.verdict == "pass"
    assert (rule.value, rule.interval, rule.numerical_error) == (1.0, (1.0, 1.0), 0.0)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.7, "pass"), (1.5, "fail"), (1.1, "inconclusive")])
@pytest.mark.parametrize("statistic", ["mean", "median", "geometric_mean"])
def test_three_outcomes_by_the_true_ratio(pair: Any, ratio: float, verdict: str, statistic: str) -> None:
    candidate, baseline = pair(ratio)
    decision = evaluate(candidate, baseline, policy(NO_WORSE, statistic=statistic))
    rule = decision.rules[0]
    assert decision.verdict == verdict
    low, high = rule.interval
    assert low < rule.value < high
    assert low < ratio < high, "the interval covers the truth on this seed"
    # by definition, whatever the intervals are
    assert rule.value == rule.candidate_value / rule.baseline_value
    assert verdict == ("pass" if high <= 1.1 else "fail" if low > 1.1 else "inconclusive")
    assert rule.reason == ("STRADDLES_LIMIT" if verdict == "inconclusive" else "")


def test_the_geometric_mean_interval_is_the_t_interval_of_log_ratios(pair: Any) -> None:
    candidate, baseline = pair(1.0, error=0.0)
    rule = evaluate(candidate, baseline, policy(NO_WORSE, statistic="geometric_mean")).rules[0]
    logs = np.log(candidate.results["rotation"].per_image) - np.log(baseline.results["rotation"].per_image)
    half = 1.965912 * logs.std(ddof=1) / math.sqrt(len(logs))  # t quantile, 399 degrees of freedom
    expected = np.exp([logs.mean() - half, logs.mean() + half])
    # 4,000 resamples put the ends of the interval within about 4 % of its half width
    assert np.log(rule.interval) == pytest.approx(np.log(expected), abs=0.08 * half)


@pytest.mark.parametrize("statistic", ["mean", "median", "geometric_mean"])
def test_numerical_error_widens_the_interval_and_can_undecide(pair: Any, statistic: str) -> None:
    text = policy(NO_WORSE, statistic=statistic)
    exact, coarse = (evaluate(*pair(0.9, error=e), text) for e in (0.0, 2.0))
    assert (exact.verdict, coarse.verdict) == ("pass", "inconclusive")
    assert coarse.rules[0].reason == "NUMERICAL_ERROR"
    assert coarse.rules[0].interval[0] < exact.rules[0].interval[0]
    assert coarse.rules[0].interval[1] > exact.rules[0].interval[1]


def test_errors_of_a_mean_add_in_squares(make_report: Maker) -> None:
    report = make_report({"rotation": np.full(100, 2.0)}, error=0.1)
    rule = evaluate(report, None, policy("{kind: limit, generators: rotation, max: 2.1}")).rules[0]
    assert rule.outcome == "pass"
    assert rule.interval == pytest.approx((2 - 0.02, 2 + 0.02))  # 0.1 · 2 / √100


@pytest.mark.parametrize(
    ("statistic", "factor", "bias"),
    # Errors of 5 % (a bar is two of them) lower a logarithm by 0.05²/2 in the mean.
    [("median", math.sqrt(math.pi / 2), 0.0), ("geometric_mean", 1.0, 2 * 0.05**2 / 2)],
)
def test_errors_propagate_through_other_statistics(
    make_report: Maker, statistic: str, factor: float, bias: float
) -> None:
    report = make_report({"rotation": np.full(2000, 2.0)}, error=0.1)
    rule = evaluate(report, None, policy("{kind: limit, generators: rotation, max: 3}", statistic=statistic)).rules[0]
    # equal values: the bar of a mean, 0.1 · 2 / √2000, times the median's inefficiency √(π/2). 64 draws know a
    # standard deviation within 9 % (one sigma), and the bias of the draws' mean adds up to 2/√64 of the bar.
    expected = factor * 0.2 / math.sqrt(2000) + bias
    assert 0.75 * expected < rule.numerical_error < 1.5 * expected


def test_an_inconclusive_measurement_is_never_gated_on(pair: Any) -> None:
    candidate, baseline = pair(0.5)
    doubt = {"rotation": replace(candidate.results["rotation"], status="inconclusive", reasons=("wide bar",))}
    for first, second in ((replace(candidate, results=doubt), baseline), (candidate, replace(baseline, results=doubt))):
        rule = evaluate(first, second, policy(NO_WORSE)).rules[0]
        assert (rule.outcome, rule.reason) == ("inconclusive", "RESULT_INCONCLUSIVE")
        assert "wide bar" in rule.sentence


def test_too_few_images_decide_nothing(pair: Any) -> None:
    candidate, baseline = pair(0.5, images=40)
    rule = evaluate(candidate, baseline, policy(NO_WORSE)).rules[0]
    assert (rule.outcome, rule.reason) == ("inconclusive", "TOO_FEW_IMAGES")
    assert "at least 50" in rule.sentence
    assert evaluate(candidate, baseline, policy(NO_WORSE, images="{min: 40}")).verdict == "pass"


def test_what_was_not_measured_is_inconclusive_and_says_why(pair: Any) -> None:
    candidate, baseline = pair(0.5)
    candidate = replace(candidate, skipped=(Skipped("results.scale", "the budget was used up"),))
    rule = evaluate(candidate, baseline, policy("{kind: limit, generators: scale, max: 1}")).rules[0]
    assert (rule.outcome, rule.reason, rule.value) == ("inconclusive", "NOT_MEASURED", None)
    assert "the budget was used up" in rule.sentence


def test_zeros_make_no_geometric_mean_and_a_zero_baseline_no_ratio(make_report: Maker, lognormal: Draw) -> None:
    values = lognormal(60, 1)
    candidate = make_report({"rotation": values})
    for other, statistic, reason in (
        (np.where(np.arange(60) == 3, 0.0, values), "geometric_mean", "NOT_POSITIVE"),
        (np.zeros(60), "mean", "BASELINE_ZERO"),
    ):
        baseline = make_report({"rotation": other}, **BASELINE)
        rule = evaluate(candidate, baseline, policy(NO_WORSE, statistic=statistic)).rules[0]
        assert (rule.outcome, rule.reason) == ("inconclusive", reason)
    both = make_report({"rotation": np.zeros(60)}), make_report({"rotation": np.zeros(60)}, **BASELINE)
    assert evaluate(*both, policy(NO_WORSE)).verdict == "pass", "0 is no worse than 0"


def test_an_error_that_is_zero_for_every_purpose_passes_against_anything(make_report: Maker, lognormal: Draw) -> None:
    tiny = {"relative": 1e-6, "relative_ci95": (5e-7, 2e-6), "response": 1e-2}
    candidate = make_report({"rotation": 3e-9 * lognormal(60, 1)}, error=0.5, changes=tiny)
    baseline = make_report({"rotation": 1e-9 * lognormal(60, 2)}, error=0.5, changes=tiny, **BASELINE)
    rule = evaluate(candidate, baseline, policy(NO_WORSE)).rules[0]
    assert (rule.outcome, rule.reason) == ("pass", "NEGLIGIBLE")
    assert "zero for every purpose" in rule.sentence


def test_several_rules_are_adjusted_for_multiplicity(make_report: Maker, lognormal: Draw) -> None:
    names = ["translation_x", "translation_y", "rotation", "scale", "shear_x", "shear_y", "stretch_x", "stretch_y"]
    z = np.random.default_rng(3).normal(size=200)
    noise = np.exp(0.3 * (z - z.mean()) / z.std())  # log ratio 0 ± 0.3 / √200 exactly
    base = {g: lognormal(200, i) for i, g in enumerate(names)}
    # 1.16 lies 2.5 standard errors above 1.1: p = 0.006, enough for one rule at 0.025 and too little for eight
    mine = {g: (1.16 if g == "rotation" else 0.8) * v * noise for g, v in base.items()}
    candidate, baseline = make_report(mine), make_report(base, **BASELINE)
    rule = "{{id: r, kind: noninferiority, generators: {}, margin: 0.1, statistic: geometric_mean}}"
    alone = evaluate(candidate, baseline, policy(rule.format("rotation"))).rules[0]
    together = evaluate(candidate, baseline, policy(rule.format(f"[{', '.join(names)}]")))
    among = next(r for r in together.rules if r.generator == "rotation")
    assert alone.p_value == alone.adjusted_p_value
    assert among.adjusted_p_value == pytest.approx(min(1.0, 8 * among.p_value))
    assert alone.outcome == "fail"
    assert (among.outcome, among.reason) == ("inconclusive", "MULTIPLICITY")
    assert "several rules tested together" in among.sentence


def test_limits_relative_and_shares(make_report: Maker, lognormal: Draw) -> None:
    part = Layerwise((), 0.01, "forward", by_kind=(KindTotal("pooling", 2, 1.0, 1.0, 0.4),))
    report = make_report({"rotation": lognormal(200, 1)}, layerwise={"rotation": part})
    cases = {
        "{kind: relative, generators: rotation, max: 1}": "pass",
        "{kind: relative, generators: rotation, max: 0.9}": "inconclusive",
        "{kind: relative, generators: rotation, max: 0.5}": "fail",
        "{kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.5}": "pass",
        "{kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.405}": "inconclusive",
        "{kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.3}": "fail",
        "{kind: kind_share, generators: rotation, layer_kind: attention, max: 0.3}": "inconclusive",
        "{kind: limit, generators: rotation, max: 20}": "pass",
        "{kind: limit, generators: rotation, max: 3}": "inconclusive",
        "{kind: limit, generators: rotation, max: 0.5}": "fail",
    }
    got = {rule: evaluate(report, None, policy(rule)).rules[0] for rule in cases}
    assert {rule: outcome.outcome for rule, outcome in got.items()} == cases
    relative = got["{kind: relative, generators: rotation, max: 1}"]
    assert relative.interval == pytest.approx((0.7, 0.92), rel=2e-3), "the report's own interval at 95 %"


def directions(lee: float = 0.5, ci95: tuple[float, ...] = (0.4, 0.65), error_bar: float = 1e-6) -> Affine:
    one = AffineDirection(((0.0, 0.1, 0.0), (-0.1, 0.0, 0.0)), lee, ci95, error_bar, "rotation", 0.01)
    rows = tuple(tuple(float(i == j) for j in range(6)) for i in range(6))
    return Affine(BASIS, rows, rows, (0.1, 0.2, 0.3, 0.4, 0.45, lee), one, one, 0.3)


def test_the_worst_direction_is_decided_on_its_own_interval(make_report: Maker, lognormal: Draw) -> None:
    values = {"rotation": lognormal(200, 1)}
    report = make_report(values, affine=directions())
    found = {}
    for limit, outcome in ((0.7, "pass"), (0.5, "inconclusive"), (0.3, "fail")):
        rule = evaluate(report, None, policy(f"{{kind: worst_direction, max: {limit}}}")).rules[0]
        assert (rule.outcome, rule.generator, rule.statistic) == (outcome, "worst_direction", "worst")
        assert rule.interval == pytest.approx((0.4, 0.65), rel=2e-3), "the report's own interval at 95 %"
        found[outcome] = rule
    assert "worst direction: for one pixel of motion LEE is 0.5" in found["fail"].sentence
    assert found["inconclusive"].reason == "STRADDLES_LIMIT"


def test_the_worst_direction_is_not_decided_where_it_was_not_measured(make_report: Maker, lognormal: Draw) -> None:
    values, rule = {"rotation": lognormal(200, 1)}, policy("{kind: worst_direction, max: 0.7}")
    none = evaluate(make_report(values, skipped=(Skipped("affine", "asked for one alone"),)), None, rule).rules[0]
    assert (none.outcome, none.reason) == ("inconclusive", "NOT_MEASURED")
    assert "asked for one alone" in none.sentence
    wide = evaluate(make_report(values, affine=directions(error_bar=0.2)), None, rule).rules[0]
    assert (wide.outcome, wide.reason) == ("inconclusive", "RESULT_INCONCLUSIVE")
    assert evaluate(make_report(values, affine=directions(ci95=())), None, rule).rules[0].reason == "NOT_MEASURED"
    doubted = make_report(values, affine=directions(), status="inconclusive", reasons=("FIDELITY: another function",))
    assert evaluate(doubted, None, rule).rules[0].reason == "RESULT_INCONCLUSIVE"


def test_a_rule_on_the_worst_direction_has_all_of_them_measured() -> None:
    found = parse(policy("{id: w, kind: worst_direction, max: 0.7}"))
    assert found.generators == tuple(g for g in GENERATORS if g != "brightness")


def test_limits_per_square_pixel_scale_the_whole_interval(make_report: Maker, lognormal: Draw) -> None:
    plain = make_report({"rotation": lognormal(200, 1)})
    result = plain.results["rotation"]
    report = replace(plain, results={"rotation": replace(result, lee_per_px2=result.lee / 50)})
    rules = [
        evaluate(report, None, policy(f"{{kind: limit, generators: rotation, {more} max: 3}}")).rules[0]
        for more in ("", "measure: lee_per_px2,")
    ]
    per_t, per_px2 = rules
    assert per_px2.value == pytest.approx(per_t.value / 50)
    assert per_px2.interval == pytest.approx([end / 50 for end in per_t.interval])
    assert (per_px2.outcome, per_px2.subject) == ("pass", "lee_per_px2")
    assert "mean LEE per px² is" in per_px2.sentence
    none = evaluate(plain, None, policy("{kind: limit, generators: rotation, measure: lee_per_px2, max: 3}")).rules[0]
    assert (none.outcome, none.reason) == ("inconclusive", "NOT_MEASURED")


def test_the_gap_between_two_datasets(make_report: Maker, lognormal: Draw) -> None:
    rule = policy("{kind: gap, generators: rotation, dataset: train, margin: 0.5}")
    test = make_report({"rotation": lognormal(400, 1, sigma=1.0)})
    train = {"train": make_report({"rotation": lognormal(300, 2, sigma=1.0, scale=0.4)}, data="e" * 64)}
    outcome = evaluate(test, None, rule, train).rules[0]
    assert (outcome.outcome, outcome.subject, outcome.images) == ("fail", "train", 300)
    assert "the one on 'train'" in outcome.sentence
    swapped = evaluate(train["train"], None, rule, {"train": test}).rules[0]
    assert (swapped.outcome, swapped.value) == ("fail", pytest.approx(outcome.value)), "whichever set is named"
    assert "mean LEE on 'train' is" in swapped.sentence
    assert "in either direction" in swapped.sentence
    with pytest.raises(ComparisonError, match="no gap to measure"):
        evaluate(test, None, rule, {"train": test})
    with pytest.raises(ComparisonError, match="--dataset train=DATA"):
        evaluate(test, None, rule)
    other = make_report({"rotation": lognormal(300, 2)}, data="e" * 64, **BASELINE)
    with pytest.raises(ComparisonError, match="it is of model bbbbbbbbbbbb"):
        evaluate(test, None, rule, {"train": other})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"data": "e" * 64}, "other images: baseline images.npz (eeeeeeeeeeee"),
        ({"metric_version": METRIC_VERSION + 1}, f"metric version {METRIC_VERSION + 1}"),
        ({"spec": {"seed": 1}}, "spec.seed: baseline 1, candidate 0"),
        ({"spec": {"interpolation": "bicubic"}}, "spec.interpolation: baseline bicubic, candidate bilinear"),
        ({"spec": {"padding": "circular"}}, "spec.padding: baseline circular, candidate reflect"),
        ({"spec": {"convention": "reference"}}, "spec.convention"),
        ({"spec": {"step": 0.01}}, "spec.step: baseline 0.01, candidate none"),
        ({"spec": {"preprocessing": {"scale": 1.0, "name": "none"}}}, "spec.preprocessing"),
    ],
)
def test_a_baseline_measured_on_other_terms_is_refused_by_name(
    make_report: Maker, lognormal: Draw, fields: dict[str, Any], named: str
) -> None:
    values = {"rotation": lognormal(60, 1)}
    candidate = make_report(values)
    with pytest.raises(ComparisonError) as caught:
        evaluate(candidate, make_report(values, **BASELINE, **fields), policy(NO_WORSE))
    assert caught.value.reason == "BASELINE_NOT_COMPARABLE"
    assert named in str(caught.value)


def test_images_are_counted_however_they_were_asked_for(make_report: Maker, lognormal: Draw) -> None:
    values = lognormal(60, 1)
    candidate = make_report({"rotation": values})
    same = make_report({"rotation": values}, spec={"max_images": 60}, **BASELINE)
    assert evaluate(candidate, same, policy(NO_WORSE)).verdict == "pass"
    fewer = make_report({"rotation": values[:50]}, spec={"max_images": 50}, **BASELINE)
    with pytest.raises(ComparisonError, match="measured on the first 50 images, the candidate on 60"):
        evaluate(candidate, fewer, policy(NO_WORSE))


def test_another_head_is_refused_and_the_name_of_a_preset_is_not(make_report: Maker, lognormal: Draw) -> None:
    values = {"rotation": lognormal(60, 1)}
    custom, preset = ({"preprocessing": {"scale": 255.0, "name": name}} for name in ("custom", "unit"))
    candidate, baseline = make_report(values, spec=custom), make_report(values, spec=preset, **BASELINE)
    assert evaluate(candidate, baseline, policy(NO_WORSE)).verdict == "pass"
    headed = replace(baseline, model=replace(baseline.model, head="identity"))
    with pytest.raises(ComparisonError, match="head: baseline identity, candidate softmax"):
        evaluate(candidate, headed, policy(NO_WORSE))


def test_what_was_fed_for_all_images_must_be_the_same(pair: Any) -> None:
    def fed(report: Report, value: float, *, per_image: bool = False) -> Report:
        feed = described("threshold", np.full((2, 1), value, np.float32), "spec", per_image=per_image)
        return replace(report, data=replace(report.data, feeds=(feed,)))

    candidate, baseline = pair(1.0)
    assert evaluate(fed(candidate, 0.5), fed(baseline, 0.5), policy(NO_WORSE)).verdict
    assert evaluate(fed(candidate, 0.5, per_image=True), fed(baseline, 0.4, per_image=True), policy(NO_WORSE)).verdict
    with pytest.raises(ComparisonError, match="'threshold'") as caught:
        evaluate(fed(candidate, 0.5), fed(baseline, 0.25), policy(NO_WORSE))
    assert "0.25" in str(caught.value)


def test_a_missing_baseline_is_refused_and_names_the_rule(make_report: Maker, lognormal: Draw) -> None:
    with pytest.raises(ComparisonError, match=r"'no-worse' \(line 3\) compares with a baseline"):
        evaluate(make_report({"rotation": lognormal(60, 1)}), None, policy(NO_WORSE))


def test_a_waiver_lets_a_failure_through_until_it_expires(pair: Any) -> None:
    candidate, baseline = pair(1.6)
    text = policy(NO_WORSE) + "waivers:\n  - {rule: no-worse, owner: ada, reason: known, expires: 2027-01-31}\n"
    held = evaluate(candidate, baseline, text, today=dt.date(2027, 1, 31))
    assert (held.verdict, held.rules[0].outcome) == ("pass", "waived")
    assert "Waived until 2027-01-31 by ada: known" in held.reasons[0]
    over = evaluate(candidate, baseline, text, today=dt.date(2027, 2, 1))
    assert (over.verdict, over.rules[0].outcome) == ("fail", "fail")
    assert over.rules[0].waiver is not None
    assert over.rules[0].waiver.expired
    assert "expired on 2027-01-31: fix it, or renew the waiver" in over.reasons[0]


@pytest.mark.parametrize(
    ("on_inconclusive", "verdict"),
    [("block", "inconclusive"), ("warn", "inconclusive"), ("fail", "fail"), ("more_images", "inconclusive")],
)
def test_what_inconclusive_means(pair: Any, on_inconclusive: str, verdict: str) -> None:
    candidate, baseline = pair(1.1)
    decision = evaluate(
        candidate, baseline, policy(NO_WORSE, on_inconclusive=on_inconclusive, images="{min: 100, max: 1000}")
    )
    assert decision.verdict == verdict
    assert decision.on_inconclusive == on_inconclusive
    assert decision.next_images == (800 if on_inconclusive == "more_images" else None)


def test_looking_again_shares_the_level_between_the_looks(pair: Any) -> None:
    text = policy(NO_WORSE, on_inconclusive="more_images", images="{min: 100, max: 800}")
    decision = evaluate(*pair(1.1), text)
    # 100, 200, 400, 800: four looks at 5 % / 4
    assert decision.confidence == pytest.approx(1 - 0.05 / 4)
    assert decision.false_fail_rate == pytest.approx(0.025)


def test_power_says_how_many_images_decide(pair: Any) -> None:
    candidate, baseline = pair(1.0, images=60)
    text = policy(NO_WORSE, statistic="geometric_mean")
    rule = evaluate(candidate, baseline, text, power=True).rules[0]
    assert rule.outcome == "inconclusive"
    logs = np.log(candidate.results["rotation"].per_image) - np.log(baseline.results["rotation"].per_image)
    # two-sided 95 % and 80 % power: (1.96 + 0.8416)² σ² / d²
    expected = ((1.959964 + 0.841621) * logs.std() / (math.log(1.1) - logs.mean())) ** 2
    assert rule.images_needed == pytest.approx(expected, rel=0.15)
    assert str(rule.images_needed) in rule.sentence
    assert evaluate(candidate, baseline, text).rules[0].images_needed is None


def test_the_decision_is_the_message_field_by_field(full_reports: tuple[Report, Report]) -> None:
    text = policy(
        "{id: a, kind: noninferiority, generators: [rotation, scale], margin: 0.1}",
        "{id: b, kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.01}",
    ) + "waivers:\n  - {rule: a, owner: ada, reason: known, expires: 2027-01-31}\n"  # fmt: skip
    decision = evaluate(*full_reports, text, power=True)
    message = json_format.ParseDict(decision.to_dict(), gate_pb2.Decision())
    back = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    plain = decision.to_dict()
    assert back == plain
    assert set(plain) | {"next_images", "secant_px"} == {f.name for f in gate_pb2.Decision.DESCRIPTOR.fields}


def test_decisions_repeat_to_the_bit(pair: Any) -> None:
    first, second = (evaluate(*pair(1.05), policy(NO_WORSE)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("direction", "shifted_is_data", "shifted_is_dataset"),
    [("both", "fail", "fail"), ("data_no_worse", "fail", "pass"), ("dataset_no_worse", "pass", "fail")],
)
def test_a_gap_states_its_direction_or_holds_in_both(
    make_report: Maker, lognormal: Draw, direction: str, shifted_is_data: str, shifted_is_dataset: str
) -> None:
    """A shift that multiplies the error by nine is a disaster whichever of the two sets is called the dataset."""
    rule = policy(f"{{kind: gap, generators: rotation, dataset: other, margin: 0.5, direction: {direction}}}")
    clean = make_report({"rotation": lognormal(400, 1, sigma=1.0)})
    shifted = make_report({"rotation": lognormal(400, 2, sigma=1.0, scale=9.0)}, data="e" * 64)
    assert evaluate(shifted, None, rule, {"other": clean}).verdict == shifted_is_data
    assert evaluate(clean, None, rule, {"other": shifted}).verdict == shifted_is_dataset


def test_a_gap_in_both_directions_is_a_two_sided_test(make_report: Maker, lognormal: Draw) -> None:
    """Without a gap it passes, close to the limit it is open, and its p-value counts both ways."""
    draws = [lognormal(3000, seed, sigma=0.5) for seed in (1, 2)]
    rule = "{kind: gap, generators: rotation, dataset: other, margin: 0.5"
    rules = [rule + "}", rule + ", direction: data_no_worse}"]
    for scale, outcomes in ((1.0, "pass"), (1.5, "inconclusive"), (1 / 1.5, "inconclusive"), (3.0, "fail")):
        here = make_report({"rotation": scale * draws[0]})
        there = {"other": make_report({"rotation": draws[1]}, data="e" * 64)}
        both = evaluate(here, None, policy(rules[0]), there).rules[0]
        assert both.outcome == outcomes, scale
        assert both.value is not None
        assert both.value >= 1
        if scale > 1:
            one = evaluate(here, None, policy(rules[1]), there).rules[0]
            assert both.p_value == pytest.approx(min(1.0, 2 * one.p_value))


def test_several_gaps_in_one_policy(make_report: Maker, lognormal: Draw) -> None:
    rules = [
        f"{{id: {name}, kind: gap, generators: rotation, dataset: {name}, margin: 0.5}}" for name in ("jpeg", "fog")
    ]
    here = make_report({"rotation": lognormal(3000, 1, sigma=0.5)})
    there = {
        "jpeg": make_report({"rotation": lognormal(3000, 2, sigma=0.5)}, data="e" * 64),
        "fog": make_report({"rotation": lognormal(3000, 3, sigma=0.5, scale=7)}, data="f" * 64),
    }
    decision = evaluate(here, None, policy(*rules), there)
    assert {rule.id: rule.outcome for rule in decision.rules} == {"jpeg": "pass", "fog": "fail"}
    assert decision.verdict == "fail"


def test_relative_needs_the_policy_s_images_too(make_report: Maker, lognormal: Draw) -> None:
    report = make_report({"rotation": lognormal(400, 1)}, spec={"relative_images": 64})
    rule = "{kind: relative, generators: rotation, max: 1}"
    outcome = evaluate(report, None, policy(rule, images="{min: 100}")).rules[0]
    assert (outcome.outcome, outcome.reason, outcome.images) == ("inconclusive", "TOO_FEW_IMAGES", 64)
    assert "--relative-images" in outcome.sentence
    grows = policy(rule, images="{min: 100, max: 800}", on_inconclusive="more_images")
    assert evaluate(report, None, grows).next_images == 800
    enough = make_report({"rotation": lognormal(400, 1)}, spec={"relative_images": 400})
    assert evaluate(enough, None, policy(rule, images="{min: 100}")).verdict == "pass"


POWER = {
    "limit": ("{kind: limit, generators: rotation, max: 2.4}", "--max-images"),
    "noninferiority": (NO_WORSE, "for both models"),
    "relative": ("{kind: relative, generators: rotation, max: 0.85}", "--relative-images"),
    "gap": ("{kind: gap, generators: rotation, dataset: other, margin: 0.4}", "in --dataset other"),
}


@pytest.mark.parametrize("kind", POWER)
def test_power_speaks_of_what_can_be_changed(make_report: Maker, lognormal: Draw, kind: str) -> None:
    rule, says = POWER[kind]
    report = make_report({"rotation": lognormal(100, 1)}, spec={"relative_images": 100})
    other = make_report({"rotation": lognormal(100, 2)}, spec={"relative_images": 100}, data="e" * 64)
    baseline = make_report({"rotation": lognormal(100, 3)}, **BASELINE, spec={"relative_images": 100})
    outcome = evaluate(report, baseline, policy(rule), {"other": other}, power=True).rules[0]
    assert outcome.outcome == "inconclusive"
    assert says in outcome.sentence


def test_nothing_inconclusive_passes(make_report: Maker, lognormal: Draw) -> None:
    """Whatever makes a report inconclusive, on either side, keeps every kind of rule from passing."""
    values = lognormal(100, 1, scale=1e-3)
    part = Layerwise((), 0.01, "forward", by_kind=(KindTotal("pooling", 2, 1.0, 1.0, 0.1),))
    fields = {"layerwise": {"rotation": part}, "spec": {"relative_images": 100}}
    rules = [
        NO_WORSE, "{id: l, kind: limit, generators: rotation, max: 9}",
        "{id: r, kind: relative, generators: rotation, max: 9}",
        "{id: s, kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.9}",
        "{id: g, kind: gap, generators: rotation, dataset: other, margin: 9}",
    ]  # fmt: skip
    good = make_report({"rotation": values}, **fields)
    base = make_report({"rotation": values}, **BASELINE, **fields)
    other = make_report({"rotation": lognormal(100, 2, scale=1e-3)}, data="e" * 64)
    assert evaluate(good, base, policy(*rules), {"other": other}).verdict == "pass"

    def spoilt(report: Report) -> list[Report]:
        result = replace(report.results["rotation"], status="inconclusive", reasons=("odd",))
        return [
            replace(report, status="inconclusive", reasons=("QuantizeLinear is piecewise constant",)),
            replace(report, status="inconclusive"),
            replace(report, results={"rotation": result}, status="inconclusive", reasons=("rotation: odd",)),
            replace(report, results={"rotation": result}),
        ]

    for bad in spoilt(good):
        outcomes = evaluate(bad, base, policy(*rules), {"other": other}).rules
        assert {rule.outcome for rule in outcomes} == {"inconclusive"}
    for bad in spoilt(base):
        assert evaluate(good, bad, policy(NO_WORSE)).verdict == "inconclusive"
    for bad in spoilt(other):
        assert evaluate(good, base, policy(rules[-1]), {"other": bad}).verdict == "inconclusive"
    # what is open about another generator is no obstacle
    elsewhere = replace(good, status="inconclusive", reasons=("rotation: odd",))
    elsewhere = replace(elsewhere, results={**good.results, "scale": replace(good.results["rotation"])})
    wide = replace(elsewhere.results["rotation"], status="inconclusive", reasons=("odd",))
    elsewhere = replace(elsewhere, results={"scale": good.results["rotation"], "rotation": wide})
    rule = "{kind: limit, generators: scale, max: 9}"
    assert evaluate(elsewhere, None, policy(rule)).verdict == "pass"


@pytest.mark.parametrize("count", [1, 2])
def test_a_pass_that_stands_on_waivers_says_so(pair: Any, count: int) -> None:
    rules = [NO_WORSE.replace("no-worse", f"rule-{i}") for i in range(count)]
    waivers = "".join(f"  - {{rule: rule-{i}, owner: ada, reason: known, expires: 2027-01-31}}\n" for i in range(count))
    text = policy(*rules, "{id: high, kind: limit, generators: rotation, max: 1.0e+6}") + "waivers:\n" + waivers
    decision = evaluate(*pair(1.6), text, today=dt.date(2027, 1, 31))
    assert decision.verdict == "pass"
    assert decision.headline.startswith(f"PASS with {count} waiver")
    assert decision.headline.endswith("every other rule is met")


LIMIT = "{id: ceiling, kind: limit, generators: rotation, max: %s}"


@pytest.mark.parametrize(
    ("rules", "first_version", "verdict", "outcomes"),
    [
        ((NO_WORSE, LIMIT % 100), "limits", "pass", ("skipped", "pass")),
        ((NO_WORSE, LIMIT % 1e-9), "limits", "fail", ("skipped", "fail")),
        ((NO_WORSE, LIMIT % 1e-9), "pass", "fail", ("skipped", "fail")),
        ((NO_WORSE,), "limits", "inconclusive", ("skipped",)),
        ((NO_WORSE,), "pass", "pass", ("skipped",)),
    ],
)
def test_a_first_version_is_decided_by_what_needs_no_baseline(
    pair: Any, rules: tuple[str, ...], first_version: str, verdict: str, outcomes: tuple[str, ...]
) -> None:
    candidate, _ = pair(1.0)
    decision = evaluate(candidate, None, policy(*rules), first_version=first_version)
    assert decision.verdict == verdict
    assert tuple(rule.outcome for rule in decision.rules) == outcomes
    skipped = decision.rules[0]
    assert (skipped.reason, skipped.value, skipped.p_value) == ("FIRST_VERSION", None, None), (
        "not measured is no number"
    )
    assert "there is no baseline yet" in skipped.sentence
    assert "first version" in decision.headline or verdict == "fail"


def test_a_first_version_that_only_waivers_carry_says_both(pair: Any) -> None:
    candidate, _ = pair(1.0)
    text = policy(NO_WORSE, LIMIT % 1e-9) + WAIVERS
    decision = evaluate(candidate, None, text, first_version="limits", today=dt.date(2026, 1, 1))
    assert decision.headline == (
        "PASS of a first version with 1 waiver: no rule is left; 1 had no baseline to compare with"
    )


WAIVERS = "waivers:\n  - {rule: ceiling, owner: ada, reason: known, expires: 2026-12-31}\n"


@pytest.mark.parametrize(("first_version", "with_baseline"), [("maybe", False), ("limits", True)])
def test_a_first_version_is_one_or_is_refused(pair: Any, first_version: str, *, with_baseline: bool) -> None:
    candidate, baseline = pair(1.0)
    with pytest.raises(ComparisonError) as caught:
        evaluate(candidate, baseline if with_baseline else None, policy(NO_WORSE), first_version=first_version)
    assert caught.value.reason == "INVALID_FIRST_VERSION"
