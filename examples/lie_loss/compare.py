"""Train digit classifiers with and without the Lie derivative penalty, from the same seeds, and compare.

The demo's network and data (examples/digits), no augmentation. For every seed two networks start from the same weights
and see the same batches; one of them also pays WEIGHT times `lieaudit.torch.LieLoss`. Measured on the held-out images:
top-1, and the LEE of every generator by `lieaudit.torch.audit`. A sign test over the seeds says whether the LEE fell; a
plain training step and a penalised one are timed side by side. Needs torch and scikit-learn::

    python examples/lie_loss/compare.py
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.digits import train as digits
from lieaudit import AuditSpec
from lieaudit.symmetries.affine import field_of, mean_square_displacement
from lieaudit.torch import LieLoss, audit

GENERATORS = ("translation_x", "translation_y", "rotation", "scale")
SIZE = 20
# One pixel of motion costs the same along every generator: its weight is one over its mean square displacement.
WEIGHTS = {name: 1 / mean_square_displacement(field_of(name, SIZE, SIZE), SIZE, SIZE) for name in GENERATORS}
WEIGHT = 2.0
SEEDS = 5
EPOCHS = 40


@dataclass(frozen=True)
class Outcome:
    """One trained network on the held-out images."""

    accuracy: float
    lee: dict[str, float]
    seconds_per_step: float


def trained(seed: int, epochs: int, weight: float) -> Outcome:
    """Train one network, plainly where ``weight`` is 0; time it in CPU time, without what else the machine does."""
    x, y = digits.enlarged_digits()
    images, labels = (digits.unit_range(x) - digits.MEAN) / digits.STD, torch.from_numpy(y)
    seen, answers = images[: -digits.HELD_OUT], labels[: -digits.HELD_OUT]
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model, penalty = digits.DigitsNet(), LieLoss(WEIGHTS, share=0.25, seed=seed)
    steps = epochs * math.ceil(len(seen) / digits.BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    started = time.process_time()
    for _ in range(epochs):
        for batch in torch.randperm(len(seen), generator=order).split(digits.BATCH):  # type: ignore[no-untyped-call]
            loss = F.cross_entropy(model(seen[batch]), answers[batch])
            if weight:
                loss = loss + weight * penalty(model, seen[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    seconds = (time.process_time() - started) / steps
    spec = AuditSpec(generators=GENERATORS, head="softmax")
    held_out = images[-digits.HELD_OUT :].numpy()
    report = audit(model.eval(), held_out, spec, labels=y[-digits.HELD_OUT :])
    return Outcome(report.data.top1 or 0.0, {g: report.results[g].lee for g in GENERATORS}, seconds)


def sign_test(fell: int, of: int) -> float:
    """Return the one-sided p-value of so many falls among ``of`` seeds, were rise and fall equally likely."""
    return float(sum(math.comb(of, k) for k in range(fell, of + 1)) / 2**of)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--weight", type=float, default=WEIGHT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    pairs = [tuple(trained(seed, options.epochs, w) for w in (0.0, options.weight)) for seed in seeds]
    print("| seed | top-1 plain | penalised | " + " | ".join(f"{g}: LEE ratio" for g in GENERATORS) + " |")
    print("|---" * (3 + len(GENERATORS)) + "|")
    for seed, (plain, mended) in zip(seeds, pairs, strict=True):
        ratios = " | ".join(f"{mended.lee[g] / plain.lee[g]:.3f}" for g in GENERATORS)
        print(f"| {seed} | {plain.accuracy:.1%} | {mended.accuracy:.1%} | {ratios} |")
    for g in GENERATORS:
        fell = sum(mended.lee[g] < plain.lee[g] for plain, mended in pairs)
        print(f"{g}: fell in {fell} of {len(pairs)} seeds, p = {sign_test(fell, len(pairs)):.3f}")
    difference = np.array([mended.accuracy - plain.accuracy for plain, mended in pairs])
    print(f"top-1: {difference.mean():+.2%} on average ({difference.min():+.2%} to {difference.max():+.2%})")
    cost = float(np.median([mended.seconds_per_step / plain.seconds_per_step for plain, mended in pairs]))
    print(f"a penalised step takes {cost:.2f} times a plain one")


if __name__ == "__main__":
    main()
