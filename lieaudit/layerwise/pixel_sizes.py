"""Which tensors follow the pixels, and of which even the size does: of a mask, of what is not zero, of boxes kept.

Sizes are measured on noise (`measure_shapes`). The size of a tensor that follows the pixels is another one on the next
image, whatever two runs on noise say, so that nothing may be concluded from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from lieaudit.graph.nodes import reads, subgraphs
from lieaudit.ops import ALL, is_op, lookup


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
        op = lookup(node)
        if op is not None and op.shape_only:
            follows = any(value in found.sizes for value in read)
        else:
            follows = any(value in found.values for value in read)
        if follows:
            found.values.update(node.outputs)
            if _sized(node, read, found):
                found.sizes.update(node.outputs)
    return found


def _sized(node: ir.Node, read: list[ir.Value], found: Followers) -> bool:
    if subgraphs(node):
        return True
    op = lookup(node)
    sized_by, shaped_by = (op.sized_by, op.shaped_by) if op is not None else ((), ALL)
    if any(value in found.values and i in sized_by for i, value in enumerate(node.inputs)):
        return True
    if is_op(node, "Shape", "Size") or _single(node.outputs[0]):
        return False
    own = [value for i, value in enumerate(node.inputs) if i not in shaped_by]
    return any(value in found.sizes for value in read if value not in own)


def _single(value: ir.Value) -> bool:
    """Whether a tensor is one number."""
    return value.shape is not None and len(value.shape) == 0
