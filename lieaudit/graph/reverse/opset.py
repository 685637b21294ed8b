"""Raising a graph to the first opset whose scatters can add."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

from lieaudit.autodiff.adjoint import OPSET
from lieaudit.errors import UnsupportedOpError


def raised(model: ir.Model) -> ir.Model:
    """Return the model in opset 16 where it is older, else itself; what it computes stays.

    Raises
    ------
    UnsupportedOpError
        OPSET_TOO_OLD: an op of the graph has no such form, or none that onnx knows to write.
    """
    stamped = model.opset_imports.get("", OPSET)
    if stamped >= OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), OPSET)
    except Exception as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
        raise UnsupportedOpError(
            f"reverse mode needs opset {OPSET}, and onnx cannot raise this graph from {stamped}: {said}",
            reason="OPSET_TOO_OLD",
            subject="opset_import",
            hint=f"export the model with opset {OPSET} or newer",
        ) from problem
    made = ir.from_proto(converted)
    made.ir_version = max(made.ir_version, 8)
    for before, after in zip(model.graph.inputs, made.graph.inputs, strict=False):
        after.meta.update(before.meta)
    return made
