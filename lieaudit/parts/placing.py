"""Where raw coordinates lie in the image: pixels, shares of the size, units of a grid's cells or of anchors.

Every point becomes pixels from the centre of the image's grid, x = raw · a + b, and every size pixels, w = raw · a or
exp(raw · s) · a, so that one formula moves them all: a point with −v, the size of a box with −(∂v_x/∂x) w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.parts.text import PartText, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placing:
    """How raw coordinates of P points become pixels; ``scale`` and ``offset`` broadcast to (P, 2), x then y.

    ``size_scale`` is that of sizes, and ``exponent`` what their logarithms are multiplied by; 0 for linear sizes.
    """

    scale: Array
    offset: Array
    size_scale: Array
    exponent: float = 0.0

    def points(self, raw: Array) -> Array:
        """Return raw points (…, P, 2) in pixels from the grid's centre."""
        return raw * self.scale + self.offset

    def point_tangents(self, draw: Array) -> Array:
        """Return the differential of `points`."""
        return draw * self.scale

    def sizes(self, raw: Array) -> Array:
        """Return raw sizes (…, P, 2) in pixels."""
        return np.exp(raw * self.exponent) * self.size_scale if self.exponent else raw * self.size_scale

    def size_tangents(self, raw: Array, draw: Array) -> Array:
        """Return the differential of `sizes` at ``raw``."""
        return self.exponent * self.sizes(raw) * draw if self.exponent else draw * self.size_scale


def placing_of(part: PartText, items: tuple[int, ...], size: tuple[int, int], anchors: Mapping[str, Array]) -> Placing:
    """Return how a part's coordinates are placed.

    Parameters
    ----------
    part
        Points or boxes.
    items
        Shape of the part without the axis of coordinates: P is its product. Cells and anchors are those of its first
        axis, or of all of it.
    size
        (H, W) of the image as the model takes it.
    anchors
        Arrays by the name that the part's text gives them.

    Raises
    ------
    SpecError
        INVALID_PART: strides or anchors do not fit the number of points or boxes.
    """
    height, width = size
    edge = (part.origin or ("edge" if part.representation == "boxes" or part.unit == "share" else "centre")) == "edge"
    span = np.array([width, height], np.float64) - (0.0 if edge else 1.0)
    zero = -span / 2
    unit = span if part.unit == "share" else np.ones(2)
    exponent = 1.0 if part.decode == "exp" else 0.0
    if part.strides:
        corners, sides = _cells(part, items, size)
        inner = 0.5 if part.cell == "centre" else 0.0
        sides = _spread(part, sides[:, None], items)
        return Placing(sides, _spread(part, corners, items) + inner * sides + zero, sides, exponent)
    if part.anchors is None:
        return Placing(unit, zero, unit, exponent)
    centres, own = _anchors(part, anchors)
    offset = _spread(part, centres * unit, items) + zero
    if part.unit != "grid":
        return Placing(unit, offset, unit, exponent)
    if own is None:
        raise invalid(part.name, f"{part.anchors} holds no sizes, and unit=grid is in units of them",
                      "an array (P, 4) of cx, cy, w, h in pixels")  # fmt: skip
    of_centres, of_sizes = part.variance or (1.0, 1.0)
    scale = _spread(part, own, items)
    if exponent:
        return Placing(scale * of_centres, offset, scale, of_sizes)
    return Placing(scale * of_centres, offset, scale * of_sizes)


def _cells(part: PartText, items: tuple[int, ...], size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the upper left corners (P, 2) and sides (P,) of all levels' cells, row by row, in pixels."""
    corners, sides = [], []
    for stride in part.strides:
        rows, columns = (max(1, round(side / stride)) for side in size)
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        corners.append(stride * np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64))
        sides.append(np.full(rows * columns, stride))
    found, wide = np.concatenate(corners), np.concatenate(sides)
    count = items[0] if items else 1
    per_cell, rest = divmod(count, len(found))
    if rest or not per_cell:
        levels = " + ".join(f"{round(size[0] / s)}x{round(size[1] / s)}" for s in part.strides)
        raise invalid(
            part.name,
            f"strides {':'.join(f'{s:g}' for s in part.strides)} make {levels} = {len(found)} cells of an image "
            f"{size[0]}x{size[1]}, and its shape {items} holds {count}",
        )
    return np.repeat(found, per_cell, axis=0), np.repeat(wide, per_cell)


def _anchors(part: PartText, anchors: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """Return the anchors' centres (P, 2) and sizes (P, 2), or None where they have none."""
    name = part.anchors or ""
    if name not in anchors:
        raise invalid(part.name, f"anchors={name}: no array of this name came with the specification",
                      "spec.anchors, by the same name")  # fmt: skip
    array = np.asarray(anchors[name], np.float64)
    if array.ndim != 2 or array.shape[1] not in {2, 4} or not np.all(np.isfinite(array)):
        raise invalid(part.name, f"anchors={name} has shape {array.shape}, not (P, 2) of cx, cy or (P, 4) of "
                                 "cx, cy, w, h, finite")  # fmt: skip
    return array[:, :2], array[:, 2:] if array.shape[1] == 4 else None


def _spread(part: PartText, rows: Array, items: tuple[int, ...]) -> Array:
    """Return one row per point (P, k) of rows given for the first axis of the items, or for all of them."""
    total, first = int(np.prod(items, dtype=int)), items[0] if items else 1
    if len(rows) == total:
        return rows
    if len(rows) == first:
        return np.repeat(rows, total // first, axis=0)
    raise invalid(part.name, f"{len(rows)} anchors are given for shape {items}: {first} or {total} would fit")
