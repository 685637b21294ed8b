"""Peak memory of a rewritten graph.

onnxruntime runs values and tangents in the order of its own topological sort, often all values first. So a tensor of
values that a tangent needs counts as alive all the time; the rest lives from its producer to its last consumer in
graph order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx_ir as ir

from lieaudit.autodiff.sizes import Dims, size_of
from lieaudit.ops import is_op, lookup

_DEFAULT_BYTES = 4
OVERHEAD = 1.6
"""What onnxruntime's arena holds over what is alive (rounding, fragments); measured on
residual networks, transformers and dense models, see tests/forward/test_memory.py."""


def peak_bytes(
    model: ir.Model, extents: Mapping[str, Dims], tangents_in: Collection[str], images: int, directions: int
) -> int:
    """Return the most bytes of activations that are alive at once, with the copies of the outputs.

    Parameters
    ----------
    extents
        Sizes of the tensors by name, with the symbols ``N`` and ``D``; tensors that are missing are small.
    tangents_in
        Names of the inputs that are tangents.
    """
    graph = model.graph
    root: dict[ir.Value, ir.Value] = {}
    sizes: dict[ir.Value, int] = {}
    last: dict[ir.Value, int] = {}
    order = list(graph)
    for value in graph.inputs:
        root[value] = value
        sizes[value] = _bytes(value, extents, images, directions)
    for position, node in enumerate(order):
        for read in node.inputs:
            if read is not None and read in root:
                last[root[read]] = position
        for value in node.outputs:
            op = lookup(node)
            source = node.inputs[0] if op is not None and op.view and node.inputs else None
            if source is not None and source in root:
                root[value] = root[source]
            else:
                root[value] = value
                sizes[value] = _bytes(value, extents, images, directions)
                last.setdefault(value, position)
    for value in graph.outputs:
        if value in root:
            last[root[value]] = len(order)
    for value in _kept(model, tangents_in):
        last[root[value]] = len(order)
    freed = [0] * (len(order) + 1)
    for value, position in last.items():
        freed[position] += sizes[value]
    live = peak = sum(sizes[value] for value in graph.inputs)
    for position, node in enumerate(order):
        live += sum(sizes.get(value, 0) for value in node.outputs)
        peak = max(peak, live + _workspace(node, sizes, root))
        live -= freed[position]
    # What the caller gets is a copy, while the arena still holds all it ever held: much where outputs are maps.
    return peak + sum(sizes.get(value, 0) for value in graph.outputs)


def _workspace(node: ir.Node, sizes: Mapping[ir.Value, int], root: Mapping[ir.Value, ir.Value]) -> int:
    """Return what a node holds while it runs: a convolution, copies of what it reads and writes in another layout."""
    if not is_op(node, "Conv", "ConvTranspose"):
        return 0
    read = node.inputs[0]
    return sizes.get(root.get(read, read), 0) + sizes.get(node.outputs[0], 0) if read is not None else 0


def _kept(model: ir.Model, tangents_in: Collection[str]) -> set[ir.Value]:
    """Return the values that nodes on the side of the tangents read."""
    graph = model.graph
    moving = {value for value in graph.inputs if value.name in tangents_in}
    kept: set[ir.Value] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None and not value.is_initializer()]
        op = lookup(node)
        if not (op is not None and op.shape_only) and any(value in moving for value in read):
            moving.update(node.outputs)
            kept.update(value for value in read if value not in moving)
    return kept


def _bytes(value: ir.Value, extents: Mapping[str, Dims], images: int, directions: int) -> int:
    dims = extents.get(value.name or "")
    if dims is None:
        return 0
    itemsize = int(value.dtype.itemsize) if value.dtype is not None else _DEFAULT_BYTES
    return itemsize * math.prod(size_of(size, images, directions) for size in dims)
