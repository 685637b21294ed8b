"""Putting what the table writes onnxruntime's own ops as (`Op.expansion`) in their nodes' places."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir

from lieaudit.graph.forward.graphs import lift_opset, splice
from lieaudit.graph.inference import infer_shapes
from lieaudit.ops import lookup
from lieaudit.ops.body import Body, Expansion, NotCovered, ShapeNeeded


def expand(model: ir.Model) -> Counter[str]:
    """Write out every op of the main graph that has an expansion, in place.

    Shapes are inferred as the graph becomes readable, where a form depends on them. Opsets 7 and 8 are lifted to 9.

    Returns
    -------
    Counter
        The op types written out, and how many of each.
    """
    done: Counter[str] = Counter()
    graph = model.graph
    while waiting := [node for node in graph if is_fused(node, graph)]:
        lift_opset(graph)
        written = [node.op_type for node in waiting if _write(graph, node)]
        done.update(written)
        if not written and not _learned(model, waiting):
            break
    return done


def is_fused(node: ir.Node, graph: ir.Graph) -> bool:
    """Say whether a node has an expansion and is not an op of the standard, at the graph's opset."""
    return _expansion(node, graph) is not None


def _expansion(node: ir.Node, graph: ir.Graph) -> Expansion | None:
    op = lookup(node)
    if op is None or op.expansion is None or (not op.domain and known(op.name, graph.opset_imports.get("", 1))):
        return None
    return op.expansion


def known(op_type: str, opset: int) -> bool:
    """Say whether the standard has an op at an opset."""
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _write(graph: ir.Graph, node: ir.Node) -> bool:
    body, expansion = Body(node, graph.opset_imports[""]), _expansion(node, graph)
    if expansion is None:
        return False
    try:
        expansion(body)
    except NotCovered:
        return False
    inputs = {f"in{i}": value for i, value in enumerate(node.inputs) if value is not None}
    splice(graph, node, ir.from_proto(body.model()).graph, inputs)
    return True


def _learned(model: ir.Model, waiting: list[ir.Node]) -> bool:
    """Infer shapes; say whether one of the waiting nodes needs them and now has one that it lacked."""
    needing = [node for node in waiting if _needs_shapes(node, model.graph)]
    values = [value for node in needing for value in node.inputs if value is not None]
    if not values:
        return False
    before = [value.shape for value in values]
    infer_shapes(model)
    return before != [value.shape for value in values]


def _needs_shapes(node: ir.Node, graph: ir.Graph) -> bool:
    expansion = _expansion(node, graph)
    if expansion is None:
        return False
    try:
        expansion(Body(node, graph.opset_imports[""]))
    except ShapeNeeded:
        return True
    except NotCovered:
        return False
    return False
