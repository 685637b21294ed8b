"""A limit rule on a measure of somebody else's: the same statistics, and every fault of theirs a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lieaudit.errors import PolicyError
from lieaudit.gate import evaluate
from lieaudit.gate.own import load
from lieaudit.report import Report

POLICY = """version: 1
statistic: %s
rules:
  - {id: own, kind: limit, measure: own, generators: rotation, max: 2}
  - {id: lee, kind: limit, generators: rotation, max: 2}
"""


def per_image(report: Report, generator: str) -> Sequence[float]:
    return report.results[generator].per_image


@pytest.mark.parametrize("statistic", ["mean", "median", "geometric_mean"])
def test_lee_as_somebody_elses_measure_is_decided_like_lee(
    make_report: Callable[..., Report], lognormal: Callable[..., np.ndarray], statistic: str
) -> None:
    report = make_report({"rotation": lognormal(100, 1)}, error=0.0)
    own, lee = evaluate(report, None, POLICY % statistic, measures={"own": per_image}).rules
    assert (own.value, own.interval, own.outcome, own.images) == (lee.value, lee.interval, lee.outcome, 100)
    assert own.sentence.startswith(f"rotation: {statistic.replace('_', ' ')} own is ")


def raises(_report: Report, _generator: str) -> Any:
    raise ZeroDivisionError("by hand")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raises, "raised ZeroDivisionError: by hand"),
        (lambda *_: [1.0, 2.0], "returned shape (2,), not one number for each of 100 images"),
        (lambda *_: [np.nan] * 100, "returned numbers that are not finite"),
        (lambda *_: "text", "raised ValueError"),
    ],
)
def test_a_fault_of_the_measure_leaves_its_rule_undecided_and_no_other(
    make_report: Callable[..., Report], lognormal: Callable[..., np.ndarray], function: Any, says: str
) -> None:
    report = make_report({"rotation": lognormal(100, 1)})
    decision = evaluate(report, None, POLICY % "mean", measures={"own": function})
    own, lee = decision.rules
    assert (own.outcome, own.reason, own.value) == ("inconclusive", "MEASURE_FAILED", None)
    assert says in own.sentence
    assert lee.value is not None


def test_a_measure_that_nobody_offers_is_refused(make_report: Callable[..., Report]) -> None:
    with pytest.raises(PolicyError, match="measure"):
        evaluate(make_report({"rotation": np.ones(60)}), None, POLICY % "mean")
    with pytest.raises(PolicyError) as caught:
        load(["no_such_measure"])
    assert caught.value.reason == "MEASURE_NOT_LOADED"
