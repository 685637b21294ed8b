"""Where a graph bends: the units that rounding can carry over a kink, which changes the derivative by a jump."""

from __future__ import annotations

import math

import onnx_ir as ir

from lieaudit.autodiff.context import TANGENT_NODES
from lieaudit.ops import lookup


def kinked_units(model: ir.Model) -> int:
    """Count the units of one image that pass an op with a kink, those of tangents left out.

    Sizes that are not fixed count as one.
    """
    return sum(
        _elements(node.outputs[0])
        for node in model.graph
        if (op := lookup(node)) is not None and op.kinked and not (node.name or "").startswith(TANGENT_NODES)
    )


def _elements(value: ir.Value) -> int:
    if value.shape is None or value.dtype not in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
        return 0
    return math.prod(size for size in value.shape if isinstance(size, int))
