"""The gate errs as seldom as it says, and finds what it says it finds: a short run of bench/calibration.py.

Bounds are binomial quantiles that a calibrated gate crosses once in a thousand such tests; the draws are seeded, so
what passes once passes always.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

SIMULATIONS = 150


@pytest.fixture(scope="module")
def calibration(repo_root: Path) -> ModuleType:
    path = repo_root / "bench" / "calibration.py"
    spec = importlib.util.spec_from_file_location("bench_calibration", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


def test_either_error_is_as_rare_as_stated_and_power_as_high(calibration: ModuleType) -> None:
    population, statistic = calibration.POPULATIONS[0], "geometric_mean"
    distance = math.log(calibration.REGRESSION / (1 + calibration.MARGIN))
    images = calibration.sample_size(population.deviation(statistic), distance, 0.025)
    most = binom.ppf(0.999, SIMULATIONS, 0.025) / SIMULATIONS
    least = binom.ppf(0.001, SIMULATIONS, 0.8) / SIMULATIONS

    def simulate(ratio: float) -> tuple[float, float, float]:
        return calibration.simulate(population, statistic, images, ratio, SIMULATIONS)

    passed, _, failed = simulate(1 + calibration.MARGIN)
    assert passed <= most, "exactly at the limit, passing is an error"
    assert failed <= most, "and so is failing"
    assert simulate(1.0)[2] <= most
    passed, _, failed = simulate(calibration.REGRESSION)
    assert failed >= least
    assert passed <= most


def test_ten_rules_at_their_limits_fail_together_as_rarely_as_one(calibration: ModuleType) -> None:
    verdicts = [calibration.ten_generators(calibration.POPULATIONS[0], seed) for seed in range(SIMULATIONS // 3)]
    assert verdicts.count("fail") <= binom.ppf(0.999, len(verdicts), 0.025)
    assert verdicts.count("pass") <= binom.ppf(0.999, len(verdicts), 0.025)
