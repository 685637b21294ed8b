"""The other direction of `relative`: another image's tangent, as large as the image's own, and no symmetry.

How a model answers to its symmetry is compared with how it answers to a perturbation that is as large and as smooth.
A tangent of another image is that. It too is linear in the field, so the measured directions of a plan serve here as
well: what the model answers to those is combined, image by image, to the answer along every generator's own tangent of
the other image, rescaled to the norm of the image's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lieaudit.derivatives.base import Float32Array, Float64Array
    from lieaudit.symmetries.plan import Plan

PARTNERS = 2
"""Other images whose tangents `relative` compares with, for each image: how a model answers to one varies by a factor
of three to eight between partners (trained classifiers), which a mean of logarithms over images evens out."""

_ROUNDING = 2.0**-22
"""A combination of float32 tangents that is this small beside its parts is what their rounding left over."""


@dataclass(frozen=True, slots=True)
class Other:
    """How answers along one partner's directions are combined, for n images.

    Attributes
    ----------
    weights
        float64 (n, G, M): from the answers along the measured directions to those along the generators'.
    """

    weights: Float64Array

    @classmethod
    def of(cls, own: Float32Array, found: Float32Array, plan: Plan) -> tuple[Float32Array, Other]:
        """Rescale tangents ``found`` of other images (n, M, C, H, W) to the norms of the images' ``own``.

        Returns the directions, and what combines the answers along them.
        """
        own_products, products = inner_products(own), inner_products(found)
        one_by_one = np.eye(len(plan.measured))
        scale = _quotient(norms(own_products, one_by_one), norms(products, one_by_one))
        # a direction that this image has no tangent along may still take part in a combination
        used = np.where(scale > 0, scale, 1.0).astype(np.float32)
        wanted = _quotient(norms(own_products, plan.weights), norms(products, plan.weights)).astype(np.float32)
        weights = wanted[:, :, None].astype(np.float64) * plan.weights / used[:, None, :].astype(np.float64)
        return found * used[:, :, None, None, None], cls(weights)

    def combined(self, rows: Float64Array) -> Float64Array:
        """Return ‖DF[r]‖²/K along every generator's direction r, (n, G), from DF along the directions, (n, M, *K)."""
        flat = rows.reshape(*rows.shape[:2], -1)
        squares = np.einsum("ngi,nij,ngj->ng", self.weights, flat @ np.moveaxis(flat, 1, 2), self.weights)
        return np.asarray(np.maximum(squares, 0.0) / flat.shape[2])


def inner_products(moved: Float32Array) -> Float64Array:
    """Return the inner products of the tangents of every image, (n, M, M), of tangents (n, M, C, H, W)."""
    found = np.empty((len(moved), moved.shape[1], moved.shape[1]))
    for image, rows in enumerate(moved):
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        found[image] = flat @ flat.T
    return found


def norms(products: Float64Array, weights: Float64Array) -> Float64Array:
    """Return the norms (n, G) of combinations with weights (G, M) of rows with inner products (n, M, M).

    Exactly 0 where nothing but the rounding of its parts is left of a combination.
    """
    squares = np.einsum("gi,nij,gj->ng", weights, products, weights)
    parts = np.sqrt(np.einsum("nii->ni", products)) @ np.abs(weights).T
    return np.asarray(np.sqrt(np.where(squares > (_ROUNDING * parts) ** 2, squares, 0.0)))


def log_ratio(lee: Float64Array, lee_error: Float64Array, other: Float64Array) -> Float64Array:
    """Return the mean over partners of log(‖L F‖² / ‖DF[r]‖²), (N, G), from ``other`` (partners, N, G).

    A LEE below its own numerical error is taken to be that error. NaN where an image does not answer to some partner's
    direction: then no ratio exists; −∞ where LEE and its error are exactly 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(lee, lee_error)) - np.log(other).mean(axis=0)
    return np.asarray(np.where(np.all(other > 0, axis=0), logs, np.nan))


def _quotient(wanted: Float64Array, found: Float64Array) -> npt.NDArray[np.float64]:
    return np.asarray(np.where(found > 0, wanted / np.where(found > 0, found, 1.0), 0.0))
