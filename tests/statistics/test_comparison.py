from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieaudit.errors import DataError, SpecError
from lieaudit.statistics import STATISTICS, compare, holm, p_at_least, p_at_most

scipy_stats = pytest.importorskip("scipy.stats")


def _pairs(rng, n, spread=1.0, correlation=0.8, ratio=1.0):
    """Two versions of a model on the same images: log-normal errors that agree on which images are hard."""
    shared, own = rng.normal(size=n), rng.normal(size=(2, n))
    logs = spread * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    return ratio * np.exp(logs[0]), np.exp(logs[1])


def _few_hard(rng, n):
    """A third of the images is hard; each version fails on 70 % of those, on images of its own choice."""
    hard = rng.random(n) < 0.3
    failed = hard & (rng.random((2, n)) < 0.7)
    return np.where(failed, rng.lognormal(1.5, 1.3, (2, n)), rng.lognormal(-17, 2, (2, n)))


def _percentile(candidate, baseline, resamples, rng):
    """The plain percentile interval of the ratio of means, for comparison."""
    n = len(candidate)
    counts = rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float)
    return np.quantile((counts @ candidate) / (counts @ baseline), [0.025, 0.975])


@pytest.mark.parametrize(
    ("draw", "n"),
    [
        (_pairs, 64),
        (lambda rng, n: _pairs(rng, n, spread=2.0), 64),
        (lambda rng, n: _pairs(rng, n, spread=2.0, correlation=0.99), 128),
        (_few_hard, 64),
    ],
)
def test_interval_of_the_ratio_of_means_covers_where_few_images_carry_it(draw, n):
    rng = np.random.default_rng(22)
    covered, plain = 0, 0
    replications = 600  # standard error of a coverage 0.009
    for _ in range(replications):
        candidate, baseline = draw(rng, n)
        interval = compare(candidate, baseline, resamples=600, seed=int(rng.integers(2**31))).interval
        assert interval is not None
        covered += interval[0] <= 1 <= interval[1]
        other = _percentile(candidate, baseline, 600, rng)
        plain += other[0] <= 1 <= other[1]
    assert covered / replications == pytest.approx(0.95, abs=0.027)
    # percentiles lose two to six points of the 95
    assert plain < covered - 0.01 * replications


@pytest.mark.parametrize("statistic", ["median", "geometric_mean"])
@pytest.mark.parametrize("draw", [_pairs, _few_hard])
def test_interval_of_the_other_ratios_covers(draw, statistic):
    rng = np.random.default_rng(22)
    covered = 0
    for _ in range(500):
        interval = compare(*draw(rng, 64), statistic=statistic, resamples=600, seed=int(rng.integers(2**31))).interval
        assert interval is not None
        covered += interval[0] <= 1 <= interval[1]
    # medians of pairs that agree on the order of the images are covered more often than promised
    assert 0.95 - 0.03 <= covered / 500 <= (1.0 if statistic == "median" else 0.98)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_p_values_under_equality_are_calibrated(statistic):
    rng = np.random.default_rng(5)
    p = []
    for _ in range(500):
        candidate, baseline = _pairs(rng, 100)
        comparison = compare(candidate, baseline, statistic=statistic, resamples=400, seed=int(rng.integers(2**31)))
        p.append((comparison.p_non_inferior(0.0), comparison.p_inferior(0.0)))
    # nominal 0.05 and 0.25 in both directions; three standard errors of 500 are 0.03 and 0.06
    rejected = np.mean(np.array(p) <= 0.05, axis=0)
    assert np.all(rejected < 0.085)
    assert np.all(rejected > 0.015)
    np.testing.assert_allclose(np.mean(np.array(p) <= 0.25, axis=0), 0.25, atol=0.06)


def test_a_real_regression_is_seen_and_a_margin_forgives():
    candidate, baseline = _pairs(np.random.default_rng(2), 500, correlation=0.95, ratio=1.3)
    comparison = compare(candidate, baseline)
    assert comparison.ratio == pytest.approx(1.3, rel=0.1)
    assert comparison.p_inferior(0.0) < 0.01
    assert comparison.p_non_inferior(0.0) > 0.99
    assert comparison.p_non_inferior(1.0) < 0.01
    assert comparison.p_inferior(1.0) > 0.99


@pytest.mark.parametrize("statistic", STATISTICS)
def test_p_values_and_intervals_tell_the_same(statistic):
    candidate, baseline = _pairs(np.random.default_rng(9), 80)
    for confidence in (0.5, 0.9, 0.95):
        comparison = compare(candidate, baseline, statistic=statistic, confidence=confidence, resamples=3999)
        assert comparison.interval is not None
        low, high = comparison.interval
        tail = (1 - confidence) / 2
        step = 2e-3  # medians jump from image to image
        assert comparison.p_non_inferior(high * (1 + step) - 1) <= tail + 1e-3
        assert comparison.p_non_inferior(high * (1 - step) - 1) >= tail - 1e-3
        assert comparison.p_inferior(low * (1 - step) - 1) <= tail + 1e-3
        assert comparison.p_inferior(low * (1 + step) - 1) >= tail - 1e-3


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_agrees_with_scipy(statistic):
    candidate, baseline = _pairs(np.random.default_rng(4), 2000, spread=0.5)
    reduce = np.mean if statistic == "mean" else np.median
    ours = compare(candidate, baseline, statistic=statistic, resamples=4000).interval
    theirs = scipy_stats.bootstrap(
        (candidate, baseline),
        lambda c, b, axis: np.log(reduce(c, axis=axis) / reduce(b, axis=axis)),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
        batch=500,
    ).confidence_interval
    # Monte-Carlo error of an end is about 2 % of the length
    np.testing.assert_allclose(np.log(ours), [theirs.low, theirs.high], atol=0.08 * float(theirs.high - theirs.low))


def test_geometric_mean_ratio_is_that_of_the_pairs():
    comparison = compare([2.0, 8.0], [1.0, 1.0], statistic="geometric_mean", resamples=200)
    assert comparison.ratio == pytest.approx(4)
    assert comparison.interval == pytest.approx((2, 8))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_model_against_itself(statistic):
    values = np.random.default_rng(1).lognormal(-17, 5, 333)
    comparison = compare(values, values, statistic=statistic, resamples=500)
    assert comparison.ratio == 1
    assert comparison.interval == (1, 1)
    assert np.all(comparison.log_ratios == 0)
    # within any positive margin for certain; at margin 0 equality is neither above nor below
    assert comparison.p_non_inferior(0.01) == 1 / 501
    assert comparison.p_non_inferior(0.0) == comparison.p_inferior(0.0) == 1


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_baseline_of_zero_has_no_ratio_but_p_values(statistic):
    zeros, ones = np.zeros(20), np.ones(20)
    worse = compare(ones, zeros, statistic=statistic, resamples=200)
    assert (worse.ratio, worse.interval) == (None, None)
    assert worse.p_inferior(10.0) == 1 / 201
    better = compare(zeros, ones, statistic=statistic, resamples=200)
    assert better.ratio == 0
    assert better.interval == (0, 0)
    assert better.p_non_inferior(0.0) == 1 / 201
    both = compare(zeros, zeros, statistic=statistic, resamples=200)
    assert both.ratio is None
    assert both.p_non_inferior(0.1) == 1 / 201


def test_a_baseline_that_is_often_zero_has_no_interval():
    baseline = np.zeros(30)
    baseline[0] = 1.0  # a third of the resamples misses it
    comparison = compare(np.ones(30), baseline, resamples=500)
    assert comparison.ratio == pytest.approx(30)
    assert comparison.interval is None


def test_pairing_matters():
    # the same images are hard for both: without the pairing the interval would be many times longer
    rng = np.random.default_rng(6)
    candidate, baseline = _pairs(rng, 200, spread=1.5, correlation=0.99)
    paired = compare(candidate, baseline).interval
    shuffled = compare(rng.permutation(candidate), baseline).interval
    assert paired is not None
    assert shuffled is not None
    assert np.log(shuffled[1] / shuffled[0]) > 3 * np.log(paired[1] / paired[0])


def test_seeded():
    candidate, baseline = _pairs(np.random.default_rng(0), 50)
    assert compare(candidate, baseline, seed=1) == compare(candidate, baseline, seed=1)
    assert compare(candidate, baseline, seed=1) != compare(candidate, baseline, seed=2)


@pytest.mark.parametrize(
    ("candidate", "baseline", "statistic", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], "mean", "NOT_PAIRED"),
        (np.ones((2, 2)), np.ones((2, 2)), "mean", "NOT_PAIRED"),
        ([1.0], [1.0], "mean", "TOO_FEW_IMAGES"),
        ([1.0, -1.0], [1.0, 1.0], "mean", "INVALID_SAMPLES"),
        ([1.0, np.nan], [1.0, 1.0], "median", "INVALID_SAMPLES"),
        ([1.0, 0.0], [1.0, 1.0], "geometric_mean", "NOT_POSITIVE"),
    ],
)
def test_unusable_samples_are_refused(candidate, baseline, statistic, reason):
    with pytest.raises(DataError) as caught:
        compare(candidate, baseline, statistic=statistic)
    assert caught.value.reason == reason


def test_unusable_choices_are_refused():
    with pytest.raises(SpecError, match="statistic"):
        compare([1.0, 2.0], [1.0, 2.0], statistic="max")
    with pytest.raises(SpecError, match="confidence"):
        compare([1.0, 2.0], [1.0, 2.0], confidence=1.5)


def test_p_values_count_draws():
    draws = np.array([1.0, 2.0, 3.0])
    assert p_at_least(draws, 2.0) == 3 / 4
    assert p_at_most(draws, 2.0) == 3 / 4
    assert p_at_least(draws, 9.0) == p_at_most(draws, 0.0) == 1 / 4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferronis(p):
    # a hypothesis is rejected at α where every intersection with it is, each by Bonferroni
    expected = []
    for i in range(len(p)):
        others = [j for j in range(len(p)) if j != i]
        subsets = itertools.chain.from_iterable(itertools.combinations(others, k) for k in range(len(p)))
        expected.append(max(min(1.0, (len(s) + 1) * min(p[i], *(p[j] for j in s), 1.0)) for s in subsets))
    np.testing.assert_allclose(holm(p), expected, rtol=1e-15)


def test_holm_refuses_what_is_no_p_value():
    assert holm([]).shape == (0,)
    for bad in ([1.5], [-0.1], [np.nan], [[0.1]]):
        with pytest.raises(DataError, match="p-values"):
            holm(bad)
