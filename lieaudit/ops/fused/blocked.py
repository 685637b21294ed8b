"""Convolutions and pooling on channels in blocks: what onnxruntime saves at its highest level of optimisation.

The tensors hold (N, C/b, H, W, b) under the shape (N, C, H, W), with b and the weights' order as the processor wants
them. Written out, everything is (N, C, H, W) again: the two reorderings only pad and cut channels, and the weights are
put back in order. Pointwise ops and a Concat of channels, which may stand between, are the same in both orders.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from lieaudit.ops.body import Body, NotCovered
from lieaudit.ops.fused.products import convolution, window
from lieaudit.ops.op import Op

BLOCKED = "com.microsoft.nchwc"
_PROBE_CHANNELS, _PROBE_PIXELS = 64, 2


def _reorder_input(b: Body) -> None:
    last = b.flag("channels_last")
    x = b.op("Transpose", b.input(0), perm=[0, 3, 1, 2]) if last else b.input(0)
    missing = -b.size(0, 3 if last else 1) % block_size()
    pads = [0, 0, 0, 0, 0, missing, 0, 0]
    if not missing:
        b.result(x if last else b.op("Identity", x))
    elif b.opset >= 11:
        b.result(b.op("Pad", x, b.ints(*pads)))
    else:
        b.result(b.op("Pad", x, pads=pads))


def _reorder_output(b: Body) -> None:
    channels = b.attributes["channels"].as_int()
    if b.opset >= 10:
        x = b.op("Slice", b.input(0), b.ints(0), b.ints(channels), b.ints(1))
    else:
        x = b.op("Slice", b.input(0), starts=[0], ends=[channels], axes=[1])
    b.result(b.op("Transpose", x, perm=[0, 2, 3, 1]) if b.flag("channels_last") else x)


def _conv(b: Body) -> None:
    weight = b.const(in_order(b.array(1), block_size()))
    b.result(convolution(b, b.input(0), weight, b.input(2), b.input(3)))


def _pool(b: Body) -> None:
    b.result(b.op(b.node.op_type, b.input(0), **window(b)))


def _upsample(b: Body) -> None:
    """Resize by whole factors; nearest rounds down."""
    if b.opset < 11:
        raise NotCovered("Resize has no coordinate modes before opset 11")
    scales = b.const(np.array(b.attributes["scales"].as_ints(), np.float32))
    mode = b.attributes.get_string("mode", "nearest")
    coordinates = b.attributes.get_string("coordinate_transformation_mode", "asymmetric")
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes |= {"nearest_mode": "floor"}
    b.result(b.op("Resize", b.input(0), "", scales, **attributes))


def in_order(weights: np.ndarray[Any, Any], block: int) -> np.ndarray[Any, Any]:
    """Return weights (M, C, H, W) in that order.

    They lie as (M/b, C/b, H, W, b of C, b of M), or as (M/b, C, H, W, b of M) where C is no multiple of b: for images,
    which are taken as they are, and for convolutions of each channel alone.
    """
    outputs, inputs, height, width = weights.shape
    if outputs % block:
        raise NotCovered("weights in blocks of another size")
    if inputs % block:
        parts = weights.reshape(outputs // block, inputs, height, width, block)
        return parts.transpose(0, 4, 1, 2, 3).reshape(weights.shape)
    parts = weights.reshape(outputs // block, inputs // block, height, width, block, block)
    return parts.transpose(0, 5, 1, 4, 2, 3).reshape(weights.shape)


@cache
def block_size() -> int:
    """Return b of this processor, as onnxruntime itself reorders channels.

    Raises
    ------
    NotCovered
        onnxruntime has no blocks here, so that it does not run such graphs either.
    """
    x = np.zeros((1, _PROBE_CHANNELS, 1, _PROBE_PIXELS), np.float32)
    x[..., 1] = 1.0
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=BLOCKED)], "probe", info[:1], info[1:]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED, 1)]
    probe: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        y = session.run(None, {"x": x})[0]
    except Exception as problem:
        raise NotCovered("onnxruntime has no blocks on this processor") from problem
    # the first block of the first pixel ends where the second pixel begins
    return int(np.argmax(y.reshape(-1) > 0))


OPS = (
    Op("ReorderInput", BLOCKED, expansion=_reorder_input),
    Op("ReorderOutput", BLOCKED, expansion=_reorder_output),
    Op("Conv", BLOCKED, expansion=_conv),
    *(Op(name, BLOCKED, expansion=_pool) for name in ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")),
    Op("Upsample", BLOCKED, expansion=_upsample),
)
