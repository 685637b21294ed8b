"""Checking one derivative method by another that shares no code with it, on a few images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lieaudit.metrics.lee import lie_derivative
from lieaudit.progress import StageProgress
from lieaudit.report import Agreement

if TYPE_CHECKING:
    from lieaudit.derivatives.base import Differentiator
    from lieaudit.measure import Images
    from lieaudit.progress import ProgressCallback

IMAGES = 4
"""Images of a cross-check: a wrong rule is wrong everywhere, so a few suffice."""

SLACK = 2.0
"""Deviation allowed over the sum of the two error bars. The bars hold for 95 % of images, and one image with a large
derivative decides the whole check; a wrong rule is off by the size of the derivative itself."""


def crosscheck(
    checked: Differentiator, by: Differentiator, images: Images, *, progress: ProgressCallback | None
) -> dict[str, Agreement]:
    """Compare Dh(z)[dz] of two methods per generator.

    They agree where the norm of the difference, root mean square over the images, is within `SLACK` times the sum of
    the two error bars. The output's own tangent X' F is the same in both and left out.
    """
    indices = images.spread(IMAGES)
    generators = images.spec.generators
    stage = StageProgress(progress, "crosscheck", len(indices))
    head = images.target.head
    squares = {name: np.zeros(len(generators)) for name in ("difference", "value", "allowed", "lee")}
    for index in indices:
        pixels, further = images.load([index]), images.further.rows([index])
        directions = images.tangents(pixels)
        for g in range(len(generators)):
            one = directions[:, g : g + 1]
            mine = lie_derivative(checked(pixels, one, g, further), head, (), None)
            theirs = lie_derivative(by(pixels, one, g, further), head, (), None)
            squares["difference"][g] += np.sum((mine.value - theirs.value) ** 2)
            squares["value"][g] += np.sum(mine.value**2)
            squares["allowed"][g] += float((mine.error[0, 0] + theirs.error[0, 0]) ** 2)
            squares["lee"][g] += np.sum(theirs.value**2) / images.target.output_size
        stage.advance(1)
    scale = np.sqrt(np.where(squares["value"] > 0, squares["value"], 1.0))
    deviation, allowed = np.sqrt(squares["difference"]) / scale, SLACK * np.sqrt(squares["allowed"]) / scale
    return {
        generator: Agreement(
            method=by.method,
            images=len(indices),
            deviation=float(deviation[g]),
            allowed=float(allowed[g]),
            agrees=bool(deviation[g] <= allowed[g]),
            lee=float(squares["lee"][g] / len(indices)),
        )
        for g, generator in enumerate(generators)
    }
