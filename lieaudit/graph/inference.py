"""Static shape inference."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.graph.nodes import subgraphs
from lieaudit.ops import is_op, lookup


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes and types of tensors, in place; what cannot be inferred stays unknown.

    onnx-ir takes the type of a sequence's elements for that of the sequence, so those are set right.
    """
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for node in model.graph.all_nodes():
        output = node.outputs[0] if node.outputs else None
        source = node.inputs[0] if node.inputs else None
        inside = source.type if source is not None else None
        op = lookup(node)
        makes = op.makes if op is not None else ""
        if output is None:
            continue
        if makes == "sequence" and isinstance(output.type, ir.TensorType):
            output.type, output.shape = ir.SequenceType(output.type), None
        elif makes == "optional" and isinstance(held := inside or output.type, ir.TensorType | ir.SequenceType):
            output.type, output.shape = ir.OptionalType(held), None
        elif node.op_type == "Identity" and isinstance(inside, ir.SequenceType | ir.OptionalType):
            output.type, output.shape = inside, None
    for node in reversed(list(model.graph.all_nodes())):  # the innermost first
        _take_from_bodies(node)


def _take_from_bodies(node: ir.Node) -> None:
    """Return the outputs of an If or a Loop the type of the sequences and optionals that their bodies end in."""
    for body in subgraphs(node):
        # a Loop's body ends in a condition first
        ends = list(body.outputs)[1:] if is_op(node, "Loop") else list(body.outputs)
        for output, end in zip(node.outputs, ends, strict=False):
            if isinstance(end.type, ir.SequenceType | ir.OptionalType):
                output.type, output.shape = end.type, None
