"""Checking one derivative method by another that shares no code with it, on a few images.

A wrong rule is wrong on every image; a kink beside one image spoils finite differences, or float32, there alone. So the
images are judged one by one, those count on which both methods are sharpest, and their medians decide. Where they leave
a doubt more images are taken. Three verdicts: a check that could not have seen a difference of `SEEN` did not see
agreement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lieaudit.derivatives.base import rows_of
from lieaudit.measure import directions_at_once, groups
from lieaudit.metrics.lee import LieDerivative, lie_derivative
from lieaudit.progress import StageProgress
from lieaudit.report import AGREES, COULD_NOT_CHECK, DISAGREES, Agreement
from lieaudit.symmetries.plan import combination

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from lieaudit.derivatives.base import Differentiator, Float64Array, FurtherRows
    from lieaudit.images import Images
    from lieaudit.progress import ProgressCallback
    from lieaudit.symmetries.plan import Plan

STAGES = (4, 8, 16, 32, 64)
"""Images that a generator is checked on: the first so many, and more while it is in doubt."""

SEEN = 0.05
"""Largest allowed deviation, relative to the derivative, at which agreement means something."""

MANY = 16
"""Images whose median deviation is allowed half of what their error bars allow: for a wrong rule to stay within it,
half of so many images would have to err by half of their bars and more, each in the direction that hides the rule."""

UNCHECKED = "UNCHECKED"
"""What the reason of a report begins with in which no generator could be checked."""

SURE = 8
"""Images that a disagreement is declared on. Half of them are judged, by their medians: bars that hold for 95 % of
images would have to miss half of those at once."""


def crosscheck(
    checked: Differentiator, by: Differentiator, images: Images, *, progress: ProgressCallback | None
) -> dict[str, Agreement]:
    """Compare Dh(z)[dz] of two methods per generator, combined from the measured directions of both.

    The output's own tangent X' F is the same in both and left out.
    """
    generators, plan = images.spec.generators, images.plan
    order = spread_first(images.spread(STAGES[-1]), STAGES)
    stage = StageProgress(progress, "crosscheck", len(generators))
    found: dict[int, list[Compared]] = {g: [] for g in range(len(generators))}
    agreements: dict[str, Agreement] = {}
    done = 0
    for count in STAGES:
        count = min(count, len(order))  # noqa: PLW2901 - a small set has fewer
        if count == done:
            continue
        open_ones = [g for g, name in enumerate(generators) if name not in agreements]
        if not open_ones:
            break
        some = order[done:count]
        pixels, further = images.load(some), images.further.rows(some)
        for g, compared in _compare(checked, by, images, plan, open_ones, pixels, further).items():
            found[g] += compared
            made = judge(found[g], by.method, last=count == len(order) or count == STAGES[-1])
            if made is not None:
                agreements[generators[g]] = made
                stage.advance(1)
        done = count
    return {name: agreements[name] for name in generators}


def unchecked(agreements: Mapping[str, Agreement]) -> tuple[str, ...]:
    """Return the reason why a report is inconclusive (UNCHECKED) in which no generator at all could be checked."""
    if not agreements or any(agreement.verdict != COULD_NOT_CHECK for agreement in agreements.values()):
        return ()
    method = next(iter(agreements.values())).method
    why = f"no generator could be checked: {method} is not sharp enough on these images"
    return (f"{UNCHECKED}: {why}; give more images",)


class Compared:
    """One image under one generator: norms of the derivative, of the difference, and what is allowed of it."""

    def __init__(self, value: float, difference: float, allowed: float, lee: float) -> None:
        self.deviation = difference / value if value > 0 else float(difference > 0)
        self.allowed = allowed / value if value > 0 else np.inf
        self.lee = lee


def _compare(
    checked: Differentiator,
    by: Differentiator,
    images: Images,
    plan: Plan,
    generators: Sequence[int],
    pixels: npt.NDArray[np.float32],
    further: FurtherRows,
) -> dict[int, list[Compared]]:
    """Compare image by image, so that no method's batch decides which images it measures its error on.

    Of a dense output a few directions go at a time.
    """
    head = images.target.head
    needed = np.flatnonzero(np.any(plan.weights[list(generators)] != 0, axis=0))
    found: dict[int, list[Compared]] = {g: [] for g in generators}
    for i in range(len(pixels)):
        one, beside = pixels[i : i + 1], rows_of(further, slice(i, i + 1))
        own = images.tangents(one, [plan.measured[m] for m in needed])
        rows: list[list[LieDerivative]] = [[], []]
        for some in groups(len(needed), directions_at_once(images, 1)):
            for method, kept in zip((checked, by), rows, strict=True):
                kept.append(lie_derivative(method(one, own[:, some], needed[some], beside), head, (), None))
        mine, theirs = (LieDerivative.joined(kept) for kept in rows)
        for g in generators:
            weights = plan.weights[g, needed]
            value, other = (combination(lie.value, weights) for lie in (mine, theirs))
            found[g].append(
                Compared(
                    float(np.linalg.norm(value)),
                    float(np.linalg.norm(value - other)),
                    float(((mine.error + theirs.error) @ np.abs(weights))[0]),
                    float(np.mean(other**2)),
                )
            )
    return found


def judge(found: Sequence[Compared], method: str, *, last: bool) -> Agreement | None:
    """Return the verdict of images compared so far, or None where more of them may settle it."""
    judged = min(max((len(found) + 1) // 2, min(3, len(found))), MANY)
    sharpest = sorted(found, key=lambda one: one.allowed)[:judged]
    deviation = _median([one.deviation for one in sharpest])
    explained = _median([one.allowed for one in sharpest])
    allowed = explained / 2 if len(sharpest) >= MANY else explained
    if deviation <= explained:
        verdict = AGREES if deviation <= allowed <= SEEN else COULD_NOT_CHECK
    elif len(found) >= SURE:
        verdict = DISAGREES
    else:
        # of few images all must be far out
        far = len(sharpest) >= 3 and all(one.deviation > 2 * one.allowed for one in sharpest)
        verdict = DISAGREES if far and last else COULD_NOT_CHECK
    if verdict == COULD_NOT_CHECK and not last:
        return None
    return Agreement(
        method=method,
        images=len(found),
        deviation=deviation,
        # a report holds no infinity: where the derivative is 0, anything is allowed
        allowed=min(allowed, float(np.finfo(np.float32).max)),
        agrees=verdict == AGREES,
        lee=float(np.mean([one.lee for one in found])),
        verdict=verdict,
    )


def _median(values: list[float]) -> float:
    array: Float64Array = np.asarray(values, np.float64)
    return float(np.sort(array)[len(array) // 2])


def spread_first(indices: list[int], stages: Sequence[int]) -> list[int]:
    """Order indices so that the first of every stage are spread over them all."""
    order: list[int] = []
    for count in stages:
        places = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))
        order += [indices[i] for i in places if indices[i] not in order]
    return order
