"""Ops of sequences and optionals, followed to the tensors that these hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lieaudit.graph.nodes import constant
from lieaudit.ops.held import EMPTY, Reader
from lieaudit.ops.op import Op


def _empty(reader: Reader, node: ir.Node) -> None:
    """SequenceEmpty."""
    reader.held[node.outputs[0]] = []


def _construct(reader: Reader, node: ir.Node) -> None:
    """SequenceConstruct."""
    reader.held[node.outputs[0]] = [value for value in node.inputs if value is not None]


def _split(reader: Reader, node: ir.Node) -> None:
    """SplitToSequence: parts of stated sizes, of one size with a shorter last one, or single slices."""
    x = node.inputs[0]
    if x is None or not node.outputs[0].uses():
        return
    axis = node.attributes.get_int("axis", 0)
    sizes = _sizes(node, x, axis, fixed=x not in reader.pixel_sized)
    if sizes is None:
        return
    if (len(node.inputs) > 1 and node.inputs[1] is not None) or node.attributes.get_int("keepdims", default=True):
        reader.held[node.outputs[0]] = _parts(reader, node, x, sizes, axis)
    else:
        indices = [reader.constant(node, np.array(k, np.int64)) for k in range(len(sizes))]
        reader.held[node.outputs[0]] = [reader.insert(node, "Gather", [x, index], axis=axis) for index in indices]


def _insert(reader: Reader, node: ir.Node) -> None:
    """SequenceInsert: at the end where no place is given."""
    held = reader.sequence(node)
    tensor = node.inputs[1]
    place = _place(node, 2, default=len(held) if held is not None else 0)
    if held is not None and tensor is not None and place is not None:
        at = place + len(held) if place < 0 else place
        reader.held[node.outputs[0]] = [*held[:at], tensor, *held[at:]]


def _erase(reader: Reader, node: ir.Node) -> None:
    """SequenceErase: the last one where no place is given."""
    held, place = reader.sequence(node), _place(node, 1, default=-1)
    if held and place is not None and -len(held) <= place < len(held):
        rest = list(held)
        del rest[place]
        reader.held[node.outputs[0]] = rest


def _optional(reader: Reader, node: ir.Node) -> None:
    """Note an Optional of a tensor, of a sequence, or of nothing."""
    value = node.inputs[0] if node.inputs else None
    reader.held[node.outputs[0]] = EMPTY if value is None else reader.held.get(value, value)


def _at(reader: Reader, node: ir.Node) -> None:
    """SequenceAt."""
    held, place = reader.sequence(node), _place(node, 1)
    if held and place is not None and -len(held) <= place < len(held):
        reader.replace(node, held[place])


def _length(reader: Reader, node: ir.Node) -> None:
    """SequenceLength."""
    held = reader.sequence(node)
    if held is not None:
        reader.replace(node, reader.constant(node, np.array(len(held), np.int64)))


def _concat(reader: Reader, node: ir.Node) -> None:
    """ConcatFromSequence: along an axis, or a new one."""
    held = reader.sequence(node)
    if not held:
        return
    axis = node.attributes["axis"].as_int()
    if node.attributes.get_int("new_axis", 0):
        axes = reader.constant(node, np.array([axis], np.int64))
        thirteen = reader.graph.opset_imports[""] >= 13
        held = [
            reader.insert(node, "Unsqueeze", [value, axes])
            if thirteen
            else reader.insert(node, "Unsqueeze", [value], axes=[axis])
            for value in held
        ]
    reader.replace(node, reader.insert(node, "Concat", held, axis=axis))


def _element(reader: Reader, node: ir.Node) -> None:
    """OptionalGetElement: since opset 18 also of what is no optional."""
    value = node.inputs[0]
    if value is None:
        return
    held = reader.held.get(value, value if isinstance(value.type, ir.TensorType) else EMPTY)
    if isinstance(held, ir.Value):
        reader.replace(node, held)
    elif held is not EMPTY:
        reader.held[node.outputs[0]] = held


def _has_element(reader: Reader, node: ir.Node) -> None:
    """OptionalHasElement."""
    value = node.inputs[0] if node.inputs else None
    if value is None or value in reader.held or isinstance(value.type, ir.TensorType | ir.SequenceType):
        holds = value is not None and reader.held.get(value, value) is not EMPTY
        reader.replace(node, reader.constant(node, np.array(holds)))


def _parts(reader: Reader, node: ir.Node, x: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
    if len(sizes) == 1:
        return [x]
    attributes: dict[str, int | list[int]] = {"axis": axis}
    inputs = [x]
    if reader.graph.opset_imports[""] >= 13:
        inputs.append(reader.constant(node, np.array(sizes, np.int64)))
    else:
        attributes["split"] = list(sizes)
    # a later reading may cut the same tensor again, for what was not resolved before
    name = f"{node.outputs[0].name}.parts_{reader.graph.num_nodes()}"
    made = ir.node("Split", inputs, attributes, num_outputs=len(sizes), name=name)
    for k, value in enumerate(made.outputs):
        value.name, value.type = f"{name}.{k}", x.type
    reader.graph.insert_before(node, made)
    return list(made.outputs)


def _sizes(node: ir.Node, x: ir.Value, axis: int, *, fixed: bool) -> list[int] | None:
    """Return the sizes of the parts of a SplitToSequence where they are known; ``fixed``: x's own is."""
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
    """Return a constant place; the default where none is given, None where the graph computes it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    place = constant(value)
    return None if place is None else int(place.reshape(-1)[0])


OPS = (
    Op("ConcatFromSequence", resolve=_concat),
    Op("Optional", resolve=_optional, makes="optional"),
    Op("OptionalGetElement", resolve=_element),
    Op("OptionalHasElement", resolve=_has_element),
    Op("SequenceAt", resolve=_at, sized_by=(1,)),
    Op("SequenceConstruct", resolve=_construct, makes="sequence"),
    Op("SequenceEmpty", resolve=_empty, makes="sequence"),
    Op("SequenceErase", resolve=_erase, makes="sequence", sized_by=(1,)),
    Op("SequenceInsert", resolve=_insert, makes="sequence", sized_by=(2,)),
    Op("SequenceLength", resolve=_length),
    Op("SplitToSequence", resolve=_split, makes="sequence", sized_by=(1,)),
    Op("SequenceMap", makes="sequence"),
)
