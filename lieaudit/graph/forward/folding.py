"""Constants folded by onnxruntime itself."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime

from lieaudit.graph.nodes import new_constant
from lieaudit.ops import is_random
from lieaudit.runtime.serialised import serialised

_FOLD_LIMIT = 1 << 24
"""Largest folded constant, in elements: more would trade memory for nothing."""


def fold_constants(model: ir.Model) -> None:
    """Replace what depends on initializers only by initializers, computed by onnxruntime."""
    graph, opset = model.graph, model.opset_imports.get("", 0)
    known = {value for value in graph.initializers.values() if not value.is_graph_input()}
    foldable = []
    for node in graph:
        if (
            not is_random(node, opset)
            and all(value is None or value in known for value in node.inputs)
            and not any(a.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for a in node.attributes.values())
            and all(_small(value) for value in node.outputs)
        ):
            foldable.append(node)
            known.update(node.outputs)
    inside = set(foldable)
    wanted = [
        value
        for node in foldable
        for value in node.outputs
        if not value.is_graph_output() and any(user not in inside for user, _ in value.uses())
    ]
    if not wanted:
        return
    part = ir.Model(ir.convenience.extract(graph, [], wanted), ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        with serialised(part) as source:
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        arrays = session.run([value.name for value in wanted], {})
    except Exception:  # noqa: BLE001 - onnxruntime raises many types; what it cannot compute stays as it is
        return
    for value, array in zip(wanted, arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype == object:
            continue
        folded = new_constant(graph, array, f"{value.name}.folded")
        value.replace_all_uses_with(folded)
    passes.RemoveUnusedNodesPass()(model)


def _small(value: ir.Value) -> bool:
    if value.shape is None:
        return True
    sizes = [size for size in value.shape if isinstance(size, int)]
    return len(sizes) == len(value.shape) and math.prod(sizes) <= _FOLD_LIMIT
