"""Coverage of nominal 95 % intervals by simulation: the tables of docs/numerics.md, section 4.

Not a timing: how often the interval holds the truth, on drawn per-image values with heavier and heavier tails and on
samples from those of trained models (where LIEAUDIT_REAL, or ../shared/real, has them).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lieaudit import AuditSpec, audit
from lieaudit.spec import Preprocessing
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


_IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_DIGITS = Preprocessing(mean=(0.13,), std=(0.3,))
TRAINED: dict[str, tuple[str, Preprocessing]] = {
    "mnist_rot_cnn_plain": ("mnist_test_2000", _DIGITS),
    "mnist_rot_cnn_augmented": ("mnist_test_2000", _DIGITS),
    "resnet8_cifar10": ("cifar10_test_1017", Preprocessing(scale=1.0)),
    "cnn_small_nhwc_cifar10": ("cifar10_test_1017", Preprocessing()),
    "vit_pgd_cifar10": (
        "cifar10_test_1017",
        Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    ),
    "resnet20_cifar10": ("cifar10_test_1017", _IMAGENET),
    "resnet56_cifar10": ("cifar10_test_1017", _IMAGENET),
}
GENERATORS = ("translation_x", "rotation", "scale", "shear_y")
IMAGES = (16, 32, 64, 128, 256)


def main() -> None:
    drawn()
    folder = Path(os.environ.get("LIEAUDIT_REAL") or Path(__file__).resolve().parents[2] / "shared" / "real")
    if (folder / "models").is_dir():
        trained(folder)
    else:
        print(f"no trained models at {folder}: set LIEAUDIT_REAL")


def trained(folder: Path) -> None:
    """Print how often the interval of the mean holds the mean of 1017 images, from samples of them."""
    print("\n| per-image LEE of | " + " | ".join(f"{n} images" for n in IMAGES) + " | largest 1 % hold |")
    print("|---" * (len(IMAGES) + 2) + "|")
    for model, (data, preprocessing) in TRAINED.items():
        images = np.load(folder / "images" / f"{data}.npz")["x"][:1017]
        spec = AuditSpec(
            generators=GENERATORS, preprocessing=preprocessing, method="forward", head="softmax", relative_images=0
        )
        results = audit(folder / "models" / f"{model}.onnx", images, spec).results
        cells = []
        for n in IMAGES:
            held = []
            for g, name in enumerate(GENERATORS):
                values = np.array(results[name].per_image)
                rng = np.random.default_rng([n, g])
                samples = values[rng.integers(0, len(values), (n, REPLICATIONS // 2))]
                low, high = bootstrap_interval(samples, resamples=RESAMPLES, seed=n)
                held.append(100 * np.mean((low <= values.mean()) & (values.mean() <= high)))
            cells.append(f"{min(held):.0f} … {max(held):.0f} %")
        shares = [100 * (results[name].top_share or 0.0) for name in GENERATORS]
        cells.append(f"{min(shares):.0f} … {max(shares):.0f} %")
        print(f"| {model} | " + " | ".join(cells) + " |", flush=True)


def drawn() -> None:
    """Print how often intervals of means and of ratios hold the truth of drawn values."""
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
