"""What an expansion works with: the node it stands for, and a small graph to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from lieaudit.graph.nodes import constant

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


class NotCovered(Exception):  # noqa: N818 - it is no error of anybody: the node keeps its own form
    """No product of standard ops is known for this form of the op."""


class ShapeNeeded(NotCovered):
    """The form depends on a shape that is not known yet."""


class Body:
    """The graph that takes a node's place, from ``in0`` … to ``out0`` …, while it is written.

    Parameters
    ----------
    node
        The node; its attributes, inputs and the ranks known of them decide the form.
    opset
        Version of the default domain in which the body is written; at least 9.
    """

    def __init__(self, node: ir.Node, opset: int) -> None:
        self.node = node
        self.opset = opset
        self.attributes = node.attributes
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._results: dict[int, str] = {}

    # ---- the node -------------------------------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Say whether an optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> str:
        """Name an input; the empty string where it is left out."""
        return f"in{index}" if self.has(index) else ""

    def value(self, index: int) -> ir.Value:
        """Return an input that must be there."""
        value = self.node.inputs[index] if self.has(index) else None
        if value is None:
            raise NotCovered(f"input {index} is missing")
        return value

    def array(self, index: int) -> np.ndarray[Any, Any]:
        """Return an input that must be a constant."""
        array = constant(self.value(index))
        if array is None:
            raise NotCovered(f"input {index} is no constant")
        return array

    def rank(self, index: int) -> int:
        """Return the rank of an input."""
        shape = self.value(index).shape
        if shape is None:
            raise ShapeNeeded(f"the rank of input {index} is not known")
        return len(shape)

    def wants(self, index: int) -> bool:
        """Say whether anything reads an output."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.uses()) or value.is_graph_output()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating-point type that the node computes in."""
        known = [value.dtype for value in self.node.inputs if value is not None and value.dtype in _FLOATS]
        return np.dtype(known[0].numpy()) if known and known[0] is not None else np.dtype(np.float32)

    def flag(self, name: str, default: int = 0) -> bool:
        """Say whether an attribute that is 0 or 1 is 1."""
        return self.attributes.get_int(name, default) == 1

    def size(self, index: int, axis: int) -> int:
        """Return the size of an input along an axis, where the graph fixes it."""
        shape = self.value(index).shape
        if shape is None:
            raise ShapeNeeded(f"the shape of input {index} is not known")
        size = shape[axis]
        if not isinstance(size, int):
            raise ShapeNeeded(f"the size of input {index} along axis {axis} is not known")
        return size

    # ---- writing --------------------------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node with one output, and name it."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Write a node with several outputs."""
        names = tuple(f"v{len(self._nodes)}.{k}" for k in range(outputs))
        given = {name: value for name, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(op_type, inputs, names, **given))
        return names

    def const(self, array: np.ndarray[Any, Any]) -> str:
        """Write a constant."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """Write a scalar of the node's floating-point type."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(value, self.dtype), name))
        return name

    def ints(self, *values: int) -> str:
        """Write a vector of int64."""
        return self.const(np.array(values, np.int64))

    def scaled(self, value: str, factor: float) -> str:
        """Multiply by a number, unless that is 1."""
        return value if factor == 1.0 else self.op("Mul", value, self.number(factor))

    def mean(self, value: str, axes: Sequence[int]) -> str:
        """Average over axes, which stay with size 1."""
        if self.opset >= 18:
            return self.op("ReduceMean", value, self.ints(*axes), keepdims=1)
        return self.op("ReduceMean", value, axes=list(axes), keepdims=1)

    def unsqueeze(self, value: str, *axes: int) -> str:
        """Insert axes of size 1."""
        if self.opset >= 13:
            return self.op("Unsqueeze", value, self.ints(*axes))
        return self.op("Unsqueeze", value, axes=list(axes))

    def split(self, value: str, sizes: Sequence[int], axis: int) -> tuple[str, ...]:
        """Cut along an axis."""
        if self.opset >= 13:
            return self.ops("Split", value, self.ints(*sizes), outputs=len(sizes), axis=axis)
        return self.ops("Split", value, outputs=len(sizes), axis=axis, split=list(sizes))

    def result(self, value: str, index: int = 0) -> None:
        """Say which tensor is an output of the node."""
        self._results[index] = value

    def model(self) -> onnx.ModelProto:
        """Return the finished body."""
        given = {name for node in self._nodes for name in node.output}
        for index in sorted(self._results):
            value = self._results[index]
            if value in given:  # the first output that a tensor is takes its place
                given.remove(value)
                self._rename(value, f"out{index}")
            else:
                self._nodes.append(helper.make_node("Identity", [value], [f"out{index}"]))
        info = [
            helper.make_empty_tensor_value_info(name)
            for name in (f"in{i}" for i, value in enumerate(self.node.inputs) if value is not None)
        ]
        outputs = [helper.make_empty_tensor_value_info(f"out{index}") for index in self._results]
        graph = helper.make_graph(self._nodes, self.node.op_type, info, outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def _rename(self, old: str, new: str) -> None:
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        self._results = {index: new if value == old else value for index, value in self._results.items()}


Expansion = Callable[[Body], None]
"""Writes the body of a node; raises `NotCovered` for a form of the op that it does not know."""
