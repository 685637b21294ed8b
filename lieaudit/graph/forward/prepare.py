"""What is done to a graph before its tangents are added: nothing that changes its function."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes


def prepare(model: ir.Model) -> ir.Model:
    """Give the graph with functions inlined."""
    if model.functions:
        model = passes.InlinePass()(model).model
    return model
