"""Recurrent layers unrolled into matrix products and pointwise functions, which exact rules differentiate.

The equations are those of RNN, GRU and LSTM in the ONNX standard, in its order of gates; a step behind the end of its
sequence keeps the state and outputs zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from lieaudit.graph.nodes import constant, has_input
from lieaudit.ops.op import Op

_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_WITHOUT_PARAMETERS = {"Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"}
_LONGEST = 512
"""Steps unrolled at most: longer sequences would make graphs that onnxruntime takes minutes to load."""


def unrolled(node: ir.Node, opset: int) -> onnx.ModelProto | None:
    """Return the layer as a graph from ``in0`` … to ``out0`` …, one of each per present input and output.

    None where it cannot be unrolled: weights or the length that the graph computes, clipped cells, activations with
    parameters, coupled gates.
    """
    arrays = [constant(node.inputs[i]) if i < len(node.inputs) else None for i in (1, 2, 3, 7)]
    length = _length(node)
    direction = node.attributes.get_string("direction", "forward")
    reversals = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    names = node.attributes.get_strings("activations", _ACTIVATIONS[node.op_type] * len(reversals))
    if (
        arrays[0] is None
        or arrays[1] is None
        or any(has_input(node, i) and array is None for i, array in ((3, arrays[2]), (7, arrays[3])))
        or length is None
        or not set(names) <= _WITHOUT_PARAMETERS
        or "clip" in node.attributes
        or node.attributes.get_int("input_forget", 0) != 0
        or node.attributes.get_int("layout", 0) != 0
    ):
        return None
    body = _Body(node, opset, arrays[1].shape[2])
    per_direction = len(names) // len(reversals)
    for index, backward in enumerate(reversals):
        own = [array[index] if array is not None else None for array in arrays[2:]]
        functions = names[index * per_direction : (index + 1) * per_direction]
        body.direction(index, arrays[0][index], arrays[1][index], own, functions, length, backward)
    return body.model()


def _length(node: ir.Node) -> int | None:
    x = node.inputs[0]
    length = x.shape[0] if x is not None and x.shape is not None else None
    return length if isinstance(length, int) and 0 < length <= _LONGEST else None


class _Body:
    """The unrolled graph while it is written; every state has shape (1, N, hidden)."""

    def __init__(self, node: ir.Node, opset: int, hidden: int) -> None:
        self.node = node
        self.opset = opset
        self.hidden = hidden
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs = {i: f"in{i}" for i, value in enumerate(node.inputs) if value is not None}
        self.sequences: list[list[str]] = []
        self.last: list[list[str]] = []

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def const(self, array: np.ndarray[Any, Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def gates(self, value: str, count: int) -> list[str]:
        """Split (1, N, count · hidden)."""
        hidden = self.hidden
        names = [f"v{len(self.nodes)}.{k}" for k in range(count)]
        if self.opset >= 13:
            sizes = self.const(np.full(count, hidden, np.int64))
            self.nodes.append(helper.make_node("Split", [value, sizes], names, axis=2))
        else:
            self.nodes.append(helper.make_node("Split", [value], names, axis=2, split=[hidden] * count))
        return names

    def direction(
        self,
        index: int,
        w: np.ndarray[Any, Any],
        r: np.ndarray[Any, Any],
        further: Sequence[np.ndarray[Any, Any] | None],
        activations: Sequence[str],
        length: int,
        backward: bool,  # noqa: FBT001
    ) -> None:
        bias, peepholes = further
        bias = np.zeros(2 * len(r), r.dtype) if bias is None else bias
        moved = self.op("MatMul", "in0", self.const(w.T))
        step = {"RNN": self.rnn, "GRU": self.gru, "LSTM": self.lstm}[self.node.op_type]
        advance = step(r, bias, peepholes, activations)
        states = [
            self.op("Gather", self.inputs[i], self.const(np.array([index])), axis=0) if i in self.inputs else ""
            for i in ((5, 6) if self.node.op_type == "LSTM" else (5,))
        ]
        outputs = [""] * length
        zero = self.const(np.zeros((1, 1, self.hidden), r.dtype))
        for t in reversed(range(length)) if backward else range(length):
            new = advance(self.op("Gather", moved, self.const(np.array([t])), axis=0), states)
            outputs[t] = new[0]
            if 4 in self.inputs:
                present = self.op("Less", self.const(np.array([t], np.int32)), self.inputs[4])
                present = self.op("Reshape", present, self.const(np.array([1, -1, 1])))
                outputs[t] = self.op("Where", present, new[0], zero)
                new = [self.op("Where", present, a, b or zero) for a, b in zip(new, states, strict=True)]
            states = new
        self.sequences.append(outputs)
        self.last.append(states)

    def rnn(self, r: Any, bias: Any, _p: Any, activations: Sequence[str]) -> Callable[[str, list[str]], list[str]]:
        weight, offset = self.const(r.T), self.const(bias[: len(r)] + bias[len(r) :])

        def advance(x: str, states: list[str]) -> list[str]:
            x = self.op("Add", x, offset)
            if states[0]:
                x = self.op("Add", x, self.op("MatMul", states[0], weight))
            return [self.op(activations[0], x)]

        return advance

    def gru(self, r: Any, bias: Any, _p: Any, activations: Sequence[str]) -> Callable[[str, list[str]], list[str]]:
        hidden = self.hidden
        after = bool(self.node.attributes.get_int("linear_before_reset", 0))
        of_x, of_h = bias[: 3 * hidden].copy(), bias[3 * hidden :].copy()
        of_x[: 2 * hidden] += of_h[: 2 * hidden]
        if not after:
            of_x[2 * hidden :] += of_h[2 * hidden :]
        offset, inner = self.const(of_x), self.const(of_h[2 * hidden :])
        gates, candidate = self.const(r[: 2 * hidden].T), self.const(r[2 * hidden :].T)
        one = self.const(np.array(1, r.dtype))

        def advance(x: str, states: list[str]) -> list[str]:
            (h,) = states
            z, reset, new = self.gates(self.op("Add", x, offset), 3)
            if h:
                of_z, of_reset = self.gates(self.op("MatMul", h, gates), 2)
                z, reset = self.op("Add", z, of_z), self.op("Add", reset, of_reset)
            z, reset = self.op(activations[0], z), self.op(activations[0], reset)
            if after:
                past = self.op("Add", self.op("MatMul", h, candidate), inner) if h else inner
                new = self.op("Add", new, self.op("Mul", reset, past))
            elif h:
                new = self.op("Add", new, self.op("MatMul", self.op("Mul", reset, h), candidate))
            new = self.op("Mul", self.op("Sub", one, z), self.op(activations[1], new))
            return [self.op("Add", new, self.op("Mul", z, h)) if h else new]

        return advance

    def lstm(self, r: Any, bias: Any, p: Any, activations: Sequence[str]) -> Callable[[str, list[str]], list[str]]:
        weight, offset = self.const(r.T), self.const(bias[: len(r)] + bias[len(r) :])
        peepholes = [self.const(part) for part in np.split(p, 3)] if p is not None else None

        def peep(gate: str, k: int, cell: str) -> str:
            return self.op("Add", gate, self.op("Mul", peepholes[k], cell)) if peepholes and cell else gate

        def advance(x: str, states: list[str]) -> list[str]:
            h, cell = states
            x = self.op("Add", x, offset)
            if h:
                x = self.op("Add", x, self.op("MatMul", h, weight))
            i, o, f, new = self.gates(x, 4)
            i, f = self.op(activations[0], peep(i, 0, cell)), self.op(activations[0], peep(f, 2, cell))
            kept = self.op("Mul", f, cell) if cell else ""
            cell = self.op("Mul", i, self.op(activations[1], new))
            cell = self.op("Add", kept, cell) if kept else cell
            o = self.op(activations[0], peep(o, 1, cell))
            return [self.op("Mul", o, self.op(activations[2], cell)), cell]

        return advance

    def model(self) -> onnx.ModelProto:
        """Gather the directions: Y (T, directions, N, hidden), Y_h and Y_c (directions, N, hidden)."""
        node = self.node
        if node.outputs[0].name:
            shape = self.const(np.array([len(self.sequences[0]), 1, -1, self.hidden]))
            sides = [self.op("Reshape", self.op("Concat", *s, axis=0), shape) for s in self.sequences]
            self.nodes.append(helper.make_node("Concat", sides, ["out0"], axis=1))
        for k, value in enumerate(node.outputs[1:]):
            if value.name:
                states = [last[k] for last in self.last]
                self.nodes.append(helper.make_node("Concat", states, [f"out{k + 1}"], axis=0))
        used = {name for inner in self.nodes for name in inner.input}
        graph = helper.make_graph(
            self.nodes,
            "unrolled",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.inputs.values() if n in used],
            [
                helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, None)
                for i, value in enumerate(node.outputs)
                if value.name
            ],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


OPS = tuple(Op(name, body=unrolled) for name in _ACTIVATIONS)
