"""Over five seeds the digits' networks that pay the penalty end with a lower LEE, and are not less often right."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from examples.lie_loss import compare  # noqa: E402

EPOCHS = 8
"""A fifth of the example's: what is tested is the sign, which shows early."""


@pytest.mark.slow
def test_five_seeds_end_with_a_lower_error_at_equal_accuracy() -> None:
    pairs = [tuple(compare.trained(seed, EPOCHS, w) for w in (0.0, compare.WEIGHT)) for seed in range(5)]
    # Σ_g LEE_g per square pixel is what the penalty estimates.
    error = [[sum(compare.WEIGHTS[g] * side.lee[g] for g in compare.GENERATORS) for side in pair] for pair in pairs]
    fell = sum(mended < plain for plain, mended in error)
    assert compare.sign_test(fell, len(pairs)) < 0.05, error
    # Two standard errors of a share of 0.9 of 297 images, averaged over five pairs that see the same images.
    lost = sum(plain.accuracy - mended.accuracy for plain, mended in pairs) / len(pairs)
    assert lost < 2 * (0.9 * 0.1 / compare.digits.HELD_OUT) ** 0.5, lost
