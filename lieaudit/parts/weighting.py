"""Weights of a part's items: scores to a power, held constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lieaudit.errors import DataError
from lieaudit.metrics.head import Head
from lieaudit.parts.placing import Array
from lieaudit.parts.text import PartText, invalid


@dataclass(frozen=True, slots=True)
class Weighting:
    """One weight for each item, from scores (n, *S) of the same image.

    Where the scores have one axis more than the items, ``classes``, the largest along it counts.
    """

    name: str
    power: float
    function: str
    classes: int | None
    background: str

    def __call__(self, raw: Array) -> Array:
        """Return the weights (n, P).

        Raises
        ------
        DataError
            NEGATIVE_WEIGHT: a score is negative, so that it is none.
        """
        scores = np.asarray(raw, np.float64)
        if self.function != "plain":
            scores = Head(self.function, spatial=False, axis=1 + (self.classes or 0)).value(scores)
        if self.classes is not None:
            scores = np.moveaxis(scores, 1 + self.classes, -1)
            cut = {"none": slice(None), "first": slice(1, None), "last": slice(None, -1)}[self.background]
            scores = scores[..., cut].max(axis=-1)
        if np.any(scores < 0):
            raise DataError(
                f"part {self.name!r}: its weight holds negative values, so it is no score",
                reason="NEGATIVE_WEIGHT",
                subject=f"parts.{self.name}",
                hint="say score=sigmoid or score=softmax where it holds logits",
            )
        return np.asarray(scores.reshape(len(raw), -1) ** self.power)


def weighting_of(part: PartText, shape: tuple[int, ...], items: tuple[int, ...]) -> Weighting:
    """Return how the scores of a slice (*S) weigh a part's items.

    Raises
    ------
    SpecError
        INVALID_PART: there is not one score for each item, nor one more axis of classes.
    """
    plain = tuple(size for size in items if size != 1)
    function = part.score or "plain"
    classes: list[int] = []
    if tuple(size for size in shape if size != 1) != plain:
        classes = [at for at in range(len(shape)) if _squeezed(shape[:at] + shape[at + 1 :]) == plain and shape[at] > 1]
        if len(classes) != 1:
            text = part.weight.text if part.weight is not None else ""
            raise invalid(
                part.name,
                f"weight={text} has shape {shape}, its items {items}",
                "one score for each, or one more axis, of classes, whose largest counts",
            )
    if function == "softmax" and not classes:
        raise invalid(part.name, f"score=softmax needs an axis of classes, and weight has shape {shape}")
    return Weighting(part.name, part.power, function, classes[0] if classes else None, part.background or "none")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
