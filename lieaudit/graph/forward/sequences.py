"""Sequences and optionals resolved into the tensors that they hold.

Exporters split a tensor into a sequence, take elements at places that are known, and join them again. Where every
place and length is a constant, a sequence is a list that exists only while the graph is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.graph.forward.folding import fold_constants
from lieaudit.graph.forward.graphs import new_constant
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.inference import infer_shapes
from lieaudit.graph.nodes import constant

_EMPTY = None
"""An optional that holds nothing."""

Held = list[ir.Value] | ir.Value | None
"""What a sequence or an optional holds: its tensors in order, one tensor, or `_EMPTY`."""


def resolve_sequences(model: ir.Model) -> bool:
    """Replace reads of sequences and optionals of the main graph by the tensors read, in place.

    What cannot be resolved stays: a place that the image decides, a sequence that a loop carries.

    Returns
    -------
    bool
        Whether anything was replaced.
    """
    if not any(node.op_type in _OPS and not node.domain for node in model.graph):
        return False
    resolved = False
    _settle(model)
    while _Reader(model).read():
        _settle(model)  # lengths and places may follow from what was resolved
        resolved = True
    return resolved


def _settle(model: ir.Model) -> None:
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    fold_constants(model)
    infer_shapes(model)


class _Reader:
    """One reading of a graph from its first node to its last."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.pixel_sized = followers(model).sizes
        self.held: dict[ir.Value, Held] = {}
        self.changed = False

    def read(self) -> bool:
        """Read every node; say whether one was replaced."""
        for node in list(self.graph):
            own = _OPS.get(node.op_type) if not node.domain else None
            if own is not None:
                own(self, node)
            elif node.op_type == "Identity" and node.inputs[0] in self.held:
                self.held[node.outputs[0]] = self.held[node.inputs[0]]
        return self.changed

    # ---- making sequences and optionals ---------------------------------------------------------------------------

    def empty(self, node: ir.Node) -> None:
        """SequenceEmpty."""
        self.held[node.outputs[0]] = []

    def construct(self, node: ir.Node) -> None:
        """SequenceConstruct."""
        self.held[node.outputs[0]] = [value for value in node.inputs if value is not None]

    def split(self, node: ir.Node) -> None:
        """SplitToSequence: parts of stated sizes, of one size with a shorter last one, or single slices."""
        x = node.inputs[0]
        if x is None or not node.outputs[0].uses():
            return
        axis = node.attributes.get_int("axis", 0)
        sizes = _sizes(node, x, axis, fixed=x not in self.pixel_sized)
        if sizes is None:
            return
        if (len(node.inputs) > 1 and node.inputs[1] is not None) or node.attributes.get_int("keepdims", default=True):
            self.held[node.outputs[0]] = self._parts(node, x, sizes, axis)
        else:
            indices = [self._constant(node, np.array(k, np.int64)) for k in range(len(sizes))]
            self.held[node.outputs[0]] = [self._insert(node, "Gather", [x, index], axis=axis) for index in indices]

    def insert(self, node: ir.Node) -> None:
        """SequenceInsert: at the end where no place is given."""
        held = self._list(node)
        tensor = node.inputs[1]
        place = _place(node, 2, default=len(held) if held is not None else 0)
        if held is not None and tensor is not None and place is not None:
            at = place + len(held) if place < 0 else place
            self.held[node.outputs[0]] = [*held[:at], tensor, *held[at:]]

    def erase(self, node: ir.Node) -> None:
        """SequenceErase: the last one where no place is given."""
        held, place = self._list(node), _place(node, 1, default=-1)
        if held and place is not None and -len(held) <= place < len(held):
            rest = list(held)
            del rest[place]
            self.held[node.outputs[0]] = rest

    def optional(self, node: ir.Node) -> None:
        """Note an Optional of a tensor, of a sequence, or of nothing."""
        value = node.inputs[0] if node.inputs else None
        self.held[node.outputs[0]] = _EMPTY if value is None else self.held.get(value, value)

    # ---- reading them ---------------------------------------------------------------------------------------------

    def at(self, node: ir.Node) -> None:
        """SequenceAt."""
        held, place = self._list(node), _place(node, 1)
        if held and place is not None and -len(held) <= place < len(held):
            self._replace(node, held[place])

    def length(self, node: ir.Node) -> None:
        """SequenceLength."""
        held = self._list(node)
        if held is not None:
            self._replace(node, self._constant(node, np.array(len(held), np.int64)))

    def concat(self, node: ir.Node) -> None:
        """ConcatFromSequence: along an axis, or a new one."""
        held = self._list(node)
        if not held:
            return
        axis = node.attributes["axis"].as_int()
        if node.attributes.get_int("new_axis", 0):
            axes = self._constant(node, np.array([axis], np.int64))
            thirteen = self.graph.opset_imports[""] >= 13
            held = [
                self._insert(node, "Unsqueeze", [value, axes])
                if thirteen
                else self._insert(node, "Unsqueeze", [value], axes=[axis])
                for value in held
            ]
        self._replace(node, self._insert(node, "Concat", held, axis=axis))

    def element(self, node: ir.Node) -> None:
        """OptionalGetElement: since opset 18 also of what is no optional."""
        value = node.inputs[0]
        if value is None:
            return
        held = self.held.get(value, value if isinstance(value.type, ir.TensorType) else _EMPTY)
        if isinstance(held, ir.Value):
            self._replace(node, held)
        elif held is not _EMPTY:
            self.held[node.outputs[0]] = held

    def has_element(self, node: ir.Node) -> None:
        """OptionalHasElement."""
        value = node.inputs[0] if node.inputs else None
        if value is None or value in self.held or isinstance(value.type, ir.TensorType | ir.SequenceType):
            holds = value is not None and self.held.get(value, value) is not _EMPTY
            self._replace(node, self._constant(node, np.array(holds)))

    # ---- writing --------------------------------------------------------------------------------------------------

    def _list(self, node: ir.Node) -> list[ir.Value] | None:
        held = self.held.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        return held if isinstance(held, list) else None

    def _parts(self, node: ir.Node, x: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        if len(sizes) == 1:
            return [x]
        attributes: dict[str, int | list[int]] = {"axis": axis}
        inputs = [x]
        if self.graph.opset_imports[""] >= 13:
            inputs.append(self._constant(node, np.array(sizes, np.int64)))
        else:
            attributes["split"] = list(sizes)
        made = ir.node("Split", inputs, attributes, num_outputs=len(sizes), name=f"{node.outputs[0].name}.parts")
        for k, value in enumerate(made.outputs):
            value.name, value.type = f"{node.outputs[0].name}.{k}", x.type
        self.graph.insert_before(node, made)
        return list(made.outputs)

    def _insert(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value], **attributes: int | list[int]
    ) -> ir.Value:
        name = f"{node.outputs[0].name}.{op_type}_{self.graph.num_nodes()}"
        made = ir.node(op_type, list(inputs), attributes or None, name=name)
        made.outputs[0].name, made.outputs[0].type = f"{name}:0", inputs[0].type
        self.graph.insert_before(node, made)
        return made.outputs[0]

    def _constant(self, node: ir.Node, array: np.ndarray) -> ir.Value:
        return new_constant(self.graph, array, f"{node.outputs[0].name}.place")

    def _replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let what reads a node's output read a tensor instead."""
        output = node.outputs[0]
        if output.is_graph_output():
            name = output.name
            same = self._insert(node, "Identity", [value])
            ir.convenience.replace_all_uses_with(output, same, replace_graph_outputs=True)
            output.name, same.name = f"{name}.replaced", name
            same.shape = output.shape
        elif output.uses():
            output.replace_all_uses_with(value)
        else:
            return
        self.changed = True


def _sizes(node: ir.Node, x: ir.Value, axis: int, *, fixed: bool) -> list[int] | None:
    """Give the sizes of the parts of a SplitToSequence where they are known; ``fixed``: x's own is."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    stated = constant(given)
    if given is not None and stated is None:
        return None
    if stated is not None and stated.ndim == 1:
        return [int(size) for size in stated]
    total = x.shape[axis] if x.shape is not None else None
    if not fixed or not isinstance(total, int):
        return None
    size = 1 if stated is None else int(stated)
    return [min(size, total - start) for start in range(0, total, size)] if size > 0 else None


def _place(node: ir.Node, index: int, default: int | None = None) -> int | None:
    """Give a constant place; the default where none is given, None where the graph computes it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    place = constant(value)
    return None if place is None else int(place.reshape(-1)[0])


_OPS: dict[str, Callable[[_Reader, ir.Node], None]] = {
    "ConcatFromSequence": _Reader.concat,
    "Optional": _Reader.optional,
    "OptionalGetElement": _Reader.element,
    "OptionalHasElement": _Reader.has_element,
    "SequenceAt": _Reader.at,
    "SequenceConstruct": _Reader.construct,
    "SequenceEmpty": _Reader.empty,
    "SequenceErase": _Reader.erase,
    "SequenceInsert": _Reader.insert,
    "SequenceLength": _Reader.length,
    "SplitToSequence": _Reader.split,
}
