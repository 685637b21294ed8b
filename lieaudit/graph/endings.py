"""Recognising a softmax or a sigmoid at the end of a graph, as one op or written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_FLATTENING = 13
"""Below this opset a Softmax normalises over all axes from its own on."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A head in the graph.

    Attributes
    ----------
    function
        ``softmax`` or ``sigmoid``.
    raw, output
        What it takes and what it gives.
    op
        What it is made of, for people.
    axis
        What a softmax normalises over, as the node states it.
    flattens
        It normalises over all axes from there on.
    logarithm
        It gives the logarithm of the softmax.
    """

    function: str
    raw: ir.Value
    output: ir.Value
    op: str
    axis: int = 0
    flattens: bool = False
    logarithm: bool = False


def is_standard(node: ir.Node) -> bool:
    """Say whether an op is of the default domain."""
    return node.domain in {"", "ai.onnx"}


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the value of an initializer or Constant; None for anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return tensor.numpy() if tensor is not None else None


def ending_of(node: ir.Node) -> Ending | None:
    """Recognise what a node ends; None where it is no head."""
    recognise = _RECOGNISED.get((node.domain if not is_standard(node) else "", node.op_type))
    return recognise(node) if recognise is not None else None


def softmax_axis(node: ir.Node) -> tuple[int, bool]:
    """Return a Softmax's axis, and whether it normalises over all axes from there on."""
    opset = node.version or (node.graph.opset_imports.get("", 0) if node.graph is not None else 0)
    old = is_standard(node) and 0 < opset < _FLATTENING
    return node.attributes.get_int("axis", 1 if old else -1), old


def _softmax(node: ir.Node) -> Ending | None:
    raw, (axis, flattens) = node.inputs[0], softmax_axis(node)
    if raw is None:
        return None
    return Ending("softmax", raw, node.outputs[0], node.op_type, axis, flattens, node.op_type == "LogSoftmax")


def _integer_softmax(node: ir.Node) -> Ending | None:
    """QLinearSoftmax of onnxruntime: integers in; its input's real values are the raw ones."""
    opset, own = node.attributes.get_int("opset", _FLATTENING), node.attributes.get_int("axis", -1)
    raw = _real_input(node, 0, 1)
    return Ending("softmax", raw, node.outputs[0], node.op_type, own, opset < _FLATTENING) if raw is not None else None


def _integer_sigmoid(node: ir.Node) -> Ending | None:
    raw = _real_input(node, 0, 1)
    return Ending("sigmoid", raw, node.outputs[0], node.op_type) if raw is not None else None


def _real_input(node: ir.Node, at: int, scale: int) -> ir.Value | None:
    graph, zero = node.graph, node.inputs[scale + 1]
    if not isinstance(graph, ir.Graph):
        return None
    made = ir.node("DequantizeLinear", [node.inputs[at], node.inputs[scale], zero], name=f"{node.name}.real")
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, made)
    return made.outputs[0]


def _sigmoid(node: ir.Node) -> Ending | None:
    raw = node.inputs[0]
    return Ending("sigmoid", raw, node.outputs[0], node.op_type) if raw is not None else None


def _quotient(node: ir.Node) -> Ending | None:
    """exp(x) / Σ exp(x), with or without the maximum taken off; 1 / (1 + exp(−x))."""
    upper, lower = node.inputs[:2]
    return _normalised(node, upper, _unchanged(lower)) or _logistic(node, upper, lower)


def _product(node: ir.Node) -> Ending | None:
    """exp(x) · (1 / Σ exp(x))."""
    for upper, factor in (node.inputs[:2], node.inputs[1::-1]):
        inverse = factor.producer() if factor is not None else None
        if inverse is not None and is_standard(inverse) and inverse.op_type == "Reciprocal":
            found = _normalised(node, upper, _unchanged(inverse.inputs[0]))
            if found is not None:
                return found
    return None


def _inverse(node: ir.Node) -> Ending | None:
    """1 / (1 + exp(−x)), written with a Reciprocal."""
    return _logistic_of(node, node.inputs[0])


def _exponential(node: ir.Node) -> Ending | None:
    """exp(LogSoftmax(x))."""
    inner = _inner(node)
    if inner is None or not inner.logarithm:
        return None
    return Ending("softmax", inner.raw, node.outputs[0], f"Exp of {inner.op}", inner.axis, inner.flattens)


def _logarithm(node: ir.Node) -> Ending | None:
    """log(Softmax(x))."""
    inner = _inner(node)
    if inner is None or inner.function != "softmax" or inner.logarithm:
        return None
    op = f"Log of {inner.op}"
    return Ending("softmax", inner.raw, node.outputs[0], op, inner.axis, inner.flattens, logarithm=True)


def _difference(node: ir.Node) -> Ending | None:
    """Recognise x − log Σ exp(x), with or without the maximum taken off."""
    x, rest = node.inputs[:2]
    sums = _maker(rest, "ReduceLogSumExp") or _maker(_maker_input(rest, "Log"), "ReduceSum")
    if x is None or sums is None:
        return None
    summed = sums.inputs[0] if sums.op_type == "ReduceLogSumExp" else _maker_input(sums.inputs[0], "Exp")
    axis = _only_axis(sums)
    if summed is not x or axis is None:
        return None
    op = "softmax of ReduceLogSumExp and Sub"
    return Ending("softmax", _without_maximum(x, axis), node.outputs[0], op, axis, logarithm=True)


def _inner(node: ir.Node) -> Ending | None:
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    return ending_of(source) if source is not None and source.op_type not in {"Exp", "Log"} else None


def _normalised(node: ir.Node, upper: ir.Value | None, lower: ir.Value | None) -> Ending | None:
    exponential, sums = _maker(upper, "Exp"), _maker(lower, "ReduceSum")
    if exponential is None or sums is None or sums.inputs[0] is not upper:
        return None
    axis, x = _only_axis(sums), exponential.inputs[0]
    if axis is None or x is None:
        return None
    return Ending("softmax", _without_maximum(x, axis), node.outputs[0], "softmax of Exp, ReduceSum and Div", axis)


def _logistic(node: ir.Node, upper: ir.Value | None, lower: ir.Value | None) -> Ending | None:
    one = constant(upper)
    return _logistic_of(node, lower) if one is not None and np.all(one == 1) else None


def _logistic_of(node: ir.Node, lower: ir.Value | None) -> Ending | None:
    total = _maker(lower, "Add")
    for one, rest in (total.inputs[:2], total.inputs[1::-1]) if total is not None else ():
        array = constant(one)
        raw = _maker_input(_maker_input(rest, "Exp"), "Neg")
        if array is not None and np.all(array == 1) and raw is not None:
            return Ending("sigmoid", raw, node.outputs[0], "sigmoid of Neg, Exp, Add and Div")
    return None


def _without_maximum(x: ir.Value, axis: int) -> ir.Value:
    """Return what the maximum over the softmax's axis was taken off: the softmax of it is the same."""
    taken = _maker(x, "Sub")
    if taken is None or taken.inputs[0] is None:
        return x
    largest = _maker(_unchanged(taken.inputs[1]), "ReduceMax")
    same = largest is not None and largest.inputs[0] is taken.inputs[0] and _only_axis(largest) == axis
    return taken.inputs[0] if same else x


def _unchanged(value: ir.Value | None) -> ir.Value | None:
    """Look through what only spreads a sum over the axis that it is divided along."""
    node = value.producer() if value is not None else None
    while node is not None and is_standard(node) and node.op_type in {"Unsqueeze", "Expand", "Identity"}:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return value


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_standard(node) and node.op_type == op_type else None


def _maker_input(value: ir.Value | None, op_type: str) -> ir.Value | None:
    node = _maker(value, op_type)
    return node.inputs[0] if node is not None else None


def _only_axis(node: ir.Node) -> int | None:
    """Return the one axis that a reduction is over."""
    stated = node.attributes.get("axes")
    if stated is not None:
        axes = list(stated.as_ints())
    else:
        given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = [int(axis) for axis in given.reshape(-1)] if given is not None else []
    return axes[0] if len(axes) == 1 else None


_RECOGNISED: dict[tuple[str, str], Callable[[ir.Node], Ending | None]] = {
    ("", "Softmax"): _softmax,
    ("", "LogSoftmax"): _softmax,
    ("", "Sigmoid"): _sigmoid,
    ("", "Div"): _quotient,
    ("", "Mul"): _product,
    ("", "Reciprocal"): _inverse,
    ("", "Exp"): _exponential,
    ("", "Log"): _logarithm,
    ("", "Sub"): _difference,
    ("com.microsoft", "QLinearSoftmax"): _integer_softmax,
    ("com.microsoft", "QLinearSigmoid"): _integer_sigmoid,
}
