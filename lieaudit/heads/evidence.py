"""What values and labels say about an output: probabilities, class scores, embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.ops import lookup, rearranges

if TYPE_CHECKING:
    from collections.abc import Iterable

Rows = npt.NDArray[np.float64]

CLASSES = {
    10: "CIFAR-10 or MNIST",
    100: "CIFAR-100",
    1000: "ImageNet",
    1001: "ImageNet with a background class",
    21841: "ImageNet-21k",
    21843: "ImageNet-21k",
}
"""Numbers of components that speak for class logits where nothing speaks against them."""

SUM_TOLERANCE = 1e-4
_NORM_TOLERANCE = 1e-3
_CONVINCING = 1e-3


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """How often the largest output was the label, and how often it would be if they had nothing to do with each other.

    ``chance`` is Σ_k P(largest = k) P(label = k): a model that always says the commonest class does not beat it.
    """

    hits: int
    images: int
    chance: float

    @classmethod
    def of(cls, rows: Rows, labels: npt.NDArray[np.int64]) -> ClassLabels:
        """Compare rows (n, K) with labels (n,)."""
        said = np.argmax(rows, axis=1)
        size = max(int(said.max()), int(labels.max())) + 1
        shares = [np.bincount(found, minlength=size) / len(found) for found in (said, np.maximum(labels, 0))]
        return cls(int(np.sum(said == labels)), len(rows), float(shares[0] @ shares[1]))

    @property
    def p_value(self) -> float:
        """Probability of so many hits or more by chance (binomial)."""
        terms = (
            math.comb(self.images, k) * self.chance**k * (1.0 - self.chance) ** (self.images - k)
            for k in range(self.hits, self.images + 1)
        )
        return min(1.0, math.fsum(terms))

    @property
    def convincing(self) -> bool:
        """Whether the labels prove that the outputs are class scores."""
        return self.p_value < _CONVINCING

    @property
    def described(self) -> str:
        """The evidence in words."""
        return (
            f"its largest component is the label on {self.hits} of {self.images} images, by chance on "
            f"{self.chance * self.images:.2g} (p = {self.p_value:.1g})"
        )


def probability_axis(rows: Rows, tolerance: float = SUM_TOLERANCE) -> int:
    """Return the axis of rows (n, *K) along which all are non-negative with sum 1, the last such one; 0 for none."""
    if rows.ndim < 2 or not np.all(rows >= 0):
        return 0
    for axis in range(rows.ndim - 1, 0, -1):
        if rows.shape[axis] > 1 and np.all(np.abs(rows.sum(axis=axis) - 1.0) <= tolerance):
            return axis
    return 0


def in_unit_range(rows: Rows) -> bool:
    """Say whether every value lies in [0, 1]."""
    return bool(np.all((rows >= 0) & (rows <= 1)))


def unit_norm(rows: Rows) -> bool:
    """Say whether every row (n, K) has Euclidean norm 1."""
    return bool(np.all(np.abs(np.linalg.norm(rows.reshape(len(rows), -1), axis=1) - 1.0) <= _NORM_TOLERANCE))


def sum_tolerance(size: int, step: float, dtype: ir.DataType | None) -> float:
    """Return how far sums of K probabilities may be from 1: K half steps of a quantised output, rounding of 16 bits.

    The half steps of K probabilities in 16 bits add up to at most half a step at 1.
    """
    halves = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}
    return max(SUM_TOLERANCE, size * step / 2, halves.get(dtype, 0.0) if dtype is not None else 0.0)


def consumer(output: ir.Value) -> str:
    """Name an op of the graph that reads an output, or a rearrangement of it, as logits; empty where none does."""
    seen: set[ir.Value] = set()
    pending = [output]
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        for node in _readers(value):
            op = lookup(node)
            if op is not None and op.of_classes:
                return node.op_type
            if rearranges(node) and node.inputs[0] is value:
                pending += node.outputs
    return ""


def _readers(value: ir.Value) -> Iterable[ir.Node]:
    return [use.node for use in value.uses()]
