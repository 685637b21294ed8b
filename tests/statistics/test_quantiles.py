from __future__ import annotations

import numpy as np
import pytest

from lieaudit.errors import DataError
from lieaudit.statistics import quantiles, top_share


def test_quantiles_of_a_ramp():
    # linear interpolation on 0 … 100 is the level itself, in percent
    found = quantiles(np.random.default_rng(0).permutation(101))
    assert found == pytest.approx({"p05": 5, "p25": 25, "p75": 75, "p95": 95, "p99": 99, "max": 100})


def test_one_image_is_every_quantile():
    assert set(quantiles([2.5]).values()) == {2.5}


@pytest.mark.parametrize("samples", [[], [np.nan, 1.0]])
def test_unusable_samples_are_refused(samples):
    with pytest.raises(DataError):
        quantiles(samples)


def test_the_share_of_the_largest():
    assert top_share(np.ones(200)) == pytest.approx(0.01)
    assert top_share([0.0] * 99 + [5.0]) == 1.0
    assert top_share([1.0, 3.0]) == 0.75, "of few images at least one is the largest"
    assert top_share(np.zeros(4)) is None
    assert top_share(np.array([1.0, 3.0]) * 1e-308) == pytest.approx(0.75)
