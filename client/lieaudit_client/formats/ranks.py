"""Rank correlation: whether the more accurate models are the more equivariant ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_FEWEST = 3


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's ρ, ties at their mean rank; None for fewer than three pairs, or where one side is constant."""
    if len(first) < _FEWEST:
        return None
    a, b = _ranks(first), _ranks(second)
    mean = (len(first) + 1) / 2
    a, b = [rank - mean for rank in a], [rank - mean for rank in b]
    size = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else None


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    place = 0
    for _, group in itertools.groupby(order, key=values.__getitem__):
        tied = list(group)
        for index in tied:
            ranks[index] = place + (len(tied) + 1) / 2
        place += len(tied)
    return ranks
