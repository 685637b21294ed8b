"""Rearranging an output so that the image's height and width are its last two axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

OUTPUT = "lieaudit_map"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """(N, *K) reshaped to (N, *split), transposed by ``perm`` (the batch counted) and reshaped to (N, *shape)."""

    split: tuple[int, ...]
    perm: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def trivial(self) -> bool:
        """Whether it changes nothing."""
        return self.split == self.shape and list(self.perm) == sorted(self.perm)

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rearrange an array (n, *K)."""
        count = len(values)
        return values.reshape(count, *self.split).transpose(self.perm).reshape(count, *self.shape)

    def append(self, model: ir.Model) -> None:
        """Append it to a graph's only output, in place."""
        graph = model.graph
        current = graph.outputs[0]
        batch = graph.inputs[0].shape
        lead = batch[0] if batch is not None else "N"
        sizes = list(current.shape)[1:] if current.shape is not None else []
        if list(self.split) != sizes:
            current = _reshape(graph, current, self.split, "split")
        if list(self.perm) != sorted(self.perm):
            node = ir.node("Transpose", [current], {"perm": list(self.perm)}, name=f"{OUTPUT}.transpose")
            graph.append(node)
            current = node.outputs[0]
        if tuple(self.split[at - 1] for at in self.perm[1:]) != self.shape:
            current = _reshape(graph, current, self.shape, "shape")
        if current is not graph.outputs[0]:
            current.name = OUTPUT
        current.type = ir.TensorType(ir.DataType.FLOAT)
        current.shape = ir.Shape([lead, *self.shape])
        graph.outputs[:] = [current]


def _reshape(graph: ir.Graph, value: ir.Value, sizes: tuple[int, ...], name: str) -> ir.Value:
    target = ir.Value(name=f"{OUTPUT}.{name}", const_value=ir.tensor(np.array([-1, *sizes], np.int64)))
    target.shape, target.type = ir.Shape([len(sizes) + 1]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(target)
    node = ir.node("Reshape", [value, target], name=f"{OUTPUT}.to_{name}")
    graph.append(node)
    return node.outputs[0]
