"""Top-1 accuracy: how often the largest output is the image's class, where both are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.data.classes import match_classes
from lieaudit.errors import DataError
from lieaudit.report import Skipped

if TYPE_CHECKING:
    from lieaudit.images import Images

Classes = npt.NDArray[np.int64]


def image_classes(images: Images) -> tuple[Classes | None, tuple[Skipped, ...]]:
    """Return the class of every image of the set, or None and, where there are labels, why they are of no use.

    Raises
    ------
    SpecError
        CLASSES_DO_NOT_FIT: ``spec.classes`` does not list one name for every output.
    """
    spec, target = images.spec, images.target
    count = target.output_size
    scores = not target.head.spatial and count > 1 and sum(size > 1 for size in target.output_shape) == 1
    try:
        classes = (
            match_classes(images.dataset, count, classes=spec.classes, offset=spec.class_offset) if scores else None
        )
    except DataError as problem:
        return None, (Skipped("data.top1", str(problem)),)
    if classes is None and images.dataset.labels is not None:
        return None, (Skipped("data.top1", "the audited output is not one score for each class"),)
    return classes, ()


def top1(found: Classes, classes: Classes | None) -> float | None:
    """Return the share of images whose largest output ``found`` (n,) is their class; None without classes."""
    return None if classes is None else float(np.mean(found == classes[: len(found)]))
