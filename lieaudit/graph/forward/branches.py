"""Branches taken where every image goes the same way.

The condition of an If is a constant, or follows from sizes that are the same for every image and batch: exporters of
torch write ``squeeze(1)`` as the question whether that axis has size 1. A size that follows the pixels is no such size.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.graph.forward.folding import fold_constants
from lieaudit.graph.forward.graphs import inline_body
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.forward.shapes import MEASURED, measure_shapes
from lieaudit.graph.nodes import constant, new_constant
from lieaudit.ops import is_op


def take_branches(model: ir.Model) -> bool:
    """Inline the branch of every If of the main graph whose condition is known, in place; say whether any was."""
    graph = model.graph
    if not any(is_op(node, "If") for node in graph):
        return False
    if not _take(graph):
        measure_shapes(model)
        if not _settle_sizes(model):
            return False
        fold_constants(model)
        return _take(graph)
    return True


def _take(graph: ir.Graph) -> bool:
    taken = False
    for node in list(graph):
        condition = constant(node.inputs[0]) if is_op(node, "If") else None
        if condition is None:
            continue
        branch = node.attributes["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"].as_graph()
        outputs = inline_body(graph, node, branch, [], node.name or node.outputs[0].name or "branch")
        for old, new in zip(node.outputs, outputs, strict=True):
            if new.shape is None:
                new.shape, new.type = old.shape, old.type
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        graph.meta.pop(MEASURED, None)
        taken = True
    return taken


def _settle_sizes(model: ir.Model) -> bool:
    """Make constants of the measured sizes that a graph asks for, in place; say whether there were any.

    Sizes that follow the pixels stay: they were measured on noise, and are others on the next image.
    """
    graph = model.graph
    by_pixels = followers(model).values
    settled = False
    for node in list(graph):
        sizes = _asked(node) if by_pixels.isdisjoint(node.outputs) else None
        output = node.outputs[0] if node.outputs else None
        if sizes is None or output is None or output.is_graph_output() or not output.uses():
            continue
        output.replace_all_uses_with(new_constant(graph, sizes, f"{output.name}.settled"))
        settled = True
    return settled


def _asked(node: ir.Node) -> np.ndarray | None:
    """Return the sizes that a node gives where they are fixed: all of a Shape, or those gathered from one."""
    if is_op(node, "Shape"):
        sizes = _sizes(node)
        return None if sizes is None or None in sizes else np.array(sizes, np.int64)
    source = node.inputs[0].producer() if is_op(node, "Gather") and node.inputs[0] is not None else None
    index = constant(node.inputs[1]) if source is not None and is_op(source, "Shape") else None
    sizes = _sizes(source) if source is not None and index is not None else None
    if sizes is None or index is None or not np.all((-len(sizes) <= index) & (index < len(sizes))):
        return None
    gathered = [sizes[int(i)] for i in index.reshape(-1)]
    return None if None in gathered else np.array(gathered, np.int64).reshape(index.shape)


def _sizes(node: ir.Node) -> list[int | None] | None:
    """Return what a Shape gives, None where a size follows the batch."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return sizes[slice(start, end)]
