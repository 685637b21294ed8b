"""Slices of an output: numpy's basic indexing, read from text and never evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import numpy.typing as npt

Item = int | slice | EllipsisType

_NUMBER = r"[+-]?[0-9]{1,10}"
_ITEM = re.compile(
    rf"(?P<at>{_NUMBER})|(?P<start>{_NUMBER})?:(?P<stop>{_NUMBER})?(:(?P<step>{_NUMBER})?)?|(?P<dots>\.\.\.)"
)


class IndexingError(ValueError):
    """A slice that cannot be read, or does not fit a tensor; the message says why."""


@dataclass(frozen=True, slots=True)
class Index:
    """A slice such as ``[:, 4:]`` of an array without its batch axis."""

    text: str
    items: tuple[Item, ...] = ()

    def of(self, array: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the slice of an array.

        Raises
        ------
        IndexingError
            It has more axes than the array, an integer beyond an axis, or nothing is left.
        """
        axes = sum(item is not Ellipsis for item in self.items)
        if axes > array.ndim:
            raise IndexingError(
                f"[{self.text}] has {axes} axes, the tensor {array.ndim} (the batch axis is not counted)"
            )
        try:
            found = array[self.items]
        except IndexError as problem:
            raise IndexingError(f"[{self.text}] reaches beyond it: {problem}") from problem
        if not found.size:
            raise IndexingError(f"[{self.text}] of it is empty")
        return np.asarray(found)


def read_index(text: str) -> Index:
    """Read ``:, 4:``, ``..., :2``, ``0``, ``::2``; an empty text is the whole.

    Raises
    ------
    IndexingError
        It is not basic indexing with whole numbers.
    """
    plain = re.sub(r"\s+", "", text)
    if not plain:
        return Index("")
    items = tuple(_item(part, text) for part in plain.split(","))
    if sum(item is Ellipsis for item in items) > 1:
        raise IndexingError(f"[{text}] holds ... twice")
    return Index(plain, items)


def _item(part: str, text: str) -> Item:
    found = _ITEM.fullmatch(part)
    if found is None:
        raise IndexingError(f"[{text}] is no slice: {part!r} is neither a number, start:stop:step nor ...")
    if found["dots"]:
        return Ellipsis
    if found["at"]:
        return int(found["at"])
    start, stop, step = (int(found[name]) if found[name] else None for name in ("start", "stop", "step"))
    if step == 0:
        raise IndexingError(f"[{text}] has a step of 0")
    return slice(start, stop, step)
