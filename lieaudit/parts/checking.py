"""Checking one derivative method by another, part by part, on the same few images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lieaudit.crosscheck import STAGES, Compared, judge, spread_first
from lieaudit.derivatives.base import rows_of
from lieaudit.measure import directions_at_once, groups
from lieaudit.parts.derivative import item_shares, part_derivative
from lieaudit.progress import StageProgress
from lieaudit.symmetries.plan import combination

if TYPE_CHECKING:
    from lieaudit.derivatives.base import Differentiator
    from lieaudit.images import Images
    from lieaudit.parts.binding import BoundParts
    from lieaudit.parts.placing import Array
    from lieaudit.progress import ProgressCallback
    from lieaudit.report import Agreement

Judged = dict[str, dict[str, "Agreement"]]


def crosscheck_parts(
    checked: Differentiator,
    by: Differentiator,
    images: Images,
    bound: BoundParts,
    *,
    progress: ProgressCallback | None,
) -> Judged:
    """Compare DF[X x] of two methods for every part and generator: agreements by part and generator.

    As `lieaudit.crosscheck.crosscheck`; the vectors of a part count by its weights. Images are added until every
    part is judged.
    """
    generators = images.spec.generators
    order = spread_first(images.spread(STAGES[-1]), STAGES)
    pairs = [(reading.name, g) for reading in bound.readings for g in range(len(generators))]
    stage = StageProgress(progress, "crosscheck", len(pairs))
    found: dict[tuple[str, int], list[Compared]] = {pair: [] for pair in pairs}
    agreements: dict[tuple[str, int], Agreement] = {}
    done = 0
    for count in STAGES:
        count = min(count, len(order))  # noqa: PLW2901 - a small set has fewer
        open_ones = [pair for pair in pairs if pair not in agreements]
        if count == done or not open_ones:
            continue
        for index in order[done:count]:
            _compare(checked, by, images, bound, index, open_ones, found)
        for pair in open_ones:
            made = judge(found[pair], by.method, last=count == len(order) or count == STAGES[-1])
            if made is not None:
                agreements[pair] = made
                stage.advance(1)
        done = count
    return {
        reading.name: {name: agreements[reading.name, g] for g, name in enumerate(generators)}
        for reading in bound.readings
    }


def _compare(
    checked: Differentiator,
    by: Differentiator,
    images: Images,
    bound: BoundParts,
    index: int,
    wanted: list[tuple[str, int]],
    found: dict[tuple[str, int], list[Compared]],
) -> None:
    """Compare on one image; of dense outputs a few directions go at a time."""
    plan = images.plan
    readings = [reading for reading in bound.readings if any(reading.name == name for name, _ in wanted)]
    needed = np.flatnonzero(np.any(plan.weights[sorted({g for _, g in wanted})] != 0, axis=0))
    pixels, further = images.load([index]), rows_of(images.further.rows([index]), slice(0, 1))
    own = images.tangents(pixels, [plan.measured[m] for m in needed])
    vectors: dict[str, tuple[list[Array], list[Array]]] = {reading.name: ([], []) for reading in readings}
    errors: dict[str, list[float]] = {reading.name: [] for reading in readings}
    for some in groups(len(needed), directions_at_once(images, 1)):
        pair = [method(pixels, own[:, some], needed[some], further) for method in (checked, by)]
        for reading in readings:
            both = [part_derivative(derivatives, reading, None) for derivatives in pair]
            # weighted by one method's scores: they are the same function's
            shares = np.sqrt(item_shares(both[0].weights))[0, :, None]
            for kept, made in zip(vectors[reading.name], both, strict=True):
                kept += list(shares * made.answer[0])
            errors[reading.name] += (both[0].error[0] + both[1].error[0]).tolist()
    for name, g in wanted:
        weights = plan.weights[g, needed]
        mine, theirs = (combination(np.stack(rows)[None], weights) for rows in vectors[name])
        found[name, g].append(
            Compared(
                float(np.linalg.norm(mine)),
                float(np.linalg.norm(mine - theirs)),
                float(np.asarray(errors[name]) @ np.abs(weights)),
                float(np.sum(theirs**2)),
            )
        )
