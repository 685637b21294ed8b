"""How the parts of an output move with the image: one class for each representation, X' F its `motion`.

T_t carries what is at q to φ_−t(q), so a point moves with −v. With a field v(p) = A p + b, in pixels from the centre of
the grid, the parts of an output move by (docs/parts.md)

=============  =======================================================================================================
invariant      0
map            v · ∇ on its own grid
vector_map     v · ∇ − A acting on the pair
covector_map   v · ∇ + Aᵀ acting on the pair: a gradient
points         −v at the point
boxes          the centre as a point; the sizes −A_xx w and −A_yy h, where A is diagonal
angle          −nᵀ A d with d = (cos θ, sin θ), n = (−sin θ, cos θ), y pointing down
=============  =======================================================================================================

Everything is linear in v: what is known along a basis of fields is known along all. To add a representation, add an
entry to `REPRESENTATIONS` and its options to `lieaudit.parts.text.OPTIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lieaudit.parts.placing import Array, Placing, placing_of
from lieaudit.parts.text import PartText, invalid
from lieaudit.symmetries import tangents
from lieaudit.symmetries.affine import coefficients, field_of, from_coefficients

_SIZES = "the box of a sheared or turned object is no function of the object's box"
_ANGLES = "the angle of a box that is stretched or sheared is no function of the box"


@dataclass(frozen=True, slots=True)
class Frame:
    """What the image's grid and the audit's conventions say: (H, W), and how ∇ is taken on maps."""

    size: tuple[int, int]
    interpolation: str = "bilinear"
    padding: str = "reflect"
    convention: str = "central"


class Representation(Protocol):
    """One result of a part: P items of c components each.

    Arrays of raw values are (…, *S), S the part's own shape without the batch axis.
    """

    @property
    def suffix(self) -> str:
        """What the result is called behind the part's name; empty where a part has one result."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the values; empty for pure numbers."""
        ...

    @property
    def items(self) -> tuple[int, ...]:
        """Shape of the items; P is its product."""
        ...

    def value(self, raw: Array) -> Array:
        """Return the items' values (n, P, c) of raw values (n, *S)."""
        ...

    def differential(self, raw: Array, draw: Array) -> Array:
        """Return the differential (n, D, P, c) of `value` at raw values (n, *S) along draw (n, D, *S)."""
        ...

    def motion(self, value: Array, field: Array) -> Array:
        """Return X' F (n, P, c) of values (n, P, c) along a field (2, 3), in pixels of the image."""
        ...

    def refuses(self, field: Array) -> str:
        """Say why the part has no motion along a field; empty where it has one."""
        ...


@dataclass(frozen=True, slots=True)
class Invariant:
    """Scores, logits, embeddings: X' F = 0. The items are the elements."""

    items: tuple[int, ...]
    suffix: str = ""
    unit: str = ""

    def value(self, raw: Array) -> Array:
        """Return the elements, (n, P, 1)."""
        return raw.reshape(len(raw), -1, 1)

    def differential(self, raw: Array, draw: Array) -> Array:
        """Return the elements' tangents, (n, D, P, 1)."""
        del raw
        return draw.reshape(*draw.shape[:2], -1, 1)

    def motion(self, value: Array, field: Array) -> Array:
        """Return 0."""
        del field
        return np.zeros_like(value)

    def refuses(self, field: Array) -> str:
        """Return nothing: scores stay under every field."""
        del field
        return ""


@dataclass(frozen=True, slots=True)
class Map:
    """A map (…, H', W') whose elements are carried along on their own grid, or pairs of which turn as vectors do.

    ``turn`` is what acts on the pair (…, 2, H', W'): −1 for displacements (− A), +1 for gradients (+ Aᵀ), 0 where the
    elements are scalars. ``flip`` says that pairs come as (y, x), ``last`` that the axes come as H', W', C'.
    """

    shape: tuple[int, ...]
    frame: Frame
    turn: int = 0
    flip: bool = False
    last: bool = False
    suffix: str = ""

    @property
    def unit(self) -> str:
        """Return px for displacements, nothing for scalars and gradients."""
        return "px" if self.turn < 0 else ""

    @property
    def items(self) -> tuple[int, ...]:
        """Return the shape of the pairs, or of the elements."""
        shape = self._channels_first
        return shape[:-3] + shape[-2:] if self.turn else shape

    @property
    def _channels_first(self) -> tuple[int, ...]:
        return (*self.shape[:-3], self.shape[-1], *self.shape[-3:-1]) if self.last else self.shape

    def value(self, raw: Array) -> Array:
        """Return (n, P, 1) of scalars or (n, P, 2) of pairs (x, y)."""
        if self.last:
            raw = np.moveaxis(raw, -1, -3)
        if not self.turn:
            return raw.reshape(len(raw), -1, 1)
        pairs = np.moveaxis(raw, -3, -1)
        return (pairs[..., ::-1] if self.flip else pairs).reshape(len(raw), -1, 2)

    def differential(self, raw: Array, draw: Array) -> Array:
        """Return the same of tangents: it is linear."""
        del raw
        flat = self.value(draw.reshape(-1, *draw.shape[2:]))
        return flat.reshape(*draw.shape[:2], *flat.shape[1:])

    def motion(self, value: Array, field: Array) -> Array:
        """Return v · ∇F on the map's own grid, with what turns the pairs."""
        height, width = self._channels_first[-2:]
        maps = np.ascontiguousarray(np.moveaxis(value, -1, 1)).reshape(len(value), -1, height, width)
        across = ("translation_x", "translation_y")
        slopes = tangents(
            maps, across, interpolation=self.frame.interpolation, padding=self.frame.padding,
            convention=self.frame.convention,
        )  # fmt: skip
        moved = np.zeros_like(maps)
        for axis, (name, speed) in enumerate(zip(across, self.speeds(field), strict=True)):
            unit = field_of(name, height, width, convention=self.frame.convention)[axis, 2]
            moved += slopes[:, axis] * (speed / unit)
        carried = np.moveaxis(moved.reshape(len(value), value.shape[2], -1), 1, -1)
        if not self.turn:
            return np.asarray(carried)
        matrix = np.asarray(field)[:, :2]
        return np.asarray(carried - value @ matrix.T if self.turn < 0 else carried + value @ matrix)

    def speeds(self, field: Array) -> tuple[Array, Array]:
        """Return v_x and v_y at the map's own pixels: the same generators on its own grid."""
        height, width = self._channels_first[-2:]
        own = from_coefficients(coefficients(field, *self.frame.size), height, width)
        y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
        across, down = (a * x + b * y + c for a, b, c in own)
        return across, down

    def refuses(self, field: Array) -> str:
        """Return nothing: maps move under every field."""
        del field
        return ""


@dataclass(frozen=True, slots=True)
class Points:
    """Points in pixels from the grid's centre: −v at the point."""

    items: tuple[int, ...]
    axis: int
    flip: bool
    placing: Placing
    suffix: str = ""
    unit: str = "px"

    def value(self, raw: Array) -> Array:
        """Return the points, (n, P, 2), x then y."""
        return self.placing.points(_rows(raw, self.axis, self.flip, lead=1))

    def differential(self, raw: Array, draw: Array) -> Array:
        """Return their tangents, (n, D, P, 2)."""
        del raw
        return self.placing.point_tangents(_rows(draw, self.axis, self.flip, lead=2))

    def motion(self, value: Array, field: Array) -> Array:
        """Return −v."""
        return -_velocity(value, field)

    def refuses(self, field: Array) -> str:
        """Return nothing: points move under every field."""
        del field
        return ""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The centres or the sizes of boxes; ``form`` is (4, 4) and makes (cx, cy, w, h) of raw coordinates."""

    items: tuple[int, ...]
    axis: int
    form: Array
    placing: Placing
    suffix: str
    unit: str = "px"

    def value(self, raw: Array) -> Array:
        """Return centres in pixels from the grid's centre or sizes in pixels, (n, P, 2), x then y."""
        rows = _rows(raw, self.axis, flip=False, lead=1) @ self.form.T
        return self.placing.points(rows[..., :2]) if self.suffix == "centre" else self.placing.sizes(rows[..., 2:])

    def differential(self, raw: Array, draw: Array) -> Array:
        """Return their tangents, (n, D, P, 2)."""
        moved = _rows(draw, self.axis, flip=False, lead=2) @ self.form.T
        if self.suffix == "centre":
            return self.placing.point_tangents(moved[..., :2])
        rows = _rows(raw, self.axis, flip=False, lead=1) @ self.form.T
        return self.placing.size_tangents(rows[:, None, :, 2:], moved[..., 2:])

    def motion(self, value: Array, field: Array) -> Array:
        """Return −v at the centre, or −(A_xx w, A_yy h)."""
        return -_velocity(value, field) if self.suffix == "centre" else -value * np.diag(field[:, :2])

    def refuses(self, field: Array) -> str:
        """Say that sizes have no motion of their own under shears and turns."""
        diagonal = self.suffix == "centre" or (field[0, 1] == 0 and field[1, 0] == 0)
        return "" if diagonal else _SIZES


@dataclass(frozen=True, slots=True)
class Angle:
    """Angles from +x towards +y, in radians; ``scale`` turns the raw values into them."""

    items: tuple[int, ...]
    scale: float
    box: bool
    suffix: str = ""
    unit: str = "rad"

    def value(self, raw: Array) -> Array:
        """Return the angles, (n, P, 1)."""
        return self.scale * raw.reshape(len(raw), -1, 1)

    def differential(self, raw: Array, draw: Array) -> Array:
        """Return their tangents, (n, D, P, 1)."""
        del raw
        return self.scale * draw.reshape(*draw.shape[:2], -1, 1)

    def motion(self, value: Array, field: Array) -> Array:
        """Return −nᵀ A d."""
        cos, sin = np.cos(value), np.sin(value)
        (a, b), (d, e) = np.asarray(field)[:, :2]
        return np.asarray(sin * (a * cos + b * sin) - cos * (d * cos + e * sin))

    def refuses(self, field: Array) -> str:
        """Say that the angle of a box has no motion of its own where angles between lines change."""
        (a, b), (d, e) = np.asarray(field)[:, :2]
        return _ANGLES if self.box and not (a == e and b == -d) else ""


def _rows(raw: Array, axis: int, flip: bool, *, lead: int) -> Array:  # noqa: FBT001 - a field of its callers
    """Return raw coordinates with their axis last and the items as one: (…, P, c)."""
    moved = np.moveaxis(raw, axis + lead, -1)
    rows = moved.reshape(*raw.shape[:lead], -1, moved.shape[-1])
    return rows[..., ::-1] if flip else rows


def _velocity(points: Array, field: Array) -> Array:
    """Return v(p) = A p + b at points (…, 2) from the grid's centre."""
    field = np.asarray(field, np.float64)
    return points @ field[:, :2].T + field[:, 2]


_FORMS = {
    "cxcywh": np.eye(4),
    "xywh": np.array([[1, 0, 0.5, 0], [0, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "xyxy": np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [-1, 0, 1, 0], [0, -1, 0, 1]]),
}
_SWAPPED = np.eye(4)[[1, 0, 3, 2]]

Anchors = Mapping[str, npt.NDArray[Any]]


def _invariant(part: PartText, shape: tuple[int, ...], frame: Frame, anchors: Anchors) -> list[Representation]:  # noqa: ARG001
    return [Invariant(shape)]


def _map(part: PartText, shape: tuple[int, ...], frame: Frame, anchors: Anchors) -> list[Representation]:  # noqa: ARG001
    turn = {"map": 0, "vector_map": -1, "covector_map": 1}[part.representation]
    last = part.layout == "HWC"
    if len(shape) < 2 or ((last or turn) and len(shape) < 3):
        raise invalid(part.name, f"its shape {shape} is no {'(…, 2, H, W)' if turn else '(…, H, W)'}")
    if turn and shape[-1 if last else -3] != 2:
        raise invalid(part.name, f"its shape {shape} holds {shape[-1 if last else -3]} channels, not pairs",
                      "slice two channels, or say layout=HWC")  # fmt: skip
    return [Map(shape, frame, turn, flip=part.order == "yx", last=last)]


def _points(part: PartText, shape: tuple[int, ...], frame: Frame, anchors: Anchors) -> list[Representation]:
    axis, items = _coordinates(part, shape, 2, "points")
    placing = placing_of(part, items, frame.size, anchors)
    return [Points(items, axis, part.order == "yx", placing)]


def _boxes(part: PartText, shape: tuple[int, ...], frame: Frame, anchors: Anchors) -> list[Representation]:
    axis, items = _coordinates(part, shape, 4, "boxes")
    placing = placing_of(part, items, frame.size, anchors)
    if part.form is None:
        raise invalid(part.name, "the four numbers of a box may be corners, or a centre and a size",
                      "say form=cxcywh, form=xyxy or form=xywh")  # fmt: skip
    form = _FORMS[part.form] @ _SWAPPED if part.order == "yx" else _FORMS[part.form]
    return [Boxes(items, axis, form, placing, suffix) for suffix in ("centre", "size")]


def _angle(part: PartText, shape: tuple[int, ...], frame: Frame, anchors: Anchors) -> list[Representation]:  # noqa: ARG001
    return [Angle(shape, math.pi / 180 if part.unit == "deg" else 1.0, part.of == "box")]


def _coordinates(part: PartText, shape: tuple[int, ...], count: int, what: str) -> tuple[int, tuple[int, ...]]:
    """Return the axis of the coordinates, and the shape without it."""
    if part.axis is not None:
        if not -len(shape) <= part.axis < len(shape) or shape[part.axis] != count:
            raise invalid(
                part.name, f"axis {part.axis} of its shape {shape} does not hold the {count} numbers of {what}"
            )
        axes = [part.axis % len(shape)]
    else:
        axes = [at for at, size in enumerate(shape) if size == count]
    if len(axes) != 1:
        problem = "no axis" if not axes else f"axes {' and '.join(map(str, axes))}"
        hint = f"shape=Px{count} or a slice, e.g. OUTPUT[:{count}]" if not axes else f"say axis={axes[-1]}"
        raise invalid(part.name, f"{problem} of its shape {shape} holds {count} numbers, as {what} do", hint)
    return axes[0], shape[: axes[0]] + shape[axes[0] + 1 :]


Reader = Callable[[PartText, tuple[int, ...], Frame, Anchors], list[Representation]]

REPRESENTATIONS: Mapping[str, Reader] = {
    "invariant": _invariant,
    "map": _map,
    "vector_map": _map,
    "covector_map": _map,
    "points": _points,
    "boxes": _boxes,
    "angle": _angle,
}
"""What makes a part's representations, by the word of its text: part, its shape, frame, anchors → one or two."""
