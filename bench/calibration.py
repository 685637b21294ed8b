"""Does the gate err as seldom as it says? Simulated comparisons with known truth, through `lieaudit.gate.evaluate`.

Per-image LEE is log-normal: an image's own difficulty, shared by both models (what pairing removes), times a factor of
each model alone. "versions" is what two versions of one model look like, "heavy tail" what trained classifiers on easy
images do (on a CIFAR-10 ResNet-20 the mean LEE is 10⁸ medians). The number of images is what `power.sample_size` asks
for to find a 30 % regression with 80 % power, at least 50 and at most 1,000.

``python -m bench calibration`` prints the table that docs/gate.md shows. It takes minutes, and no timing is in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from lieaudit.gate import evaluate
from lieaudit.gate.power import sample_size
from lieaudit.report import (
    Environment,
    GeneratorResult,
    Report,
    ReportData,
    ReportModel,
    ReportTensor,
    Timing,
)
from lieaudit.spec import GENERATORS
from lieaudit.statistics import compare

SIMULATIONS = 500
MARGIN = 0.1
REGRESSION = 1.3
MOST_IMAGES = 1000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """``difficulty`` and ``own`` are standard deviations of logarithms."""

    name: str
    difficulty: float
    own: float

    def draw(self, ratio: float, images: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return (candidate, baseline) on the same images, their true ratio being ``ratio`` in every statistic."""
        shared = self.difficulty * rng.standard_normal(images)
        first, second = (np.exp(shared + self.own * rng.standard_normal(images)) for _ in range(2))
        return ratio * first, second

    def deviation(self, statistic: str) -> float:
        """Return the standard deviation of one image's contribution to the log ratio.

        Of a mean and a geometric mean it is known (the mean's by the delta method); of a median it is what the gate
        sees itself, the bootstrap's on 20 pilots of 500 images.
        """
        if statistic == "geometric_mean":
            return math.sqrt(2) * self.own
        if statistic == "mean":
            return math.sqrt(2 * (math.exp(self.difficulty**2 + self.own**2) - math.exp(self.difficulty**2)))
        rng = np.random.default_rng(0)
        pilots = [compare(*self.draw(1.0, 500, rng), statistic=statistic, seed=i).log_ratios for i in range(20)]
        return math.sqrt(500 * float(np.mean([draws.var() for draws in pilots])))


POPULATIONS = (Population("versions", 1.0, 0.3), Population("heavy tail", 2.5, 0.5))


def main() -> None:
    console = Console(width=120)
    table = Table(title=f"{SIMULATIONS} simulated comparisons a cell, margin 10 %, 95 % intervals")
    for column in ("population", "statistic", "images", "truth", "pass", "inconclusive", "fail", "stated"):
        table.add_column(column, justify="left" if column in {"population", "statistic", "truth"} else "right")
    for row in rows(SIMULATIONS):
        table.add_row(*row)
    console.print(table)


def rows(simulations: int) -> Iterable[tuple[str, ...]]:
    """Return the table's rows."""
    for population in POPULATIONS:
        for statistic in ("geometric_mean", "median", "mean"):
            distance = math.log(REGRESSION / (1 + MARGIN))
            needed = max(50, sample_size(population.deviation(statistic), distance, 0.025))
            images = min(needed, MOST_IMAGES)
            for truth, ratio, stated in TRUTHS:
                counts = simulate(population, statistic, images, ratio, simulations)
                unreached = ratio == REGRESSION and needed > images
                said = f"– (would take {needed} images)" if unreached else stated
                yield (population.name, statistic, str(images), truth, *map(percent, counts), said)
    population = POPULATIONS[0]
    for truth, kind, stated in (
        ("10 generators at the limit", ten_generators, "fail ≤ 2.5 %"),
        ("at the limit, 4 looks", four_looks, "fail ≤ 2.5 %, pass ≤ 2.5 %"),
    ):
        counts = shares(kind(population, seed) for seed in range(simulations))
        yield (population.name, "geometric_mean", "60" if kind is ten_generators else "50 … 400", truth,
               *map(percent, counts), stated)  # fmt: skip


TRUTHS = (
    ("the same", 1.0, "fail ≤ 2.5 %"),
    ("at the limit (+10 %)", 1 + MARGIN, "fail ≤ 2.5 %, pass ≤ 2.5 %"),
    ("regression (+30 %)", REGRESSION, "fail ≥ 80 %"),
)


def simulate(
    population: Population, statistic: str, images: int, ratio: float, simulations: int
) -> tuple[float, float, float]:
    """Return the shares of pass, inconclusive and fail."""
    policy = policy_text(statistic, ["rotation"], "images: {min: 2}")

    def verdict(seed: int) -> str:
        rng = np.random.default_rng([seed, images, round(1000 * ratio)])
        candidate, baseline = population.draw(ratio, images, rng)
        mine, theirs = report({"rotation": candidate}, "c", seed), report({"rotation": baseline}, "b", seed)
        return evaluate(mine, theirs, policy).verdict

    return shares(verdict(seed) for seed in range(simulations))


def ten_generators(population: Population, seed: int) -> str:
    """Decide ten rules at once, each exactly at its limit."""
    rng = np.random.default_rng([seed, 10])
    drawn = {g: population.draw(1 + MARGIN, 60, rng) for g in GENERATORS}
    mine, theirs = (report({g: v[side] for g, v in drawn.items()}, "cb"[side], seed) for side in (0, 1))
    return evaluate(mine, theirs, policy_text("geometric_mean", GENERATORS, "images: {min: 2}")).verdict


def four_looks(population: Population, seed: int) -> str:
    """Decide with 50, 100, 200 and 400 images until it is decided."""
    head = "on_inconclusive: more_images\nimages: {min: 50, max: 400}"
    policy = policy_text("geometric_mean", ["rotation"], head)
    drawn = population.draw(1 + MARGIN, 400, np.random.default_rng([seed, 4]))
    images: int | None = 50
    verdict = ""
    while images is not None:
        mine, theirs = (report({"rotation": v[:images]}, name, seed) for v, name in zip(drawn, "cb", strict=True))
        decision = evaluate(mine, theirs, policy)
        verdict, images = decision.verdict, decision.next_images
    return verdict


def policy_text(statistic: str, generators: Iterable[str], head: str) -> str:
    names = ", ".join(generators)
    rule = f"{{kind: noninferiority, generators: [{names}], margin: {MARGIN}, statistic: {statistic}}}"
    return f"version: 1\n{head}\nrules:\n  - {rule}\n"


def report(values: dict[str, Array], model: str, seed: int) -> Report:
    """Make a report that holds these per-image values, with error bars as forward mode has them."""
    count = len(next(iter(values.values())))
    tensor = ReportTensor("x", ("N", "3", "32", "32"), "float32", "NCHW")
    return Report(
        model=ReportModel(model * 64, model, "", 18, tensor, tensor, "float32", "softmax"),
        data=ReportData("d" * 64, count),
        environment=Environment("", "", "", "", "", "", "", 1),
        spec={"generators": list(values), "seed": seed},
        results={g: _result(v) for g, v in values.items()},
        timing=Timing(1.0, 1.0, 1.0),
    )


def _result(values: Array) -> GeneratorResult:
    mean = float(values.mean())
    return GeneratorResult(
        lee=mean,
        ci95=(mean, mean),
        median=float(np.median(values)),
        quantiles={},
        mean_abs=mean,
        relative=1.0,
        per_image=tuple(values.tolist()),
        method="forward",
        error_bar=1e-5 * mean,
        per_image_error=tuple((1e-5 * values).tolist()),
        unit="radians",
    )


def shares(verdicts: Iterable[str]) -> tuple[float, float, float]:
    """Count pass, inconclusive and fail, as shares."""
    found = list(verdicts)
    passed, open_, failed = (found.count(v) / len(found) for v in ("pass", "inconclusive", "fail"))
    return passed, open_, failed


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"
