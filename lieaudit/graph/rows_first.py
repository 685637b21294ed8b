"""Where the images are in an output: (N, K) mostly, (T, N, K) for recognisers of text, (N · A, 4) for boxes.

It is found by running the graph on one image and on several, never guessed from names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.graph.names import PREFIX


@dataclass(frozen=True, slots=True)
class RowsFirst:
    """How an output becomes one row per image: reshaped (sizes but for the batch, −1), then one axis moved ahead."""

    sizes: tuple[int, ...]
    axis: int
    changes: bool

    def of(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return (n, *K) of an output of n images."""
        return np.moveaxis(output.reshape(self.sizes), self.axis, 0)

    def put(self, graph: ir.Graph) -> None:
        """Do it at the end of the graph, in place; nothing where the rows are first as they are."""
        if not self.changes:
            return
        output = graph.outputs[0]
        shape = ir.Value(name=f"{PREFIX}by_image_sizes", const_value=ir.tensor(np.array(self.sizes, np.int64)))
        shape.shape, shape.type = ir.Shape([len(self.sizes)]), ir.TensorType(ir.DataType.INT64)
        graph.register_initializer(shape)
        rest = [a for a in range(len(self.sizes)) if a != self.axis]
        nodes = [ir.node("Reshape", [output, shape], name=f"{PREFIX}by_image")]
        if self.axis:
            perm = {"perm": [self.axis, *rest]}
            nodes.append(ir.node("Transpose", [nodes[0].outputs[0]], perm, name=f"{PREFIX}images_first"))
        graph.extend(nodes)
        for node in nodes:
            node.outputs[0].name, node.outputs[0].type = f"{node.name}:0", output.type
        graph.outputs[:] = [nodes[-1].outputs[0]]


def rows_first(one: tuple[int, ...], several: tuple[int, ...], images: int) -> RowsFirst | None:
    """Read off the outputs' shapes of one image and of several where the images are; None where they are nowhere."""
    grown = [a for a, (size, more) in enumerate(zip(one, several, strict=False)) if size != more]
    if len(one) == len(several) and len(grown) == 1 and several[grown[0]] == images * one[grown[0]]:
        at, size = grown[0], one[grown[0]]
        if size == 1:
            return RowsFirst((*one[:at], -1, *one[at + 1 :]), at, changes=at > 0)
        return RowsFirst((*one[:at], -1, size, *one[at + 1 :]), at, changes=True)
    if several[:1] == (images,) and math.prod(one) == math.prod(several[1:]) > 0:
        return RowsFirst((-1, *several[1:]), 0, changes=True)  # axes of size 1 were squeezed, the batch among them
    return None


def one_first(one: tuple[int, ...]) -> RowsFirst:
    """Of a graph for one image: its first axis of size 1 is the batch; without any, all of the output is its row."""
    if 1 in one:
        at = one.index(1)
        return RowsFirst((*one[:at], 1, *one[at + 1 :]), at, changes=at > 0)
    return RowsFirst((1, *one), 0, changes=True)
