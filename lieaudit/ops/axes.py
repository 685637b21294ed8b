"""What families of ops do to axes, as far as several of them share it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from lieaudit.layouts.atoms import GRID, Axes, Axis, coordinate, has_grid, normalise, plain, size_of, without_position
from lieaudit.layouts.tracker import Tracker, broadcast

Result = list[Axes | None]


def unary(tracker: Tracker, node: ir.Node) -> Result:
    """Give the axes of the first operand, which the first output keeps."""
    return [tracker.of(node.inputs[0])] if tracker.varies(node.inputs[0]) else [None]


def nary(tracker: Tracker, node: ir.Node) -> Result:
    """Give the broadcast of the operands' axes."""
    return _broadcast(tracker, node.inputs)


def residual(tracker: Tracker, node: ir.Node) -> Result:
    """Give the broadcast of the first two operands' axes; the others are weights."""
    return _broadcast(tracker, node.inputs[:2])


def _broadcast(tracker: Tracker, values: Sequence[ir.Value | None]) -> Result:
    axes = [a for a in map(tracker.of, values) if a is not None]
    return [broadcast(axes)] if len(axes) == sum(v is not None for v in values) else [None]


def resized(axis: Axis, size: int) -> Axis:
    """Give the axis of a grid that was padded, cropped, pooled or resampled to another size."""
    return axis if size_of(axis) == size else regridded(axis, size)


def regridded(axis: Axis, size: int) -> Axis:
    """Return the axis of a grid whose pixels are others now, also where their number is the same."""
    role = grid_role(axis)
    if role is not None:
        return coordinate(role, size)
    return plain("channel", size) if axis and without_position(axis) else plain("unknown" if axis else "free", size)


def grid_role(axis: Axis) -> str | None:
    """Give ``height`` or ``width`` where neighbours on the axis are neighbours in the image, else None.

    Channels woven into a coordinate, ``(h r)``, are read as sub-pixels once an op treats the axis as space.
    """
    if len(axis) == 1 and axis[0].whole:
        return axis[0].role
    if len(axis) == 2 and axis[0].whole and axis[1].role == "channel":
        return axis[0].role
    return None


def window(axis: Axis, size: int) -> Axis:
    """Give the spatial axis after a sliding window."""
    if grid_role(axis) is not None or size == 1:
        return resized(axis, size) if grid_role(axis) is not None and size > 1 else ()
    if not axis:
        return plain("free", size)
    if without_position(axis):
        return plain("channel", size)
    return plain("mixed" if any(a.role == "tokens" or a.role in GRID for a in axis) else "unknown", size)


def contracted(kept: Axes, gone: Axis, *, at: int, size: int) -> Axes:
    """Give the axes after an axis was multiplied by a constant matrix into a new one of ``size`` at position ``at``.

    A new axis made of positions is channels where whole digits were used up (patch embedding) or nothing but the
    batch is left (flatten and classify); otherwise positions are mixed: token mixing.
    """
    rest = normalise((*kept[:at], (), *kept[at + 1 :]))
    role = "channel"
    if any(atom.role == "unknown" for atom in gone):
        role = "unknown"
    elif has_grid(gone):
        inner = any(has_grid(axis) for axis in rest)
        digits = all(atom.role in GRID or without_position((atom,)) for atom in gone)
        lonely = all(atom.role in {"batch", "free"} for axis in rest for atom in axis)
        partial = {atom.role for atom in gone if atom.role in GRID}
        left = {atom.role for axis in rest for atom in axis if atom.role in GRID}
        role = "channel" if lonely or (inner and digits and partial <= left) else "mixed"
    return (*rest[:at], plain(role, size), *rest[at + 1 :])
