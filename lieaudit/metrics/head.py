"""The head h that maps raw outputs z to what is audited, F = h ∘ z, always in float64.

A softmax inside a float32 graph loses most digits of its differential on confident images, because p·(dz − Σ p dz)
cancels; so heads are cut off the graph and applied here, to values and to tangents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

FUNCTIONS = ("identity", "softmax", "sigmoid")


@dataclass(frozen=True, slots=True)
class Head:
    """A pointwise or class-axis function and the symmetry's action on its output.

    Attributes
    ----------
    function
        ``identity``, ``softmax`` or ``sigmoid``.
    spatial
        The output is a map (N, …, H', W') on which the same symmetry acts on its own grid; otherwise the output
        representation is trivial (invariance).
    axis
        What a softmax normalises over: an axis of (N, *K), the batch counted.
    """

    function: str
    spatial: bool
    axis: int = 1

    @property
    def name(self) -> str:
        """The head's name in reports: ``spatial`` for maps, else the function."""
        return "spatial" if self.spatial else self.function

    def value(self, z: npt.NDArray[Any]) -> Float64Array:
        """Return h(z) for raw outputs (n, *K)."""
        z = np.asarray(z, np.float64)
        if self.function == "softmax":
            return _softmax(z, axis=self.axis)
        return _sigmoid(z) if self.function == "sigmoid" else z

    def differential(self, z: npt.NDArray[Any], dz: npt.NDArray[Any]) -> Float64Array:
        """Return Dh(z)[dz] for raw outputs (n, *K) and D tangents (n, D, *K)."""
        dz = np.asarray(dz, np.float64)
        if self.function == "softmax":
            p = self.value(z)[:, None]
            return np.asarray(p * (dz - (p * dz).sum(axis=self.axis + 1, keepdims=True)))
        if self.function == "sigmoid":
            p = self.value(z)[:, None]
            return np.asarray(p * (1.0 - p) * dz)
        return dz

    def curvature(self, z: npt.NDArray[Any], dz: npt.NDArray[Any], error: npt.NDArray[Any]) -> Float64Array:
        """Return D²h(z)[error, dz]: how an error of raw outputs, (n, *K), moves Dh(z)[dz] of tangents (n, D, *K)."""
        dz, error = np.asarray(dz, np.float64), np.asarray(error, np.float64)[:, None]
        p = self.value(z)[:, None]
        if self.function == "softmax":
            over = self.axis + 1
            pushed = (error - (p * error).sum(axis=over, keepdims=True)) * (dz - (p * dz).sum(axis=over, keepdims=True))
            return np.asarray(p * (pushed - (p * pushed).sum(axis=over, keepdims=True)))
        if self.function == "sigmoid":
            return np.asarray(p * (1.0 - p) * (1.0 - 2.0 * p) * error * dz)
        return np.zeros_like(dz)


def _softmax(z: Float64Array, axis: int) -> Float64Array:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _sigmoid(z: Float64Array) -> Float64Array:
    # exp of the negative magnitude never overflows
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, e) / (1.0 + e))
