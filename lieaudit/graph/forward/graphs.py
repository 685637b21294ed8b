"""Small tools on onnx-ir nodes and subgraphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.errors import ModelError
from lieaudit.graph.names import ORIGIN, called
from lieaudit.graph.nodes import constant, new_constant
from lieaudit.ops import is_op


def with_inputs(node: ir.Node, mapping: Mapping[ir.Value, ir.Value], prefix: str) -> ir.Node:
    """Copy a node with other inputs, in its subgraphs as well; its outputs are named after the prefix."""
    attributes = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            attributes.append(ir.AttrGraph(attribute.name, _recaptured(attribute.as_graph(), mapping)))
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = [_recaptured(graph, mapping) for graph in attribute.as_graphs()]
            attributes.append(ir.AttrGraphs(attribute.name, graphs))
        else:
            attributes.append(attribute)
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else mapping.get(value, value) for value in node.inputs],
        attributes,
        overload=node.overload,
        num_outputs=len(node.outputs),
        name=f"{prefix}/{node.op_type}",
    )
    for i, (new, old) in enumerate(zip(copy.outputs, node.outputs, strict=True)):
        new.name, new.type, new.shape = f"{copy.name}:{i}" if old.name else "", old.type, old.shape
    return copy


def _recaptured(graph: ir.Graph, mapping: Mapping[ir.Value, ir.Value]) -> ir.Graph:
    copy = graph.clone(allow_outer_scope_values=True)
    for inner in ir.traversal.RecursiveGraphIterator(copy):
        for i, value in enumerate(inner.inputs):
            if value is not None and value in mapping:
                inner.replace_input_with(i, mapping[value])
    for i, value in enumerate(copy.outputs):
        if value in mapping:
            copy.outputs[i] = mapping[value]
    return copy


def initial(value: ir.Value) -> np.ndarray[Any, Any]:
    """Return the array of an initializer.

    Raises
    ------
    ModelError
        INITIALIZER_MISSING, naming the tensor: the file holds no data for it.
    """
    array = constant(value)
    if array is None:
        raise ModelError(
            f"initializer {value.name!r} has no data",
            reason="INITIALIZER_MISSING",
            subject=value.name or "",
            hint="export the model again, with its weights",
        )
    return array


def inline_body(
    graph: ir.Graph, node: ir.Node, body: ir.Graph, inputs: Sequence[ir.Value | None], prefix: str
) -> list[ir.Value]:
    """Put a copy of a subgraph's nodes before the node that holds it; give what its outputs are then."""
    copy = body.clone(allow_outer_scope_values=True)
    outputs = list(copy.outputs)
    inner = list(copy)
    copy.outputs.clear()
    copy.remove(inner)
    replaced: dict[ir.Value, ir.Value] = {}
    for value, given in zip(copy.inputs, inputs, strict=True):
        if given is None:
            raise ModelError(
                f"{called(node)} leaves out an input that its subgraph reads, {value.name!r}",
                reason="INPUT_MISSING",
                subject=node.name or node.op_type,
                hint="check the model with onnx.checker.check_model, and export it again",
            )
        replaced[value] = given
    for value in list(copy.initializers.values()):
        replaced[value] = new_constant(graph, initial(value), f"{prefix}.{value.name}")
    for value, given in replaced.items():
        value.replace_all_uses_with(given)
    for index, moved in enumerate(inner):
        moved.name = f"{prefix}.{moved.name or f'{moved.op_type}_{index}'}"
        for value in moved.outputs:
            if value.name:
                value.name = f"{prefix}.{value.name}"
    graph.insert_before(node, inner)
    return [replaced.get(value, value) for value in outputs]


def splice(graph: ir.Graph, node: ir.Node, body: ir.Graph, inputs: Mapping[str, ir.Value]) -> None:
    """Put a body where a node is; its inputs are named in the map, its outputs are ``out0``, ``out1`` and so on."""
    prefix, origin = node.name or node.outputs[0].name, called(node)
    for value in list(body.inputs):
        value.replace_all_uses_with(inputs[value.name or ""])
    for value in list(body.initializers.values()):
        value.replace_all_uses_with(new_constant(graph, initial(value), f"{prefix}.{value.name}"))
    outputs = {value.name: value for value in body.outputs}
    inner = list(body)
    body.outputs.clear()
    body.remove(inner)
    for index, moved in enumerate(inner):
        moved.name = f"{prefix}.{moved.op_type}_{index}"
        moved.meta[ORIGIN] = origin
        for value in moved.outputs:
            if value.name:
                value.name = f"{prefix}.{value.name}"
    graph.insert_before(node, inner)
    for i, old in enumerate(node.outputs):
        new = outputs.get(f"out{i}")
        if new is not None:
            name = old.name
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            old.name = f"{name}.replaced"
            new.name, new.type, new.shape = name, old.type, old.shape
    graph.remove(node, safe=True)


def lift_opset(graph: ir.Graph) -> None:
    """Turn opset 7 and 8 into 9, in place."""
    if graph.opset_imports.get("", 9) >= 9:
        return
    for node in list(graph):
        if is_op(node, "BatchNormalization") and node.attributes.get_int("spatial", default=True):
            node.attributes.pop("spatial", None)
        if is_op(node, "Upsample") and "scales" in node.attributes:
            scales = np.array(node.attributes.pop("scales").as_floats(), np.float32)
            node.resize_inputs(2)
            node.replace_input_with(1, new_constant(graph, scales, f"{node.name or node.outputs[0].name}.scales"))
    graph.opset_imports[""] = 9
