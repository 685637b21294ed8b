"""What to compare, with which statistic, on how many images, so that a first gate decides? Measured, not simulated.

Every ordered pair of trained models of one kind is gated as docs/gate.md recommends (no worse than the baseline up to
10 %, on translation, rotation and scale): CIFAR-10 ResNets of three depths, and MNIST networks trained in three ways.
Each pair is gated on ten random draws of n of its images, by `lieaudit.gate.evaluate` itself, once on probabilities
(``--head softmax``) and once on logits (``--head identity``). What a recipe has to keep low is the share of gates that
stay inconclusive; "wrong" are verdicts that contradict the point estimates on all images.

``python -m bench recipe`` prints the table that docs/gate.md shows; it needs LIEAUDIT_REAL (or ../shared/real). It
takes half an hour, nearly all of it the audits, and no timing is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from lieaudit import AuditSpec, Report, audit
from lieaudit.data import parse_preprocessing
from lieaudit.gate import evaluate
from lieaudit.report import GeneratorResult
from lieaudit.statistics import point_estimate

GENERATORS = ("translation_x", "translation_y", "rotation", "scale")
STATISTICS = ("geometric_mean", "median", "mean")
SIZES = (50, 100, 200, 400, 800)
DRAWS = 10
MARGIN = 0.10
HEADS = {"softmax": "probabilities", "identity": "logits"}
COLUMNS = ("compared", "models", "statistic", *map(str, SIZES), "100 … 800", "wrong")
MOST_IMAGES = 1000
FAMILIES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "CIFAR-10 ResNets": (
        "cifar10_test_1017.npz",
        "imagenet",
        ("resnet20_cifar10", "resnet44_cifar10", "resnet56_cifar10"),
    ),
    "MNIST networks": (
        "mnist_test_2000.npz",
        "scale=255,mean=.13,std=.3",
        ("mnist_rot_cnn_plain", "mnist_rot_cnn_augmented", "mnist_rot_p4_gcnn"),
    ),
}


def main() -> None:
    folder = Path(os.environ.get("LIEAUDIT_REAL") or Path(__file__).resolve().parents[2] / "shared" / "real")
    if not (folder / "models").is_dir():
        print(f"no trained models at {folder}: set LIEAUDIT_REAL")
        return
    console = Console(width=120)
    table = Table(title=f"inconclusive of {6 * DRAWS} gates each, margin {MARGIN:.0%}, 95 % intervals")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:3] else "right")
    for head in HEADS:
        for family in FAMILIES:
            for row in rows(head, family, measured(folder, family, head)):
                table.add_row(*row)
    console.print(table)


def measured(folder: Path, family: str, head: str) -> list[Report]:
    """Audit the models of a family on its images by forward mode."""
    images, preprocessing, models = FAMILIES[family]
    with np.load(folder / "images" / images) as data:
        x, y = data["x"][:MOST_IMAGES], data["y"][:MOST_IMAGES]
    spec = AuditSpec(
        generators=GENERATORS,
        method="forward",
        head=head,
        preprocessing=parse_preprocessing(preprocessing),
        relative_images=0,
        bootstrap=100,
        threads=1,
    )
    return [audit(str(folder / "models" / f"{name}.onnx"), x, spec, labels=y) for name in models]


def rows(head: str, family: str, reports: list[Report]) -> Iterator[tuple[str, ...]]:
    """Return a row per statistic: the share of inconclusive gates by size, then where the gate may ask for more."""
    pairs = list(permutations(reports, 2))
    for statistic in STATISTICS:
        truths = [_truth(pair, statistic) for pair in pairs for _ in range(DRAWS)]
        cells, wrong, count = [], 0, 0
        for size in (*SIZES, None):
            found = [
                gate_growing(pair, statistic, draw) if size is None else gate(pair, statistic, size, draw)
                for pair in pairs
                for draw in range(DRAWS)
            ]
            cells.append(f"{100 * found.count('inconclusive') / len(found):.0f} %")
            wrong += sum(v not in {truth, "inconclusive"} for v, truth in zip(found, truths, strict=True))
            count += len(found) - found.count("inconclusive")
        yield HEADS[head], family, statistic.replace("_", " "), *cells, f"{wrong} of {count}"


def _truth(pair: tuple[Report, Report], statistic: str) -> str:
    """Say what the values of all images say by themselves, without an interval."""
    ratios = []
    for generator in GENERATORS:
        mine, theirs = (np.asarray(report.results[generator].per_image) for report in pair)
        ratios.append(float(point_estimate(mine, statistic)) / float(point_estimate(theirs, statistic)))
    return "pass" if max(ratios) <= 1 + MARGIN else "fail"


def gate(pair: tuple[Report, Report], statistic: str, size: int, draw: int) -> str:
    """Gate a pair on ``size`` of its images, drawn without replacement."""
    order = np.random.default_rng([draw, size]).permutation(pair[0].data.count)[:size]
    mine, theirs = (subset(report, order) for report in pair)
    return evaluate(mine, theirs, policy(statistic, "block", "{min: 50}")).verdict


def gate_growing(pair: tuple[Report, Report], statistic: str, draw: int) -> str:
    """Gate a pair as ``on_inconclusive: more_images`` does: 100 images, and twice as many until it is decided."""
    order = np.random.default_rng([draw, 0]).permutation(pair[0].data.count)
    text = policy(statistic, "more_images", "{min: 100, max: 800}")
    size: int | None = 100
    verdict = ""
    while size is not None:
        mine, theirs = (subset(report, order[:size]) for report in pair)
        decision = evaluate(mine, theirs, text)
        verdict, size = decision.verdict, decision.next_images
    return verdict


def policy(statistic: str, on_inconclusive: str, images: str) -> str:
    rule = f"{{kind: noninferiority, generators: [translation, rotation, scale], margin: {MARGIN}}}"
    head = f"version: 1\nstatistic: {statistic}\nimages: {images}\non_inconclusive: {on_inconclusive}\n"
    return f"{head}rules:\n  - {rule}\n"


def subset(report: Report, order: npt.NDArray[np.int64]) -> Report:
    """Return the report of some of the images, as an audit of those alone would hold it."""
    results = {name: _of(result, order) for name, result in report.results.items()}
    return replace(report, results=results, data=replace(report.data, count=len(order)))


def _of(result: GeneratorResult, order: npt.NDArray[np.int64]) -> GeneratorResult:
    values = np.asarray(result.per_image)[order]
    errors = np.asarray(result.per_image_error)[order]
    return replace(
        result,
        lee=float(values.mean()),
        per_image=tuple(values.tolist()),
        per_image_error=tuple(errors.tolist()),
        error_bar=float(np.sqrt(np.sum(errors**2)) / len(errors)),
    )
