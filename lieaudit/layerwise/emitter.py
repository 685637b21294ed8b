"""Appends nodes to a graph; equal nodes and constants are shared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class Emitter:
    """Appends nodes with one output each, named under a prefix that no other node has."""

    def __init__(self, graph: ir.Graph, *, opset: int, prefix: str = "action") -> None:
        self._graph = graph
        self._opset = opset
        self._prefix = prefix
        self._made: dict[tuple[object, ...], ir.Value] = {}
        self._serial = 0

    def op(self, op_type: str, *inputs: ir.Value, dtype: ir.DataType | None = None, **attributes: Any) -> ir.Value:
        """Append a node and give its output, of the dtype of its first input unless said otherwise."""
        key = (op_type, inputs, repr(sorted(attributes.items())))
        if key not in self._made:
            node = ir.node(op_type, inputs, attributes)
            self._serial += 1
            node.name = f"{self._prefix}/{op_type}_{self._serial}"
            value = node.outputs[0]
            kind = dtype or inputs[0].dtype
            value.name, value.type = f"{node.name}:0", ir.TensorType(kind) if kind is not None else None
            self._graph.append(node)
            self._made[key] = value
        return self._made[key]

    def const(self, array: npt.NDArray[Any]) -> ir.Value:
        """Return an initializer."""
        array = np.asarray(array, order="C")
        key = ("", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            self._serial += 1
            name = f"{self._prefix}/constant_{self._serial}"
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
            self._graph.register_initializer(value)
            self._made[key] = value
        return self._made[key]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """Return a 1-D int64 initializer."""
        return self.const(np.array(list(values), np.int64))

    def reshape(self, value: ir.Value, sizes: Iterable[int]) -> ir.Value:
        """Reshape; one size may be −1."""
        return self.op("Reshape", value, self.ints(sizes))

    def scaled(self, value: ir.Value, factor: float) -> ir.Value:
        """Multiply by a number."""
        return self.op("Mul", value, self.const(np.array(factor, np.float32)))

    def slice(self, value: ir.Value, start: int, end: int, axis: int) -> ir.Value:
        """Return entries start … end − 1 of an axis."""
        if self._opset >= 10:
            return self.op("Slice", value, self.ints([start]), self.ints([end]), self.ints([axis]))
        return self.op("Slice", value, starts=[start], ends=[end], axes=[axis])
