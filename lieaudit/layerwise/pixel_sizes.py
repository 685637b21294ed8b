"""Which tensors follow the pixels, and of which even the size does: of a mask, of what is not zero, of boxes kept.

Sizes are measured on noise (`measure_shapes`). The size of a tensor that follows the pixels is another one on the next
image, whatever two runs on noise say, so that nothing may be concluded from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from lieaudit.graph.nodes import reads, subgraphs

_COUNTING = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
"""Ops whose output has as many entries as the values of their input say."""

_SIZING = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 4),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
"""Operands whose values decide the size of the output."""

_SIZED_BY_FIRST = {"ScatterElements", "ScatterND", "Scatter"}


@dataclass(slots=True)
class Followers:
    """Tensors of one graph that follow the pixels of the image.

    Attributes
    ----------
    values
        Those whose values do.
    sizes
        Those of which the size does.
    """

    values: set[ir.Value] = field(default_factory=set)
    sizes: set[ir.Value] = field(default_factory=set)


def followers(model: ir.Model) -> Followers:
    """Return what follows the pixels of the only input of a normalised graph."""
    found = Followers({model.graph.inputs[0]})
    for node in model.graph:
        read = reads(node)
        if node.op_type in {"Shape", "Size"}:
            follows = any(value in found.sizes for value in read)
        else:
            follows = any(value in found.values for value in read)
        if follows:
            found.values.update(node.outputs)
            if _sized(node, read, found):
                found.sizes.update(node.outputs)
    return found


def _sized(node: ir.Node, read: list[ir.Value], found: Followers) -> bool:
    if node.op_type in _COUNTING or subgraphs(node):
        return True
    operands = _SIZING.get(node.op_type, ())
    if any(i < len(node.inputs) and node.inputs[i] in found.values for i in operands):
        return True
    if node.op_type in {"Shape", "Size"} or _single(node.outputs[0]):
        return False
    if node.op_type in _SIZED_BY_FIRST:
        read = read[:1]
    return any(value in found.sizes for value in read)


def _single(value: ir.Value) -> bool:
    """Whether a tensor is one number."""
    return value.shape is not None and len(value.shape) == 0
