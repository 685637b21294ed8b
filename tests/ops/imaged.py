"""Graphs of one op whose operands are made of an image, with tracked axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from lieaudit.graph.forward import measure_shapes
from lieaudit.layerwise.tracking import track

N, C, H, W = 2, 4, 6, 6


def _ints(*values):
    return np.array(values, np.int64)


def graph(op, kinds, fixed, attributes):
    """Two maps of the image, x and −x² (as tokens where asked for), then the op: inner tensors as inputs of the op."""
    nodes, names = [], []
    for k, kind in enumerate(kinds):
        made = f"h{k}"
        nodes.append(helper.make_node("Mul" if k else "Identity", ["image"] * (2 if k else 1), [f"m{k}"]))
        steps = {
            "m": [("Identity", [], {})],
            "t": [("Reshape", ["flat"], {}), ("Transpose", [], {"perm": [0, 2, 1]})],
            "r": [("Reshape", ["flat"], {}), ("Transpose", [], {"perm": [0, 2, 1]}), ("Reshape", ["rows"], {})],
        }[kind]
        current = f"m{k}"
        for i, (step, further, form) in enumerate(steps):
            after = made if i + 1 == len(steps) else f"{made}.{i}"
            nodes.append(helper.make_node(step, [current, *further], [after], **form))
            current = after
        names.append(made)
    training = "training_mode" in attributes
    outputs = ["y", "y2", "y3"][: 3 if training else 2 if op == "Split" else 1]
    order = [*names, *fixed]
    if op == "Where":
        order = [*fixed, *names]
    nodes.append(helper.make_node(op, order, outputs, name="op", **attributes))
    nodes += [helper.make_node("Identity", [made], [f"{made}.out"]) for made in outputs]
    tensors = {"flat": _ints(0, C, H * W), "rows": _ints(-1, C), **fixed}
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", C, H, W])],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in (f"{y}.out" for y in outputs)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()],
    )
    opset = 9 if op == "Upsample" else 15
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def prepared(proto):
    model = ir.from_proto(proto)
    for value in model.graph.outputs:
        value.type = None
    measure_shapes(model, feeds={"image": np.ones((N, C, H, W), np.float32)})
    image = model.graph.inputs[0]
    image.shape = ir.Shape([N, C, H, W])
    return model, track(model, integers={}, declared={})
