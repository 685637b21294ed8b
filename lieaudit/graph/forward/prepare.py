"""What is done to a graph before tangents are added; none of it changes the function.

Functions are inlined, onnxruntime's own ops written out, constants folded, branches with a constant condition taken,
loops and recurrent layers unrolled, batch normalisation folded into the convolution before it, what no rule covers
replaced by its definition in the ONNX standard, linear models of ai.onnx.ml by products and sums, and opset 7 and 8
lifted to 9 (the first with Where, Sign and the Scan that the generic rule needs).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.graph.forward.branches import take_branches
from lieaudit.graph.forward.expand import expand
from lieaudit.graph.forward.folding import fold_constants
from lieaudit.graph.forward.graphs import lift_opset, splice
from lieaudit.graph.forward.loops import unroll_loops
from lieaudit.graph.forward.sequences import resolve_sequences
from lieaudit.graph.forward.shapes import MEASURED, measure_shapes
from lieaudit.graph.nodes import constant, new_constant, reads
from lieaudit.ops import FLOATS, Use, is_op, lookup
from lieaudit.ops.op import Body


def prepare(model: ir.Model, active: Collection[str] | None = None) -> ir.Model:
    """Return the graph as the rules want it; the given model may be changed and must not be used again.

    ``active`` names the inputs that get tangents; default: every floating-point input.
    """
    if model.functions:
        model = passes.InlinePass()(model).model
    graph = model.graph
    lift_opset(graph)
    if expand(model):
        graph.meta.pop(MEASURED, None)
    if inline_control_flow(model) and expand(model):  # what stood in branches and loops
        graph.meta.pop(MEASURED, None)
    passes.RemoveUnusedNodesPass()(model)
    _write_out(model)
    _expand_functions(model, active)
    _fold_batch_normalization(graph)
    if not graph.meta.get(MEASURED):
        measure_shapes(model)
    return model


def inline_control_flow(model: ir.Model) -> bool:
    """Fold constants, take the branches of constant conditions, unroll loops of fixed length and resolve sequences.

    All in place; returns whether a branch was taken, a loop unrolled or a sequence resolved.
    """
    passes.LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    fold_constants(model)
    inlined = False
    while take_branches(model) or unroll_loops(model) or resolve_sequences(model):
        fold_constants(model)
        inlined = True
    return inlined


def _expand_functions(model: ir.Model, active: Collection[str] | None) -> None:
    """Replace what no rule covers by its function body from the ONNX standard."""
    graph = model.graph
    opset = graph.opset_imports[""]
    for _ in range(4):  # bodies may use further functions
        if not any(is_op(node, node.op_type) and _has_body(node.op_type, opset) for node in graph):
            return
        measure_shapes(model)
        expanded = False
        for node in _uncovered(graph, active):
            if is_op(node, node.op_type) and _has_body(node.op_type, opset):
                expanded = _expand(model, node) or expanded
        if not expanded:
            return
        graph.meta.pop(MEASURED, None)
        fold_constants(model)


def _uncovered(graph: ir.Graph, active: Collection[str] | None) -> list[ir.Node]:
    """Return the nodes with a moving operand or a read output that their op's rule does not cover."""
    moving = {v for v in graph.inputs if (v.dtype in FLOATS if active is None else v.name in active)}
    found = []
    for node in graph:
        if moving.isdisjoint(reads(node)):
            moving.update(value for value in node.outputs if active is not None and value.name in active)
            continue
        use, op = Use.of(node, graph.opset_imports[""], moving), lookup(node)
        rule = op.tangent if op is not None else None
        covered = rule is not None and not rule.refuses(use)
        if not covered:
            found.append(node)
        if rule is None or not covered or rule.moves(use):
            moving.update(value for value in node.outputs if value.dtype is None or value.dtype in FLOATS)
        moving.update(value for value in node.outputs if active is not None and value.name in active)
    return found


def _write_out(model: ir.Model) -> None:
    """Replace ops by what the table writes them as in other ops: recurrent layers, linear models."""
    graph = model.graph
    bodies = [(node, body) for node in graph if (body := _body(node)) is not None]
    if not bodies:
        return
    measure_shapes(model)
    for node, body in bodies:
        proto = body(node, graph.opset_imports[""])
        if proto is not None:
            inputs = {f"in{i}": value for i, value in enumerate(node.inputs) if value is not None}
            splice(graph, node, ir.from_proto(proto).graph, inputs)
            graph.meta.pop(MEASURED, None)


def _body(node: ir.Node) -> Body | None:
    op = lookup(node)
    return op.body if op is not None else None


def _has_body(op_type: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    # the stubs of onnx lack both
    return bool(getattr(schema, "has_function") or getattr(schema, "has_context_dependent_function"))  # noqa: B009


def _expand(model: ir.Model, node: ir.Node) -> bool:
    """Replace one node; False where the standard gives no body for its attributes and types."""
    graph = model.graph
    inputs = [value for value in node.inputs if value is not None]
    names = {value: f"in{i}" for i, value in enumerate(dict.fromkeys(inputs))}
    proto = onnx.helper.make_node(
        node.op_type,
        [names[value] if value is not None else "" for value in node.inputs],
        [f"out{i}" if value.name else "" for i, value in enumerate(node.outputs)],
    )
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    small = onnx.helper.make_model(
        onnx.helper.make_graph(
            [proto],
            "body",
            [_info(name, value) for value, name in names.items()],
            [_info(f"out{i}", value) for i, value in enumerate(node.outputs) if value.name],
        ),
        opset_imports=[onnx.helper.make_opsetid("", graph.opset_imports[""])],
        ir_version=model.ir_version,
    )
    inlined = onnx.inliner.inline_selected_functions(small, [("", node.op_type)], inline_schema_functions=True)
    if any(inner.op_type == node.op_type for inner in inlined.graph.node):
        return False
    body = ir.from_proto(inlined)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True)(body)
    splice(graph, node, body.graph, {name: value for value, name in names.items()})
    return True


def _info(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    dims = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
    dtype = value.dtype or ir.DataType.FLOAT
    return onnx.helper.make_tensor_value_info(name, int(dtype), dims)


def _fold_batch_normalization(graph: ir.Graph) -> None:
    """Fold BatchNormalization with fixed statistics into the Conv whose only reader it is."""
    for node in list(graph):
        if (
            not is_op(node, "BatchNormalization")
            or len([v for v in node.outputs if v.uses() or v.is_graph_output()]) > 1
        ):
            continue
        source = node.inputs[0]
        convolution = source.producer() if source is not None else None
        if convolution is None or not is_op(convolution, "Conv") or source is None:
            continue
        if (
            len(source.uses()) != 1
            or source.is_graph_output()
            or node.attributes.get_int("training_mode", default=False)
        ):
            continue
        arrays = _constants([*node.inputs[1:5], *convolution.inputs[1:3]])
        if arrays is None:
            continue
        gamma, beta, mean, variance, weight, *bias = (array.astype(np.float64) for array in arrays)
        factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        offset = beta + ((bias[0] if bias else 0.0) - mean) * factor
        dtype = arrays[4].dtype
        name = convolution.name or source.name
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        convolution.resize_inputs(3)
        convolution.replace_input_with(1, new_constant(graph, scaled.astype(dtype), f"{name}.weight"))
        convolution.replace_input_with(2, new_constant(graph, offset.astype(dtype), f"{name}.bias"))
        ir.convenience.replace_all_uses_with(node.outputs[0], source, replace_graph_outputs=True)
        if source.is_graph_output():
            source.name = node.outputs[0].name
        graph.remove(node, safe=True)


def _constants(values: Collection[ir.Value | None]) -> list[np.ndarray[Any, Any]] | None:
    arrays = [constant(value) for value in values if value is not None]
    return None if any(array is None for array in arrays) else [array for array in arrays if array is not None]
