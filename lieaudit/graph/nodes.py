"""Reading nodes: constants, optional inputs, and lists of integers that are attributes in old opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.errors import ModelError, UnsupportedOpError
from lieaudit.graph.names import called


def ints_of(node: ir.Node, name: str, index: int | None = None) -> list[int] | None:
    """Return a list of integers that is an attribute in old opsets and a constant input in new ones.

    None where it is absent, or an input whose value the graph computes.
    """
    if name in node.attributes:
        value = node.attributes[name].value
        return [int(value)] if isinstance(value, int) else [int(v) for v in value]
    if index is not None and index < len(node.inputs):
        array = constant(node.inputs[index])
        return None if array is None else [int(v) for v in array.reshape(-1)]
    return None


def has_input(node: ir.Node, index: int) -> bool:
    """Say whether an optional input is there."""
    return index < len(node.inputs) and node.inputs[index] is not None


def required(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the ONNX standard requires.

    Raises
    ------
    ModelError
        INPUT_MISSING, naming the node: the graph leaves it out.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ModelError(
            f"{called(node)} has no input {index}, which its standard requires",
            reason="INPUT_MISSING",
            subject=node.name or node.op_type,
            hint="check the model with onnx.checker.check_model, and export it again",
        )
    return value


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """Return the array of an initializer or Constant node, else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def new_constant(graph: ir.Graph, array: np.ndarray[Any, Any], name: str) -> ir.Value:
    """Register an initializer under a name like the given one."""
    unique, serial = name, 0
    while unique in graph.initializers:
        serial += 1
        unique = f"{name}.{serial}"
    value = ir.Value(name=unique, const_value=ir.Tensor(array, name=unique))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.Tensor(array).dtype)
    graph.register_initializer(value)
    return value


def ints_input(node: ir.Node, index: int) -> list[int]:
    """Return a constant integer input.

    Raises
    ------
    UnsupportedOpError
        DYNAMIC_AXES, naming the node: the graph computes it.
    """
    array = constant(node.inputs[index])
    if array is None:
        raise UnsupportedOpError(
            f"input {index} of {called(node)} is computed by the graph",
            reason="DYNAMIC_AXES",
            subject=node.name or node.op_type,
            hint="export with constant axes",
        )
    return [int(v) for v in array.reshape(-1)]


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs among a node's attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def reads(node: ir.Node) -> list[ir.Value]:
    """Return every value of the enclosing graph that a node or a subgraph in it reads, each once."""
    found = [value for value in node.inputs if value is not None]
    for graph in subgraphs(node):
        inside: set[ir.Value] = set(graph.inputs) | set(graph.initializers.values())
        captured = list(graph.outputs)
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            inside.update(inner.outputs)
            for deeper in subgraphs(inner):
                inside.update(deeper.inputs)
                inside.update(deeper.initializers.values())
                captured.extend(deeper.outputs)
            captured += [value for value in inner.inputs if value is not None]
        found += [value for value in captured if value not in inside]
    return list(dict.fromkeys(found))


def holders(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """Return for every node of a graph, and of the subgraphs in it, the node of the graph itself that it lies in."""
    found: dict[ir.Node, ir.Node] = {}
    for node in graph:
        found[node] = node
        for inside in subgraphs(node):
            found |= dict.fromkeys(ir.traversal.RecursiveGraphIterator(inside), node)
    return found
