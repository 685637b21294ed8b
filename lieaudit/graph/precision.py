"""Turning fp16, bf16 and float64 graphs into float32.

Finite steps and tangents drown in 10 bits of mantissa, and the question is about the function the weights define,
so the audit computes in float32 with the stored weights' exact values. A float64 graph is rounded to float32, since
onnxruntime has no float64 convolution. Report and notes say so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.errors import ModelError
from lieaudit.graph.names import PREFIX

_REDUCED = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def to_float32(model: ir.Model, image: ir.Value) -> str:
    """Turn every fp16 / bf16 tensor, cast and type of the model into float32, in place.

    float64 is turned too where the image itself is float64; elsewhere it is somebody's choice for a few sums.

    Returns
    -------
    str
        What was done, e.g. ``upcast from float16``; empty where the graph was float32.
    """
    kinds = _REDUCED | ({ir.DataType.DOUBLE} if image.dtype == ir.DataType.DOUBLE else set())
    found: set[ir.DataType] = set()
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in kinds:
                value.const_value = _float32(value.const_value, found)
            _retype(value, kinds, found)
        for value in graph.inputs:
            _retype(value, kinds, found)
        for node in graph:
            for output in node.outputs:
                _retype(output, kinds, found)
            _convert_attributes(node, kinds, found)
    return ", ".join(
        f"{'rounded' if kind == ir.DataType.DOUBLE else 'upcast'} from {kind.numpy()}" for kind in sorted(found)
    )


def round_output(model: ir.Model, dtype: np.dtype[Any]) -> str:
    """Have the model's only output as float32, in place, where it runs as ``dtype``; return what to say of it.

    Raises `ModelError` OUTPUT_NOT_FLOAT: the graph did not declare its type, and it is none.
    """
    if dtype == np.float32:
        return ""
    output = model.graph.outputs[0]
    if dtype.kind != "f":
        raise ModelError(
            f"output {output.name!r} is {dtype}, not a float",
            reason="OUTPUT_NOT_FLOAT",
            subject=output.name or "output",
            hint="choose another output with --output",
        )
    cast = ir.node("Cast", [output], {"to": ir.DataType.FLOAT.value}, name=f"{PREFIX}to_float32")
    model.graph.append(cast)
    rounded = cast.outputs[0]
    rounded.name, rounded.type = f"{PREFIX}rounded", ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs[:] = [rounded]
    return f"the output {output.name!r} is {dtype} and was rounded to float32"


def _retype(value: ir.Value, kinds: set[ir.DataType], found: set[ir.DataType]) -> None:
    if value.dtype is not None and value.dtype in kinds:
        found.add(value.dtype)
        value.type = ir.TensorType(ir.DataType.FLOAT)


def _float32(tensor: ir.TensorProtocol, found: set[ir.DataType]) -> ir.TensorProtocol:
    found.add(tensor.dtype)
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _convert_attributes(node: ir.Node, kinds: set[ir.DataType], found: set[ir.DataType]) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in kinds:
            node.attributes[name] = ir.AttrTensor(name, _float32(attribute.as_tensor(), found))
        # Cast `to`, RandomNormal / EyeLike / Bernoulli `dtype`, QuantizeLinear `output_dtype` all hold a type
        elif (
            name in {"to", "dtype", "output_dtype", "stash_type"}
            and attribute.type == ir.AttributeType.INT
            and ir.DataType(attribute.as_int()) in kinds
        ):
            found.add(ir.DataType(attribute.as_int()))
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
