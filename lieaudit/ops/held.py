"""What sequences and optionals hold while a graph is read, and how reads of them are replaced.

Exporters split a tensor into a sequence, take elements at places that are known, and join them again. Where every
place and length is a constant, a sequence is a list that exists only while the graph is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_ir as ir

from lieaudit.graph.nodes import new_constant

EMPTY = None
"""An optional that holds nothing."""

Held = list[ir.Value] | ir.Value | None
"""What a sequence or an optional holds: its tensors in order, one tensor, or `EMPTY`."""


class Reader:
    """One reading of a graph from its first node to its last.

    Attributes
    ----------
    graph
        The graph, which is changed in place.
    pixel_sized
        Tensors whose size follows the pixels.
    held
        What every sequence and optional holds, as far as it is known.
    changed
        Whether a read was replaced.
    """

    def __init__(self, graph: ir.Graph, pixel_sized: Collection[ir.Value]) -> None:
        self.graph = graph
        self.pixel_sized = pixel_sized
        self.held: dict[ir.Value, Held] = {}
        self.changed = False

    def sequence(self, node: ir.Node) -> list[ir.Value] | None:
        """Return what the sequence that a node reads first holds, where it is known."""
        held = self.held.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        return held if isinstance(held, list) else None

    def insert(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value], **attributes: int | list[int]
    ) -> ir.Value:
        """Put a node of one output before another."""
        name = f"{node.outputs[0].name}.{op_type}_{self.graph.num_nodes()}"
        made = ir.node(op_type, list(inputs), attributes or None, name=name)
        made.outputs[0].name, made.outputs[0].type = f"{name}:0", inputs[0].type
        self.graph.insert_before(node, made)
        return made.outputs[0]

    def constant(self, node: ir.Node, array: np.ndarray) -> ir.Value:
        """Register a constant that a node needs."""
        return new_constant(self.graph, array, f"{node.outputs[0].name}.place")

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let what reads a node's output read a tensor instead."""
        output = node.outputs[0]
        if output.is_graph_output():
            name = output.name
            same = self.insert(node, "Identity", [value])
            ir.convenience.replace_all_uses_with(output, same, replace_graph_outputs=True)
            output.name, same.name = f"{name}.replaced", name
            same.shape = output.shape
        elif output.uses():
            output.replace_all_uses_with(value)
        else:
            return
        self.changed = True


Resolve = Callable[[Reader, ir.Node], None]
"""Follows one node: notes what its output holds, or replaces a read."""
