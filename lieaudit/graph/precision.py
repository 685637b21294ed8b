"""Upcasting fp16 and bf16 graphs to float32.

Finite steps and tangents drown in 10 bits of mantissa, and the question is about the function the weights define,
so the audit computes in float32 with the stored weights' exact values. Report and notes say so.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_REDUCED = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def upcast(model: ir.Model) -> frozenset[str]:
    """Turn every fp16 / bf16 tensor, cast and type of the model into float32, in place; give the types found."""
    found: set[str] = set()
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in _REDUCED:
                value.const_value = _float32(value.const_value, found)
            _retype(value, found)
        for value in graph.inputs:
            _retype(value, found)
        for node in graph:
            for output in node.outputs:
                _retype(output, found)
            _upcast_attributes(node, found)
    return frozenset(found)


def _retype(value: ir.Value, found: set[str]) -> None:
    if value.dtype in _REDUCED:
        found.add(value.dtype.name.lower())
        value.type = ir.TensorType(ir.DataType.FLOAT)


def _float32(tensor: ir.TensorProtocol, found: set[str]) -> ir.Tensor:
    found.add(tensor.dtype.name.lower())
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _upcast_attributes(node: ir.Node, found: set[str]) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _REDUCED:
            node.attributes[name] = ir.AttrTensor(name, _float32(attribute.as_tensor(), found))
        # Cast `to`, RandomNormal / EyeLike / Bernoulli `dtype`, QuantizeLinear `output_dtype` all hold a type
        elif (
            name in {"to", "dtype", "output_dtype", "stash_type"}
            and attribute.type == ir.AttributeType.INT
            and ir.DataType(attribute.as_int()) in _REDUCED
        ):
            found.add(ir.DataType(attribute.as_int()).name.lower())
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
