"""Where a graph bends: the units that rounding can carry over a kink, which changes the derivative by a jump."""

from __future__ import annotations

import math

import onnx_ir as ir

from lieaudit.autodiff.context import TANGENT_NODES

KINKED = frozenset(
    {
        "Abs",
        "Celu",
        "Clip",
        "Elu",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Max",
        "MaxPool",
        "Min",
        "PRelu",
        "ReduceL1",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Selu",
        "Shrink",
        "Softsign",
        "ThresholdedRelu",
        "TopK",
        "Where",
    }
)
"""Ops of the standard with an output whose slope jumps: at a bound, at zero, or where another operand takes over."""


def kinked_units(model: ir.Model) -> int:
    """Count the units of one image that pass an op with a kink, those of tangents left out.

    Sizes that are not fixed count as one.
    """
    return sum(
        _elements(node.outputs[0])
        for node in model.graph
        if node.op_type in KINKED and not node.domain and not (node.name or "").startswith(TANGENT_NODES)
    )


def _elements(value: ir.Value) -> int:
    if value.shape is None or value.dtype not in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
        return 0
    return math.prod(size for size in value.shape if isinstance(size, int))
