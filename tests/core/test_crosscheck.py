"""The cross-check on small drawn networks: no false alarms, and rules that are 10 % off never agree."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lieaudit.crosscheck import SEEN, Compared, judge, unchecked
from lieaudit.report import AGREES, COULD_NOT_CHECK, DISAGREES, Agreement

AUDITS = 100
PLANTED = 40


@pytest.fixture(scope="module")
def planted():
    """bench/_planted.py: drawn networks and planted rules; its full rates are those of bench/crosscheck.py."""
    path = Path(__file__).resolve().parents[2] / "bench" / "_planted.py"
    spec = importlib.util.spec_from_file_location("planted", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_false_alarm_in_correct_audits(planted):
    verdicts = [a.verdict for seed in range(AUDITS) for a in planted.checked(seed, planted=False).values()]
    assert DISAGREES not in verdicts
    # a check that never says anything raises no alarm either
    assert verdicts.count(AGREES) > 0.5 * len(verdicts)


def test_rules_ten_percent_off_never_agree_and_mostly_disagree(planted):
    found = [a for seed in range(PLANTED) for a in planted.checked(seed, planted=True).values()]
    assert not any(a.agrees or a.verdict == AGREES for a in found)
    # three in four, as over many more; so few of 120 would be one draw in 10⁴ at that rate
    assert sum(a.verdict == DISAGREES for a in found) >= 0.6 * len(found)


def compared(deviation, allowed, count):
    return [Compared(1.0, deviation, allowed, 1.0) for _ in range(count)]


@pytest.mark.parametrize(
    ("deviation", "allowed", "verdict"),
    [
        (0.10, 0.33, COULD_NOT_CHECK),
        (0.0, 1.34, COULD_NOT_CHECK),
        (0.001, SEEN, AGREES),
        (0.001, 1.01 * SEEN, COULD_NOT_CHECK),
        (0.06, SEEN, DISAGREES),
        (0.5, 0.33, DISAGREES),
    ],
)
def test_agreement_needs_that_a_disagreement_would_have_been_seen(deviation, allowed, verdict):
    made = judge(compared(deviation, allowed, 16), "finite_difference", last=True)
    assert made.verdict == verdict
    assert made.agrees == (verdict == AGREES)


@pytest.mark.parametrize(
    ("deviation", "explained", "verdict"),
    [
        (0.001, 2 * SEEN, AGREES),
        (0.001, 2.02 * SEEN, COULD_NOT_CHECK),
        (0.07, 1.9 * SEEN, COULD_NOT_CHECK),  # within the bars, and not within half of them
        (0.10, 1.9 * SEEN, DISAGREES),
    ],
)
def test_many_images_see_twice_as_sharply(deviation, explained, verdict):
    made = judge(compared(deviation, explained, 32), "finite_difference", last=True)
    assert made.verdict == verdict
    assert made.allowed == explained / 2


def test_one_images_kinks_do_not_decide():
    images = [*compared(0.001, 0.01, 15), *compared(0.3, 0.01, 1)]
    assert judge(images, "finite_difference", last=True).verdict == AGREES


def test_a_doubt_asks_for_more_images():
    assert judge(compared(0.02, 0.01, 4), "forward", last=False) is None
    assert judge(compared(0.02, 0.10, 8), "forward", last=False) is None
    assert judge(compared(0.02, 0.01, 8), "forward", last=False).verdict == DISAGREES
    assert judge(compared(0.001, 0.01, 4), "forward", last=False).verdict == AGREES


def test_few_images_disagree_only_where_all_are_far_out():
    assert judge(compared(0.1, 0.01, 3), "forward", last=True).verdict == DISAGREES
    assert judge(compared(0.015, 0.01, 3), "forward", last=True).verdict == COULD_NOT_CHECK
    assert judge(compared(0.1, 0.01, 2), "forward", last=True).verdict == COULD_NOT_CHECK


def test_a_zero_derivative_could_not_be_checked():
    zero = [Compared(0.0, 0.0, 1e-9, 0.0) for _ in range(8)]
    made = judge(zero, "finite_difference", last=True)
    assert made.verdict == COULD_NOT_CHECK
    assert np.isfinite(made.allowed)


def test_only_a_report_in_which_nothing_was_checked_is_unchecked():
    def agreement(verdict):
        return Agreement("finite_difference", 4, 0.1, 0.3, agrees=verdict == AGREES, lee=1.0, verdict=verdict)

    assert unchecked({}) == ()
    assert unchecked({"rotation": agreement(COULD_NOT_CHECK), "scale": agreement(AGREES)}) == ()
    (reason,) = unchecked({"rotation": agreement(COULD_NOT_CHECK)})
    assert reason.startswith("UNCHECKED")


def test_reports_of_before_have_the_verdict_that_their_truth_value_says():
    assert Agreement("forward", 4, 0.1, 0.3, agrees=True, lee=1.0).verdict == AGREES
    assert Agreement("forward", 4, 0.4, 0.3, agrees=False, lee=1.0).verdict == DISAGREES
