"""Sizes of tensors as functions of the sizes of a graph's inputs, told from a few runs.

A size is c Π (s_i + o_i) over the symbols s_i that it follows: the batch N, tokens behind a class token S + 1, rows of
all directions D·N. What is not of this form is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Symbol = str


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A size that follows inputs: times/over · Π (symbol + offset)."""

    factors: tuple[tuple[Symbol, int], ...]
    times: int = 1
    over: int = 1

    def at(self, sizes: Mapping[Symbol, int]) -> int:
        """Return the size in a run."""
        return self.times * math.prod(sizes[s] + offset for s, offset in self.factors) // self.over


Extent = int | Symbolic


def product(extents: Sequence[Extent]) -> Extent:
    """Multiply sizes."""
    times = math.prod(e if isinstance(e, int) else e.times for e in extents)
    over = math.prod(1 if isinstance(e, int) else e.over for e in extents)
    factors = tuple(sorted(f for e in extents if isinstance(e, Symbolic) for f in e.factors))
    share = math.gcd(times, over) or 1
    return Symbolic(factors, times // share, over // share) if factors else times // over


def ratio(whole: Extent, part: Extent) -> Extent | None:
    """Divide sizes; None where that is not known to leave no rest."""
    if isinstance(part, int):
        return product([whole, Symbolic((), 1, part)]) if part else None
    if isinstance(whole, int) or whole.factors != part.factors:
        return None
    times = Fraction(whole.times * part.over, whole.over * part.times)
    return int(times) if times.denominator == 1 else None


def told(sizes: Sequence[int], runs: Sequence[Mapping[Symbol, int]]) -> Extent | None:
    """Tell a size from what it was in runs: the first is the base, each other moves one symbol, the last all of them.

    Returns
    -------
    Extent or None
        None where it is not of the form that `Symbolic` has.
    """
    base = sizes[0]
    if all(size == base for size in sizes):
        return base
    factors: list[tuple[Symbol, int]] = []
    for size, run in zip(sizes[1:], runs[1:], strict=True):
        moved = [symbol for symbol, value in run.items() if value != runs[0][symbol]]
        if len(moved) != 1 or size == base:
            continue
        before, after = runs[0][moved[0]], run[moved[0]]
        # size / base = (after + o) / (before + o)
        offset = Fraction(base * after - size * before, size - base)
        if offset.denominator != 1:
            return None
        factors.append((moved[0], int(offset)))
    scale = Fraction(base, math.prod(runs[0][s] + o for s, o in factors) or 1)
    found = Symbolic(tuple(sorted(factors)), scale.numerator, scale.denominator)
    holds = all(found.at(run) == size for size, run in zip(sizes, runs, strict=True))
    return found if factors and holds else None
