"""What ops that work element by element do to axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from lieaudit.layouts.algebra import broadcast
from lieaudit.layouts.axes import Axes
from lieaudit.layouts.tracker import Tracker

Result = list[Axes | None]
"""Axes of each output; None: not known."""


def unary(tracker: Tracker, node: ir.Node) -> Result:
    """Return the axes of the first operand, which the first output keeps."""
    return [tracker.of(node.inputs[0])] if tracker.varies(node.inputs[0]) else [None]


def nary(tracker: Tracker, node: ir.Node) -> Result:
    """Return the broadcast of the operands' axes."""
    return _broadcast(tracker, node.inputs)


def residual(tracker: Tracker, node: ir.Node) -> Result:
    """Return the broadcast of the first two operands' axes; the others are weights."""
    return _broadcast(tracker, node.inputs[:2])


def _broadcast(tracker: Tracker, values: Sequence[ir.Value | None]) -> Result:
    axes = [a for a in map(tracker.of, values) if a is not None]
    return [broadcast(axes)] if len(axes) == sum(v is not None for v in values) else [None]
