"""Reading nodes: constants, optional inputs, and lists of integers that are attributes in old opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.errors import ModelError, UnsupportedOpError


def ints_of(node: ir.Node, name: str, index: int | None = None) -> list[int] | None:
    """Return a list of integers that is an attribute in old opsets and a constant input in new ones.

    None where it is absent, or an input whose value the graph computes.
    """
    if name in node.attributes:
        value = node.attributes[name].value
        return [int(value)] if isinstance(value, int) else [int(v) for v in value]
    if index is not None and index < len(node.inputs):
        array = constant(node.inputs[index])
        return None if array is None else [int(v) for v in array.reshape(-1)]
    return None


def has_input(node: ir.Node, index: int) -> bool:
    """Say whether an optional input is there."""
    return index < len(node.inputs) and node.inputs[index] is not None


def required(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the ONNX standard requires.

    Raises
    ------
    ModelError
        INPUT_MISSING, naming the node: the graph leaves it out.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ModelError(
            f"{node.op_type} {node.name or node.outputs[0].name!r} has no input {index}, which its standard requires",
            reason="INPUT_MISSING",
            subject=node.name or node.op_type,
            hint="check the model with onnx.checker.check_model, and export it again",
        )
    return value


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """Return the array of an initializer or Constant node, else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def ints_input(node: ir.Node, index: int) -> list[int]:
    """Return a constant integer input.

    Raises
    ------
    UnsupportedOpError
        DYNAMIC_AXES, naming the node: the graph computes it.
    """
    array = constant(node.inputs[index])
    if array is None:
        raise UnsupportedOpError(
            f"input {index} of {node.op_type} {node.name!r} is computed by the graph",
            reason="DYNAMIC_AXES",
            subject=node.name or node.op_type,
            hint="export with constant axes",
        )
    return [int(v) for v in array.reshape(-1)]
