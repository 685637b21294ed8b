"""What is known of the axes and values of the tensors of one graph, while and after they are tracked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from lieaudit.layouts.axes import BATCH, Axes, plain, size_of


@dataclass(slots=True)
class Tracker:
    """What is known of the tensors of one graph.

    Attributes
    ----------
    axes
        Axes of every tensor whose sizes are known.
    dependent
        Tensors that depend on the pixels of the image, not only on its shape.
    pixel_sized
        Tensors whose very size depends on the pixels.
    holders
        The node of the graph in which each node lies, those in branches and bodies included.
    integers
        Values of small integer tensors that do not depend on the batch size.
    """

    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    dependent: set[ir.Value] = field(default_factory=set)
    pixel_sized: set[ir.Value] = field(default_factory=set)
    holders: Mapping[ir.Node, ir.Node] = field(default_factory=dict)
    integers: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def sizes(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the measured sizes with `BATCH` for the batch; None where one is not a multiple of it."""
        if value is None:
            return None
        if value in self.axes:
            return tuple(size_of(axis) for axis in self.axes[value])
        return measured_sizes(value)

    def of(self, value: ir.Value | None) -> Axes | None:
        """Return the axes of a tensor; of a constant, free ones."""
        if value is None:
            return None
        if value in self.axes:
            return self.axes[value]
        sizes = self.sizes(value)
        if sizes is None:
            return None
        role = "unknown" if value in self.dependent else "free"
        return tuple(plain(role, size) for size in sizes)

    def ints(self, node: ir.Node, name: str, index: int | None = None) -> list[int] | None:
        """Return integers that are an attribute in old opsets and an input in new ones; None if absent or computed."""
        if name in node.attributes:
            value = node.attributes[name].value
            return [int(value)] if isinstance(value, int) else [int(v) for v in value]
        if index is None or index >= len(node.inputs):
            return None
        array = self.constant(node.inputs[index])
        return None if array is None else [int(v) for v in array.reshape(-1)]

    def constant(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """Return the value of an initializer, Constant, or integer tensor that does not depend on the batch."""
        if value is None:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tensor.numpy()
        return self.integers.get(value.name or "")

    def readers(self, value: ir.Value) -> list[ir.Node]:
        """Return the nodes that read a tensor, themselves or in a branch or body."""
        return list(dict.fromkeys(self.holders[node] for node, _ in value.uses() if node in self.holders))

    def varies(self, value: ir.Value | None) -> bool:
        """Say whether a tensor depends on the pixels."""
        return value is not None and value in self.dependent


def measured_sizes(value: ir.Value) -> tuple[int, ...] | None:
    """Return the sizes that `measure_shapes` set, multiples of the batch as multiples of `BATCH`."""
    if value.shape is None:
        return None
    sizes = []
    for size in value.shape:
        if isinstance(size, int):
            sizes.append(size)
            continue
        text = str(size.value)
        if not text.endswith("N") or not (text[:-1].isdigit() or text == "N"):
            return None
        sizes.append(int(text[:-1] or "1") * BATCH)
    return tuple(sizes)
