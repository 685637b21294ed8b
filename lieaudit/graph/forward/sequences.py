"""Sequences and optionals resolved into the tensors that they hold (`lieaudit.ops.held`)."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.graph.forward.folding import fold_constants
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.inference import infer_shapes
from lieaudit.ops import is_op, lookup
from lieaudit.ops.held import Reader


def resolve_sequences(model: ir.Model) -> bool:
    """Replace reads of sequences and optionals of the main graph by the tensors read, in place.

    What cannot be resolved stays: a place that the image decides, a sequence that a loop carries.

    Returns
    -------
    bool
        Whether anything was replaced.
    """
    if not any(op is not None and op.resolve is not None for op in map(lookup, model.graph)):
        return False
    resolved = False
    _settle(model)
    while _read(model):
        _settle(model)  # lengths and places may follow from what was resolved
        resolved = True
    return resolved


def _settle(model: ir.Model) -> None:
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    fold_constants(model)
    infer_shapes(model)


def _read(model: ir.Model) -> bool:
    """Read every node; say whether one was replaced."""
    reader = Reader(model.graph, followers(model).sizes)
    for node in list(model.graph):
        op = lookup(node)
        if op is not None and op.resolve is not None:
            op.resolve(reader, node)
        elif is_op(node, "Identity") and node.inputs[0] in reader.held:
            reader.held[node.outputs[0]] = reader.held[node.inputs[0]]
    return reader.changed
