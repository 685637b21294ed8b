"""Tracks the axes of every tensor symbolically from the image input through the graph.

Sizes come from `measure_shapes`; roles only ever come from the ops in between. What an op does to a role that is not
known here makes it ``unknown``, and a tensor with an unknown axis is never taken for a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from lieaudit.layerwise.atoms import HEIGHT, WIDTH, Atom, Axes, coordinate, plain, size_of, unify

BATCH = 1_000_003
"""Stands for the symbolic batch size: a prime that no other size has as a factor."""

Rule = Callable[["Tracker", ir.Node], "list[Axes | None]"]
RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Register the rule of some op types."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[op_type] = function
        return function

    return register


@dataclass(slots=True)
class Tracker:
    """What is known of the tensors of one graph.

    Attributes
    ----------
    axes
        Axes of every tensor whose sizes are known.
    dependent
        Tensors that depend on the pixels of the image, not only on its shape.
    integers
        Values of small integer tensors that do not depend on the batch size.
    """

    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    dependent: set[ir.Value] = field(default_factory=set)
    integers: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def sizes(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Give the measured sizes with `BATCH` for the batch; None where one is not a multiple of it."""
        if value is None:
            return None
        if value in self.axes:
            return tuple(size_of(axis) for axis in self.axes[value])
        return measured_sizes(value)

    def of(self, value: ir.Value | None) -> Axes | None:
        """Give the axes of a tensor; of a constant, free ones."""
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
        """Give integers that are an attribute in old opsets and an input in new ones; None where absent or computed."""
        if name in node.attributes:
            value = node.attributes[name].value
            return [int(value)] if isinstance(value, int) else [int(v) for v in value]
        if index is None or index >= len(node.inputs):
            return None
        array = self.constant(node.inputs[index])
        return None if array is None else [int(v) for v in array.reshape(-1)]

    def constant(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """Give the value of an initializer, Constant, or integer tensor that does not depend on the batch."""
        if value is None:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tensor.numpy()
        return self.integers.get(value.name or "")

    def varies(self, value: ir.Value | None) -> bool:
        """Say whether a tensor depends on the pixels."""
        return value is not None and value in self.dependent


def measured_sizes(value: ir.Value) -> tuple[int, ...] | None:
    """Give the sizes that `measure_shapes` set, multiples of the batch as multiples of `BATCH`."""
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


def track(model: ir.Model, *, integers: Mapping[str, npt.NDArray[Any]], declared: Mapping[str, Axes]) -> Tracker:
    """Give the axes of every tensor of a normalised graph.

    Parameters
    ----------
    model
        One input (N, C, H, W); shapes measured by `lieaudit.graph.forward.shapes.measure_shapes`.
    integers
        Small integer tensors by name (`probe_integers`).
    declared
        Axes that the user states, by tensor name; they replace what was derived.
    """
    from lieaudit.layerwise import axis_rules

    axis_rules.load()
    tracker = Tracker(integers=integers)
    image = model.graph.inputs[0]
    sizes = measured_sizes(image)
    assert sizes is not None and len(sizes) == 4  # noqa: S101, PT018 - the normalised graph's contract
    batch: tuple[Atom, ...] = (Atom("batch", sizes[0]),) if sizes[0] > 1 else ()
    tracker.axes[image] = (
        batch,
        plain("channel", sizes[1]),
        coordinate(HEIGHT, sizes[2]),
        coordinate(WIDTH, sizes[3]),
    )
    if image.name in declared:
        tracker.axes[image] = declared[image.name or ""]
    tracker.dependent.add(image)
    for node in model.graph:
        _step(tracker, node, declared)
    return tracker


def _step(tracker: Tracker, node: ir.Node, declared: Mapping[str, Axes]) -> None:
    depends = node.op_type not in {"Shape", "Size"} and any(tracker.varies(value) for value in node.inputs)
    depends = depends or (node.op_type in {"If", "Loop", "Scan"} and _captures(node, tracker))
    if depends:
        tracker.dependent.update(node.outputs)
    made: list[Axes | None] = []
    if depends and node.op_type in RULES:
        made = RULES[node.op_type](tracker, node)
    for index, value in enumerate(node.outputs):
        if value.name in declared:
            tracker.axes[value] = declared[value.name or ""]
            continue
        axes = made[index] if index < len(made) else None
        sizes = measured_sizes(value)
        if axes is not None and (sizes is None or tuple(map(size_of, axes)) == sizes):
            tracker.axes[value] = axes
        elif sizes is not None:
            tracker.axes[value] = tuple(plain("unknown" if depends else "free", size) for size in sizes)


def _captures(node: ir.Node, tracker: Tracker) -> bool:
    graphs = [a.value for a in node.attributes.values() if isinstance(a.value, ir.Graph)]
    return any(tracker.varies(value) for graph in graphs for inner in graph for value in inner.inputs)


def broadcast(axes: list[Axes]) -> Axes:
    """Give the axes of an elementwise combination, aligned from the last axis."""
    rank = max(map(len, axes))
    out: Axes = ((),) * rank
    for operand in axes:
        padded = ((),) * (rank - len(operand)) + operand
        out = tuple(
            unify(a, b) if not a or not b or size_of(a) == size_of(b) else plain("unknown", max(size_of(a), size_of(b)))
            for a, b in zip(out, padded, strict=True)
        )
    return out
