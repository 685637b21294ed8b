"""Linear models of the ``ai.onnx.ml`` domain as products and sums of the default domain, which exact rules know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from lieaudit.ops.op import Op

DOMAIN = "ai.onnx.ml"
_AFTERWARDS = {"NONE": None, "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}


def as_products(node: ir.Node, opset: int) -> onnx.ModelProto | None:
    """Return the op as a graph from ``in0`` to its last output, ``out0`` or ``out1``; None where it has none."""
    x = node.inputs[0]
    if x is None or x.dtype != ir.DataType.FLOAT or x.shape is None or len(x.shape) != 2:
        return None
    steps = _STEPS[node.op_type](node, opset)
    if steps is None or any(value.uses() or value.is_graph_output() for value in node.outputs[:-1]):
        return None
    nodes, constants, current = [], [], "in0"
    for i, (op_type, operand, attributes) in enumerate(steps):
        inputs = [operand, current] if isinstance(operand, str) else [current]
        if isinstance(operand, np.ndarray):
            constants.append(numpy_helper.from_array(operand, f"c{i}"))
            inputs.append(f"c{i}")
        current = f"v{i}" if i + 1 < len(steps) else f"out{len(node.outputs) - 1}"
        nodes.append(helper.make_node(op_type, inputs, [current], **attributes))
    graph = helper.make_graph(
        nodes,
        node.op_type,
        [helper.make_tensor_value_info("in0", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


Steps = list[tuple[str, Any, dict[str, Any]]]
"""Op type, a second operand (an array behind the first, or the name of a tensor before it), attributes."""


def _floats(node: ir.Node, name: str) -> np.ndarray[Any, Any]:
    return np.array(node.attributes.get_floats(name, []), np.float32)


def _scaler(node: ir.Node, _opset: int) -> Steps:
    return [("Sub", _floats(node, "offset"), {}), ("Mul", _floats(node, "scale"), {})]


def _linear(node: ir.Node, _opset: int) -> Steps | None:
    coefficients, intercepts = _floats(node, "coefficients"), _floats(node, "intercepts")
    rows = node.attributes.get_int("targets", 1)
    if node.op_type == "LinearClassifier":
        labels = node.attributes.get("classlabels_ints") or node.attributes.get("classlabels_strings")
        rows = len(labels.value) if labels is not None else 0
    after = node.attributes.get_string("post_transform", "NONE")
    # a classifier of two classes may hold one row for both
    if after not in _AFTERWARDS or len(intercepts) not in {0, rows} or not rows or coefficients.size % rows:
        return None
    x = node.inputs[0]
    features = x.shape[1] if x is not None and x.shape is not None else None
    if coefficients.size // rows != features:
        return None
    steps: Steps = [("MatMul", np.ascontiguousarray(coefficients.reshape(rows, -1).T), {})]
    if intercepts.size:
        steps.append(("Add", intercepts, {}))
    if function := _AFTERWARDS[after]:
        steps.append((function, None, {"axis": 1} if function == "Softmax" else {}))
    return steps


def _normalizer(node: ir.Node, opset: int) -> Steps | None:
    kind = {"L1": "ReduceL1", "L2": "ReduceL2"}.get(node.attributes.get_string("norm", "MAX"))
    if kind is None:
        return None
    axes: tuple[Any, dict[str, Any]] = (np.array([1]), {}) if opset >= 18 else (None, {"axes": [1]})
    return [(kind, *axes), ("Div", "in0", {})]


_STEPS: dict[str, Callable[[ir.Node, int], Steps | None]] = {
    "Scaler": _scaler,
    "LinearRegressor": _linear,
    "LinearClassifier": _linear,
    "Normalizer": _normalizer,
}

OPS = tuple(Op(name, DOMAIN, body=as_products) for name in _STEPS)
