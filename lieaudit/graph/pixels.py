"""Reading an image input of integers as one of real pixels.

A model with its preprocessing inside takes uint8 and turns it into floats before it computes. From there on it is a
function of real numbers, and a moved image lies between the grey levels. Ops on the way that only move pixels do so
whatever their type; one that computes with integers has no derivative, and the model is refused with its name.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.errors import ModelError
from lieaudit.graph.names import called
from lieaudit.ops import is_op, lookup

INTEGERS = {
    ir.DataType.UINT8,
    ir.DataType.INT8,
    ir.DataType.UINT16,
    ir.DataType.INT16,
    ir.DataType.UINT32,
    ir.DataType.INT32,
    ir.DataType.UINT64,
    ir.DataType.INT64,
}


def range_of(image: ir.Value) -> tuple[int, int] | None:
    """Return the least and the greatest pixel of an integer image; None for one of floats."""
    if image.dtype not in INTEGERS:
        return None
    info = np.iinfo(image.dtype.numpy())
    return int(info.min), int(info.max)


def to_real(model: ir.Model, image: ir.Value) -> str:
    """Turn an integer image, and all that only moves its pixels, into float32, in place.

    Returns
    -------
    str
        What to say of it; empty where the image was one of floats.

    Raises
    ------
    ModelError
        INTEGER_PIXELS: an op computes with the integers.
    """
    dtype = image.dtype
    if dtype is None or dtype not in INTEGERS:
        return ""
    pixels = {image}
    for node in list(model.graph):
        if any(value in pixels for value in node.inputs):
            pixels.update(_read_real(node, pixels, dtype, image))
    for use in (use for value in pixels for use in value.uses()):
        if use.node.graph is not model.graph:
            raise _refused(image, use.node)
    for value in pixels:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return f"the {dtype.numpy()} image is audited as one of real numbers: pixels may lie between two grey levels"


def _read_real(node: ir.Node, pixels: set[ir.Value], dtype: ir.DataType, image: ir.Value) -> list[ir.Value]:
    """Let a node read real pixels; give those of its outputs that are pixels still."""
    own = [value in pixels for value in node.inputs]
    op = lookup(node)
    if op is not None and op.shape_only:
        return []
    if is_op(node, "Cast"):
        to = ir.DataType(node.attributes["to"].as_int())
        if to.is_floating_point():
            return []  # what follows is a function of real numbers
        if to in INTEGERS and _holds(to, dtype):
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)
            return [node.outputs[0]]
    if is_op(node, "DequantizeLinear") and own[0] and not any(own[1:]) and _is_single(node.inputs[1]):
        _dequantise(node)
        return []
    moved = all(own) if is_op(node, "Concat") else op is not None and op.copies and own[0] and not any(own[1:])
    if moved:
        return list(node.outputs)
    raise _refused(image, node)


def _holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Tell whether every value of one integer type is one of the other, so that a cast changes no pixel."""
    signed = [str(kind.numpy()).startswith("int") for kind in (wide, narrow)]
    bits = [kind.itemsize * 8 - sign for kind, sign in zip((wide, narrow), signed, strict=True)]
    return bits[0] >= bits[1] and (signed[0] or not signed[1])


def _is_single(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and all(size == 1 for size in value.shape)


def _dequantise(node: ir.Node) -> None:
    """Write out (x − zero point) · scale, which real pixels take too."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101 - it was met in one
    x, scale, *rest = node.inputs
    made = []
    if rest and rest[0] is not None:
        zero = ir.node("Cast", [rest[0]], {"to": ir.DataType.FLOAT.value}, name=f"{node.name}.zero_point")
        centred = ir.node("Sub", [x, zero.outputs[0]], name=f"{node.name}.centred")
        made += [zero, centred]
        x = centred.outputs[0]
    scaled = ir.node("Mul", [x, scale], name=f"{node.name}.scaled")
    graph.insert_before(node, [*made, scaled])
    output, name = node.outputs[0], node.outputs[0].name
    scaled.outputs[0].shape, scaled.outputs[0].type = output.shape, ir.TensorType(ir.DataType.FLOAT)
    output.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    scaled.outputs[0].name = name


def _refused(image: ir.Value, node: ir.Node) -> ModelError:
    kind = image.dtype.numpy() if image.dtype is not None else "integers"
    return ModelError(
        f"input {image.name!r} takes {kind}, and {called(node)} computes with the integers",
        reason="INTEGER_PIXELS",
        subject=node.name or node.op_type,
        hint="export the model with a float image input",
    )
