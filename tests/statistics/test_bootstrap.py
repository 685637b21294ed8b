from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lieaudit.errors import DataError, SpecError
from lieaudit.statistics import STATISTICS, bootstrap_interval, confidence_draws, point_estimate

scipy_stats = pytest.importorskip("scipy.stats")


def _exponential(rng, shape):
    return rng.exponential(1, shape)


def _lognormal(rng, shape):
    return rng.lognormal(0, 1, shape)


def _few_hard_images(rng, shape):
    """Per-image LEE as trained classifiers have it: a fifth of the images carries all of the mean."""
    return np.where(rng.random(shape) < 0.2, rng.lognormal(1.5, 1.3, shape), rng.lognormal(-17, 3, shape))


FEW_MEAN = 0.2 * np.exp(1.5 + 1.3**2 / 2) + 0.8 * np.exp(-17 + 3**2 / 2)
REPLICATIONS = 1000


def _percentile_and_bca(samples, resamples, seed):
    """The two usual intervals of the mean, for comparison: (2, G) each."""
    rng = np.random.default_rng(seed)
    n = len(samples)
    counts = rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float)
    means = np.sort(counts @ samples / n, axis=0)
    normal = scipy_stats.norm
    centred = samples - samples.mean(axis=0)
    acceleration = (centred**3).sum(axis=0) / (6 * (centred**2).sum(axis=0) ** 1.5)
    bias = normal.ppf(np.clip((means < samples.mean(axis=0)).mean(axis=0), 1 / resamples, 1 - 1 / resamples))
    percentile, bca = [], []
    for level in (0.025, 0.975):
        percentile.append(np.quantile(means, level, axis=0))
        z = bias + normal.ppf(level)
        rank = normal.cdf(bias + z / (1 - acceleration * z)) * (resamples - 1)
        bca.append(np.take_along_axis(means, np.rint(rank).astype(int)[None], axis=0)[0])
    return np.array(percentile), np.array(bca)


def _coverage(interval, truth):
    return float(np.mean((interval[0] <= truth) & (truth <= interval[1])))


@pytest.mark.parametrize(
    ("draw", "truth", "n", "at_least"),
    [
        (_exponential, 1.0, 64, 0.92),
        (_lognormal, np.exp(0.5), 64, 0.90),
        (_lognormal, np.exp(0.5), 256, 0.925),
        (_few_hard_images, FEW_MEAN, 64, 0.87),
        (_few_hard_images, FEW_MEAN, 256, 0.905),
    ],
)
def test_interval_of_the_mean_covers_better_than_percentile_and_bca(draw, truth, n, at_least):
    # 1000 replications: standard error of a coverage 0.007
    samples = draw(np.random.default_rng(n), (n, REPLICATIONS))
    ours = _coverage(bootstrap_interval(samples, resamples=1000, seed=1), truth)
    percentile, bca = (_coverage(i, truth) for i in _percentile_and_bca(samples, 1000, 2))
    assert ours >= at_least
    assert ours <= 0.97
    # all three see the same samples; they are closest on the least skewed
    assert ours > percentile - 0.003
    assert ours > bca - 0.003
    if draw is _few_hard_images:
        assert ours > percentile + 0.03
        assert ours > bca + 0.005


@pytest.mark.parametrize("n", [25, 100])
@pytest.mark.parametrize(
    ("statistic", "truth"), [("median", np.exp(-17.0)), ("geometric_mean", np.exp(-17.0)), ("mean", None)]
)
def test_coverage_is_nominal_where_tails_do_not_matter(statistic, truth, n):
    rng = np.random.default_rng(17)
    samples = rng.normal(5, 1, (n, REPLICATIONS)) if truth is None else rng.lognormal(-17, 3, (n, REPLICATIONS))
    interval = bootstrap_interval(samples, statistic=statistic, resamples=1000, seed=5)
    # the median's order statistics are coarse at n = 25; three standard errors are 0.02
    assert _coverage(interval, 5.0 if truth is None else truth) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("n", [7, 8, 101, 200])
def test_median_draws_have_the_distribution_of_resampled_medians(n):
    samples = np.random.default_rng(n).lognormal(0, 1, n)
    draws = confidence_draws(samples, statistic="median", resamples=20000, seed=3)
    rng = np.random.default_rng(4)
    resampled = np.median(rng.choice(samples, (20000, n)), axis=1)
    # two-sample Kolmogorov–Smirnov over 20000 draws each: exceeds 0.0195 once in 1000
    assert scipy_stats.ks_2samp(draws, resampled).statistic < 0.0195


def test_draws_of_the_mean_are_those_of_all_resamples():
    # the definition, by enumeration of all resamples: t − s·(t* − t)/max(s*, s/10); the upper half as if one further
    # image had been seen, half as far again from the mean as the largest, which carries over a fifth of the spread
    samples = np.array([0.1, 1.0, 1.7, 6.0])

    def enumerated(values):
        n = len(values)
        resamples = values[np.array(list(itertools.product(range(n), repeat=n)))]
        mean, spread = values.mean(), values.std() / np.sqrt(n)
        pivots = (resamples.mean(axis=1) - mean) / np.maximum(resamples.std(axis=1) / np.sqrt(n), spread / 10)
        return np.sort(np.maximum(mean - pivots * spread, 0))

    plain = enumerated(samples)
    further = enumerated(np.append(samples, samples.mean() + 1.5 * (6.0 - samples.mean())))
    ranks = (np.arange(25600) + 0.5) / 25600
    low, high = (values[(ranks * len(values)).astype(int)] for values in (plain, further))
    expected = np.where(ranks < 0.5, low, np.maximum(low, high))
    draws = np.sort(confidence_draws(samples, resamples=25600))
    nearest = np.abs(draws[:, None] - np.concatenate([plain, further])[None]).min(axis=1)
    assert nearest.max() < 1e-12 * 28 * samples.mean()
    # as often as they should: Kolmogorov–Smirnov of 25600 draws exceeds 0.012 once in 1000
    assert scipy_stats.ks_2samp(draws.round(9), expected.round(9)).statistic < 0.0125


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_agrees_with_scipy(statistic):
    # a large, nearly normal sample, where every kind of interval is the same
    samples = np.random.default_rng(8).normal(10, 1, 400)
    ours = bootstrap_interval(samples, statistic=statistic, resamples=20000, seed=0)
    theirs = scipy_stats.bootstrap(
        (samples,),
        np.median if statistic == "median" else np.mean,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(1),
        batch=2000,
    ).confidence_interval
    # Monte-Carlo error of an end is about 2 % of the length
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.06 * (theirs.high - theirs.low))


def test_normal_samples_give_students_interval():
    samples = np.random.default_rng(3).normal(2, 3, 12)
    ours = bootstrap_interval(samples - 100, resamples=50000)
    student = scipy_stats.t.interval(0.95, 11, loc=samples.mean() - 100, scale=samples.std(ddof=1) / np.sqrt(12))
    length = student[1] - student[0]
    # the bootstrap-t finds Student's length from the sample's own shape, which 12 values determine roughly
    assert (ours[1] - ours[0]) / length == pytest.approx(1, abs=0.2)


def test_point_estimates():
    samples = np.array([[1.0, 4.0], [4.0, 1.0], [16.0, 2.0]])
    np.testing.assert_allclose(point_estimate(samples, "mean"), [7, 7 / 3])
    np.testing.assert_allclose(point_estimate(samples, "median"), [4, 2])
    np.testing.assert_allclose(point_estimate(samples, "geometric_mean"), [4, 2])
    assert point_estimate([3.0], "mean") == 3


@pytest.mark.parametrize("statistic", STATISTICS)
def test_generators_are_independent_columns(statistic):
    samples = np.random.default_rng(0).lognormal(0, 1, (50, 4))
    together = bootstrap_interval(samples, statistic=statistic)
    for g in range(4):
        # the matrix product may sum in another order for another number of columns
        np.testing.assert_allclose(together[:, g], bootstrap_interval(samples[:, g], statistic=statistic), rtol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_seeded(statistic):
    samples = np.random.default_rng(0).lognormal(0, 1, 50)
    first, again, other = (confidence_draws(samples, statistic=statistic, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@given(
    samples=hnp.arrays(np.float64, st.integers(2, 20), elements=st.just(0.0) | st.floats(1e-12, 1e6)),
    scale=st.sampled_from([1e-200, 1e-9, 1.0, 1e200]),
    statistic=st.sampled_from(["mean", "median"]),
)
def test_interval_holds_the_estimate_and_scales(samples, scale, statistic):
    low, high = bootstrap_interval(samples, statistic=statistic, resamples=200)
    estimate = float(point_estimate(samples, statistic))
    assert 0 <= low <= estimate <= high
    # the floor of the studentised spread bounds the upper end by 11 means, which the image not seen makes 2.5 times
    # as large; 1e-9 is rounding
    assert high <= 27.5 * estimate * (1 + 1e-9) or statistic == "median"
    scaled = bootstrap_interval(samples * scale, statistic=statistic, resamples=200)
    np.testing.assert_allclose(scaled, np.array([low, high]) * scale, rtol=1e-9, atol=1e-12 * estimate * scale)


def test_one_image_that_carries_everything_has_a_wide_finite_interval():
    samples = np.zeros(100)
    samples[3] = 100.0
    low, high = bootstrap_interval(samples)
    assert low == 0
    # one Poisson event of known size allows 5.6 at 97.5 %; ours must not claim more certainty than that
    assert 5.6 < high <= 27.5


def test_constant_values_have_a_point_interval():
    np.testing.assert_array_equal(bootstrap_interval(np.zeros(10)), [0, 0])
    np.testing.assert_allclose(bootstrap_interval(np.full(10, 3.7)), [3.7, 3.7], rtol=1e-15)


def test_negative_values_are_not_clipped():
    samples = np.random.default_rng(1).normal(0, 1, 100)
    low, high = bootstrap_interval(samples)
    assert low < 0 < high


def test_memory_is_bounded():
    samples = np.random.default_rng(0).lognormal(0, 1, 200_000)
    tracemalloc.start()
    try:
        bootstrap_interval(samples, resamples=100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 100 × 200,000 counts at once would be 160 MB thrice over; a block is 2^22 of them
    assert peak < 160e6


@pytest.mark.parametrize(
    ("samples", "statistic", "reason"),
    [
        ([], "mean", "TOO_FEW_IMAGES"),
        ([1.0], "mean", "TOO_FEW_IMAGES"),
        ([1.0, np.nan], "mean", "INVALID_SAMPLES"),
        ([1.0, np.inf], "median", "INVALID_SAMPLES"),
        ([1.0, 0.0], "geometric_mean", "NOT_POSITIVE"),
        ([1.0, -1.0], "geometric_mean", "NOT_POSITIVE"),
        (np.ones((2, 2, 2)), "mean", "INVALID_SAMPLES"),
    ],
)
def test_unusable_samples_are_refused(samples, statistic, reason):
    with pytest.raises(DataError) as caught:
        bootstrap_interval(samples, statistic=statistic)
    assert caught.value.reason == reason


def test_unusable_choices_are_refused():
    with pytest.raises(SpecError, match="statistic: 'mode' is not one of mean, median, geometric_mean"):
        bootstrap_interval([1.0, 2.0], statistic="mode")
    for confidence in (0.0, 1.0, np.nan):
        with pytest.raises(SpecError, match="confidence"):
            bootstrap_interval([1.0, 2.0], confidence=confidence)


@pytest.mark.parametrize("sigma", [2.0, 3.0])
@pytest.mark.parametrize(("n", "at_least"), [(64, 0.88), (256, 0.92)])
def test_the_mean_of_a_heavy_tail_is_covered(sigma, n, at_least):
    """Finite sets of log-normal values, as the sets of images are that a model is audited on."""
    rng = np.random.default_rng(int(10 * sigma) + n)
    population = rng.lognormal(0, sigma, 1000)
    samples = population[rng.integers(0, 1000, (n, REPLICATIONS))]
    assert _coverage(bootstrap_interval(samples, resamples=1000), population.mean()) >= at_least
