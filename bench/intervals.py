"""Coverage of nominal 95 % intervals by simulation: the table of docs/numerics.md, section 4.

Not a timing: how often the interval holds the truth on per-image values with heavier and heavier tails.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lieaudit.statistics import bootstrap_interval, compare

Array = npt.NDArray[np.float64]
REPLICATIONS = 2000
RESAMPLES = 1000


def _lognormal(spread: float) -> Callable[[np.random.Generator, int], Array]:
    """Two versions of a model that agree on which images are hard, (2, n)."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        shared, own = rng.normal(size=n), rng.normal(size=(2, n))
        return np.asarray(np.exp(spread * (np.sqrt(0.8) * shared + np.sqrt(0.2) * own)))

    return draw


def _few(share: float) -> Callable[[np.random.Generator, int], Array]:
    """Both versions are exact on most images; each fails on 70 % of the hard ones, of its own choice."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        failed = (rng.random(n) < share) & (rng.random((2, n)) < 0.7)
        return np.where(failed, rng.lognormal(1.5, 1.3, (2, n)), rng.lognormal(-17, 2, (2, n)))

    return draw


def _few_mean(share: float) -> float:
    failing = 0.7 * share
    return float(failing * np.exp(1.5 + 1.3**2 / 2) + (1 - failing) * np.exp(-17 + 2**2 / 2))


CASES: dict[str, tuple[Callable[[np.random.Generator, int], Array], float]] = {
    "log-normal, spread 1": (_lognormal(1.0), float(np.exp(0.5))),
    "log-normal, spread 2": (_lognormal(2.0), float(np.exp(2.0))),
    "30 % of images hard": (_few(0.3), _few_mean(0.3)),
    "10 % of images hard": (_few(0.1), _few_mean(0.1)),
}


def main() -> None:
    print("| per-image values | images | mean | mean, percentile | ratio | ratio, percentile |")
    print("|---|---|---|---|---|---|")
    for name, (draw, mean) in CASES.items():
        for n in (64, 256):
            rng = np.random.default_rng(n)
            pairs = [draw(rng, n) for _ in range(REPLICATIONS)]
            ours = bootstrap_interval(np.stack([p[0] for p in pairs], axis=1), resamples=RESAMPLES)
            held = [np.mean((ours[0] <= mean) & (mean <= ours[1])), 0.0, 0.0, 0.0]
            for seed, (candidate, baseline) in enumerate(pairs):
                counts = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
                low, high = np.quantile(counts @ candidate / n, [0.025, 0.975])
                held[1] += (low <= mean <= high) / REPLICATIONS
                interval = compare(candidate, baseline, resamples=RESAMPLES, seed=seed).interval
                # no finite interval: nothing was left out
                held[2] += (interval is None or interval[0] <= 1 <= interval[1]) / REPLICATIONS
                low, high = np.quantile((counts @ candidate) / (counts @ baseline), [0.025, 0.975])
                held[3] += (low <= 1 <= high) / REPLICATIONS
            print(f"| {name} | {n} | " + " | ".join(f"{100 * share:.1f} %" for share in held) + " |", flush=True)
