"""Graphs that onnxruntime optimised and saved: its own ops, against its own kernels and against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from lieaudit.graph.forward import measure_shapes, rewrite
from lieaudit.graph.forward.expand import expand
from lieaudit.graph.load import load_model
from lieaudit.ops import MICROSOFT, OPS

BLOCKED = "com.microsoft.nchwc"
EXPANSIONS = {op.key for op in OPS.values() if op.expansion is not None}
_RANDOM = np.random.default_rng(3)


def _r(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _p(*shape: int) -> np.ndarray:
    return (np.abs(_RANDOM.standard_normal(shape)) + 0.5).astype(np.float32)


@dataclass
class Case:
    """One node. Inputs that are named in ``moving`` get tangents; arrays are initializers, None is left out."""

    op: str
    moving: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray | None] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    order: str = ""
    """Names of the inputs, one letter each; ``-`` where one is left out."""
    opset: int = 17
    domain: str = MICROSOFT
    outputs: tuple[int, ...] = (0,)
    """Which outputs the graph gives."""
    formula: Callable[..., np.ndarray] | None = None
    """In numpy, where onnxruntime has no kernel for the processor."""
    tolerance: float = 3e-6

    def model(self) -> onnx.ModelProto:
        names = ["" if c == "-" else c for c in self.order or "".join([*self.moving, *self.fixed])]
        made = [f"y{i}" if i in self.outputs else "" for i in range(max(self.outputs) + 1)]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node(self.op, names, made, domain=self.domain, name="node", **self.attributes)],
            "case",
            [info(name, TensorProto.FLOAT, array.shape) for name, array in self.moving.items()],
            [info(name, TensorProto.FLOAT, None) for name in made if name],
            [numpy_helper.from_array(array, name) for name, array in self.fixed.items() if array is not None],
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self.domain:
            imports.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _run(model: onnx.ModelProto | bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


class Erf(OpRun):
    """onnx's own gives float32 whatever its input."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def _double(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cast a float32 graph to float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for info in [*copy.graph.input, *copy.graph.output, *copy.graph.value_info]:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    scales = {node.input[2] for node in copy.graph.node if node.op_type == "Resize"}
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.s == b"bilinear":  # the name that onnx's evaluator knows
                attribute.s = b"linear"
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return copy


def _slope64(model: onnx.ModelProto, values: dict[str, np.ndarray], along: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Differentiate by central differences in float64, on onnx's reference evaluator."""
    evaluator = ReferenceEvaluator(_double(model), new_ops=[Erf])
    step = 1e-6
    sides = [
        evaluator.run(None, {name: x.astype(np.float64) + sign * step * along[name] for name, x in values.items()})
        for sign in (1, -1)
    ]
    return [(ahead - behind) / (2 * step) for ahead, behind in zip(*sides, strict=True)]


def _close(made: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert made.shape == expected.shape
    assert np.linalg.norm(made - expected) <= tolerance * max(float(np.linalg.norm(expected)), 1e-12)


_X, _W = _r(2, 8, 7, 7), _r(8, 4, 3, 3) / 6
_CONV = {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 2], "kernel_shape": [3, 3]}
_QKV = {"w": _r(12, 36) / 3, "b": _r(36)}
_TOKENS = _r(2, 5, 12)
_MASK = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]], np.int32)
_L = {"g": _p(12), "b": _r(12)}


def _fused_conv(name: str, *parameters: float, **more: Any) -> Case:
    attributes = {**_CONV, "activation": name, **({"activation_params": list(parameters)} if parameters else {})}
    return Case("FusedConv", {"x": _X}, {"w": _W, "b": _r(8)}, attributes, **more)


def _fused_gemm(name: str, **parameters: float) -> Case:
    given = {f"activation_{key}": value for key, value in parameters.items()}
    attributes = {"alpha": 0.5, "beta": 2.0, "transB": 1, "activation": name, **given}
    return Case("FusedGemm", {"a": _r(3, 6)}, {"b": _r(4, 6), "c": _r(4)}, attributes)


def _transposed_product(letters: str, *shapes: tuple[int, ...], opset: int = 17, **attributes: Any) -> Case:
    moving = dict(zip(letters, (_r(*shape) for shape in shapes), strict=True))
    return Case("FusedMatMul", moving, {}, attributes, opset=opset)


def _gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2)))


def _nhwc_conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nhwc,mc->nhwm", x[:, ::2, ::2], w[:, 0, 0]) + b


def _group_norm(x: np.ndarray, g: np.ndarray, b: np.ndarray, *, silu: bool) -> np.ndarray:
    parts = x.reshape(2, -1, 3, 4)
    centred = parts - parts.mean((1, 3), keepdims=True)
    y = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)).reshape(x.shape) * g + b
    return y / (1 + np.exp(-y)) if silu else y


# ruff: noqa: E501 - a table
CASES = {
    # convolutions and products with an activation
    "conv": Case("FusedConv", {"x": _X}, {"w": _W}, _CONV),
    "conv-relu": _fused_conv("Relu"),
    "conv-tanh": _fused_conv("Tanh"),
    "conv-sigmoid": _fused_conv("Sigmoid"),
    "conv-leaky": _fused_conv("LeakyRelu", 0.3),
    "conv-clip": _fused_conv("Clip", -0.5, 0.7),
    "conv-clip-9": _fused_conv("Clip", -0.5, 0.7, opset=9),
    "conv-hard-sigmoid": _fused_conv("HardSigmoid", 0.3, 0.4),
    "conv-hard-swish": _fused_conv("HardSwish", opset=13),
    "conv-7": _fused_conv("Relu", opset=7),
    "conv-sum": Case("FusedConv", {"x": _r(2, 4, 5, 5), "z": _r(2, 8, 5, 5)}, {"w": _r(8, 4, 3, 3), "b": _r(8)}, {"pads": [1, 1, 1, 1], "activation": "Relu"}, "xwbz"),
    "conv-sum-without-bias": Case("FusedConv", {"x": _r(2, 4, 5, 5), "z": _r(2, 8, 5, 5)}, {"w": _r(8, 4, 3, 3)}, {"auto_pad": "SAME_UPPER"}, "xw-z"),
    "gemm": Case("FusedGemm", {"a": _r(6, 3)}, {"b": _r(6, 4)}, {"transA": 1, "activation": "Relu"}),
    "gemm-leaky": _fused_gemm("LeakyRelu", alpha=0.2),
    "gemm-elu": _fused_gemm("Elu", alpha=0.7),
    "gemm-hard-sigmoid": _fused_gemm("HardSigmoid", alpha=0.3, beta=0.4),
    "gemm-selu": _fused_gemm("Selu", alpha=1.6, gamma=1.1),
    "gemm-softplus": _fused_gemm("Softplus"),
    "gemm-softsign": _fused_gemm("Softsign"),
    "gemm-thresholded": _fused_gemm("ThresholdedRelu", alpha=0.4),
    "gemm-tanh": _fused_gemm("Tanh"),
    "gemm-sigmoid": _fused_gemm("Sigmoid"),
    "matmul": _transposed_product("ab", (2, 5, 3), (2, 3, 4), alpha=0.25),
    "matmul-a": _transposed_product("ab", (2, 3, 5), (2, 3, 4), transA=1),
    "matmul-b": _transposed_product("ab", (2, 5, 3), (2, 4, 3), transB=1, alpha=-2.0),
    "matmul-both": _transposed_product("ab", (2, 3, 5), (4, 3), transA=1, transB=1),
    "matmul-batch": _transposed_product("ab", (5, 2, 6, 3), (3, 2, 6, 4), transBatchA=1, transBatchB=1),
    "matmul-batch-and-last": _transposed_product("ab", (3, 2, 5), (3, 2, 4), transBatchA=1, transA=1, transBatchB=1),
    "transpose-matmul": Case("TransposeMatMul", {"a": _r(2, 5, 3), "b": _r(2, 4, 3)}, {}, {"transB": 1, "alpha": 0.5}),
    "matmul-activation": Case("FusedMatMulActivation", {"a": _r(2, 5, 3), "b": _r(2, 4, 3)}, {}, {"transB": 1, "activation": "Softmax", "activation_axis": 2}, formula=lambda a, b: np.exp(s := a @ b.swapaxes(1, 2)) / np.exp(s).sum(2, keepdims=True)),
    "matmul-activation-leaky": Case("FusedMatMulActivation", {"a": _r(5, 3)}, {"b": _r(3, 4)}, {"activation": "LeakyRelu", "activation_alpha": 0.2}, formula=lambda a, b: np.where(a @ b > 0, 1, np.float32(0.2)) * (a @ b)),
    "gemm-fast-gelu": Case("GemmFastGelu", {"a": _r(5, 3)}, {"b": _r(3, 4), "c": _r(4)}, formula=lambda a, b, c: (y := a @ b + c) / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))),
    "nhwc-conv": Case("NhwcConv", {"x": _r(2, 5, 5, 3)}, {"w": _r(4, 1, 1, 3), "b": _r(4)}, {"strides": [2, 2]}, formula=_nhwc_conv),
    "nhwc-fused-conv": Case("NhwcFusedConv", {"x": _r(2, 5, 5, 3), "z": _r(2, 3, 3, 4)}, {"w": _r(4, 1, 1, 3), "b": _r(4)}, {"strides": [2, 2], "activation": "Relu"}, "xwbz", formula=lambda x, w, b, z: np.maximum(_nhwc_conv(x, w, b) + z, 0)),
    "nhwc-max-pool": Case("NhwcMaxPool", {"x": _r(2, 4, 4, 3)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, formula=lambda x: x.reshape(2, 2, 2, 2, 2, 3).max((2, 4))),
    # activations
    "gelu": Case("Gelu", {"x": _r(2, 9)}),
    "bias-gelu": Case("BiasGelu", {"x": _r(2, 9)}, {"b": _r(9)}),
    "bias-gelu-moves": Case("BiasGelu", {"x": _r(2, 9), "b": _r(9)}),
    "fast-gelu": Case("FastGelu", {"x": _r(2, 9)}),
    "fast-gelu-bias": Case("FastGelu", {"x": _r(2, 9)}, {"b": _r(9)}),
    "quick-gelu": Case("QuickGelu", {"x": _r(2, 9)}),
    "quick-gelu-alpha": Case("QuickGelu", {"x": _r(2, 9)}, {}, {"alpha": 1.1}),
    "bias-split-gelu": Case("BiasSplitGelu", {"x": _r(2, 3, 8)}, {"b": _r(8)}, formula=lambda x, b: (x + b)[..., :4] * _gelu((x + b)[..., 4:])),
    "bias-add": Case("BiasAdd", {"x": _r(2, 3, 8), "s": _r(2, 3, 8)}, {"b": _r(8)}, order="xbs", formula=lambda x, b, s: x + b + s),
    "bias-softmax": Case("BiasSoftmax", {"x": _r(2, 3, 8), "b": _r(1, 3, 8)}, {}, {"axis": 2, "is_inner_broadcast": 0}, formula=lambda x, b: np.exp(x + b) / np.exp(x + b).sum(2, keepdims=True)),
    # normalisation
    "skip-layer-norm": Case("SkipLayerNormalization", {"x": _TOKENS, "s": _r(2, 5, 12)}, _L, {"epsilon": 1e-5}, "xsgb"),
    "skip-layer-norm-all": Case("SkipLayerNormalization", {"x": _TOKENS}, {"s": _r(2, 5, 12), **_L, "c": _r(12)}, {}, "xsgbc", outputs=(0, 3)),
    "skip-layer-norm-without-beta": Case("SkipLayerNormalization", {"x": _TOKENS, "s": _r(1, 5, 12)}, {"g": _p(12), "c": _r(12)}, {}, "xsg-c", opset=14),
    "skip-simplified": Case("SkipSimplifiedLayerNormalization", {"x": _TOKENS, "s": _r(2, 5, 12)}, {"g": _p(12), "c": _r(12)}, {"epsilon": 1e-5}, "xsgc", outputs=(0, 3)),
    "simplified": Case("SimplifiedLayerNormalization", {"x": _TOKENS}, {"g": _p(12)}, {"epsilon": 1e-3, "axis": -1}, domain="", opset=13),
    "simplified-statistic": Case("SimplifiedLayerNormalization", {"x": _TOKENS}, {"g": _p(12)}, {"axis": 2}, domain="", outputs=(0, 1)),
    "layer-norm-14": Case("LayerNormalization", {"x": _TOKENS}, _L, {"axis": -1}, domain="", opset=14),
    "layer-norm-14-axes": Case("LayerNormalization", {"x": _r(2, 5, 12)}, {"g": _p(5, 12)}, {"axis": 1, "epsilon": 1e-3}, domain="", opset=14),
    "layer-norm-14-statistics": Case("LayerNormalization", {"x": _TOKENS}, _L, {"axis": -1}, domain="", opset=14, outputs=(0, 1, 2)),
    "group-norm": Case("GroupNorm", {"x": _r(2, 3, 4, 12)}, _L, {"groups": 3, "activation": 0}, formula=lambda x, g, b: _group_norm(x, g, b, silu=False)),
    "group-norm-silu": Case("GroupNorm", {"x": _r(2, 12, 3, 4)}, _L, {"groups": 3, "activation": 1, "channels_last": 0}, formula=lambda x, g, b: _group_norm(x.transpose(0, 2, 3, 1), g, b, silu=True).transpose(0, 3, 1, 2)),
    "skip-group-norm": Case("SkipGroupNorm", {"x": _r(2, 3, 4, 12), "s": _r(2, 3, 4, 12)}, {**_L, "c": _r(12)}, {"groups": 3, "activation": 1}, "xgbsc", formula=lambda x, g, b, s, c: _group_norm(x + s + c, g, b, silu=True)),
    # attention
    "attention": Case("Attention", {"x": _TOKENS}, _QKV, {"num_heads": 3}),
    "attention-scale": Case("Attention", {"x": _TOKENS}, _QKV, {"num_heads": 2, "scale": 0.2}),
    "attention-sizes": Case("Attention", {"x": _TOKENS}, {"w": _r(12, 28) / 3, "b": _r(28)}, {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 12]}),
    "attention-causal": Case("Attention", {"x": _TOKENS}, _QKV, {"num_heads": 3, "unidirectional": 1}),
    "attention-mask": Case("Attention", {"x": _TOKENS}, {**_QKV, "m": _MASK}, {"num_heads": 3}, "xwbm"),
    "attention-mask-3d": Case("Attention", {"x": _TOKENS}, {**_QKV, "m": np.tril(np.ones((2, 5, 5), np.int32))}, {"num_heads": 3, "mask_filter_value": -50.0}, "xwbm"),
    "attention-bias": Case("Attention", {"x": _TOKENS, "p": _r(1, 3, 5, 5)}, _QKV, {"num_heads": 3}, "xwb--p"),
    "heads": Case("MultiHeadAttention", {"q": _r(2, 5, 12), "k": _r(2, 4, 12), "v": _r(2, 4, 6)}, {}, {"num_heads": 3}),
    "heads-bias": Case("MultiHeadAttention", {"q": _r(2, 5, 12), "k": _r(2, 5, 12), "v": _r(2, 5, 12)}, {"b": _r(36)}, {"num_heads": 2, "scale": 0.3}),
    "heads-mask": Case("MultiHeadAttention", {"q": _r(2, 5, 12), "k": _r(2, 5, 12), "v": _r(2, 5, 12)}, {"m": _MASK, "p": _r(1, 2, 5, 5)}, {"num_heads": 2}, "qkv-mp"),
    "heads-causal": Case("MultiHeadAttention", {"q": _r(2, 5, 12), "k": _r(2, 5, 12), "v": _r(2, 5, 12)}, {}, {"num_heads": 2, "unidirectional": 1}),
    "heads-ready": Case("MultiHeadAttention", {"q": _r(2, 5, 12), "k": _r(2, 3, 4, 4), "v": _r(2, 3, 4, 4)}, {}, {"num_heads": 3}),
    # namesakes of the standard's ops
    "trilu": Case("Trilu", {"x": _r(2, 4, 4)}, {"k": np.array(1, np.int64)}, {"upper": 0}),
    "gather-nd": Case("GatherND", {"x": _r(2, 3, 4)}, {"i": np.array([[1, 2], [0, 1]], np.int64)}),
    "grid-sample": Case("GridSample", {"x": _r(1, 2, 5, 5)}, {"g": np.tanh(_r(1, 3, 3, 2))}, {"mode": "bilinear", "align_corners": 1}),
    "grid-sample-20": Case("GridSample", {"x": _r(1, 2, 5, 5)}, {"g": np.tanh(_r(1, 3, 3, 2))}, {"mode": "bilinear"}, opset=20),
    "pad": Case("Pad", {"x": _r(2, 3, 4)}, {"p": np.array([[0, 1, 2, 0, 0, 1]], np.int64), "v": np.array([0.5], np.float32)}, {"mode": "constant"}),
    "pad-reflect": Case("Pad", {"x": _r(2, 3, 4)}, {"p": np.array([0, 1, 2, 0, 0, 1], np.int64)}, {"mode": "reflect"}, opset=10),
    "expand-dims": Case("ExpandDims", {"x": _r(2, 3)}, {"a": np.array(1, np.int32)}),
    "expand-dims-9": Case("ExpandDims", {"x": _r(2, 3)}, {"a": np.array(-1, np.int32)}, opset=9),
    # ops that the standard dropped
    "affine": Case("Affine", {"x": _r(2, 3)}, {}, {"alpha": 0.5, "beta": -1.5}, domain="", opset=9),
    "scaled-tanh": Case("ScaledTanh", {"x": _r(2, 3)}, {}, {"alpha": 0.5, "beta": -1.5}, domain="", opset=9),
    "parametric-softplus": Case("ParametricSoftplus", {"x": _r(2, 3)}, {}, {"alpha": 0.5, "beta": -1.5}, domain="", opset=9),
    "thresholded-relu-9": Case("ThresholdedRelu", {"x": _r(2, 9)}, {}, {"alpha": 0.5}, domain="", opset=9),
    "scale": Case("Scale", {"x": _r(2, 3)}, {}, {"scale": 0.5}, domain="", opset=9),
    "image-scaler": Case("ImageScaler", {"x": _r(2, 3, 4, 4)}, {}, {"scale": 0.5, "bias": [1.0, 2.0, -3.0]}, domain="", opset=9),
    "crop": Case("Crop", {"x": _r(2, 3, 7, 6)}, {}, {"border": [1, 2, 0, 1]}, domain="", opset=9),
    "crop-size": Case("Crop", {"x": _r(2, 3, 7, 6)}, {}, {"border": [1, 2, 0, 0], "scale": [3, 4]}, domain="", opset=9),
}  # fmt: skip


def _expanded(case: Case) -> onnx.ModelProto:
    model = ir.from_proto(case.model())
    done = expand(model)
    assert done[case.op] == 1
    assert not [node for node in model.graph if node.domain]
    return ir.to_proto(model)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_written_out_computes_what_onnxruntime_does(case):
    if case.formula is not None:
        arrays = {**case.fixed, **case.moving}
        expected = [case.formula(*(arrays[c] for c in case.order or [*case.moving, *case.fixed]))]
    else:
        expected = _run(case.model(), case.moving)
    for made, right in zip(_run(_expanded(case), case.moving), expected, strict=True):
        _close(made, right, 2e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_its_derivatives_are_exact(case):
    along = {name: _r(*x.shape) for name, x in case.moving.items()}
    expected = _slope64(_expanded(case), case.moving, along)
    model = ir.from_proto(case.model())
    if case.formula is None:
        measure_shapes(model, feeds=case.moving)
    else:
        expand(model)
    rewritten = rewrite(model)
    assert not [applied for applied in rewritten.applied if not applied.exact]
    feeds = {**case.moving, **{f"{name}.tangent": row[None] for name, row in along.items()}}
    made = _run(ir.to_proto(rewritten.model).SerializeToString(), feeds)[len(rewritten.values_out) :]
    for tangent, right in zip(made, expected, strict=True):
        _close(tangent[0], right, case.tolerance)


def _network(resize: str) -> onnx.ModelProto:
    """Return a convolutional network with every op that onnxruntime takes to channels in blocks."""
    random = np.random.default_rng(5)
    weights: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def const(array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, f"c{len(weights)}"))
        return weights[-1].name

    def op(op_type: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def conv(x: str, outputs: int, inputs: int, size: int, **attributes: Any) -> str:
        weight = random.standard_normal((outputs, inputs, size, size)).astype(np.float32)
        bias = random.standard_normal(outputs).astype(np.float32)
        kernel = const(weight / np.float32(math.sqrt(inputs * size * size)))
        return op("Conv", x, kernel, const(bias), pads=[size // 2] * 4, **attributes)

    x = op("Relu", conv("x", 12, 3, 3))
    x = op("Relu", conv(op("Add", conv(x, 12, 12, 3), x), 16, 12, 3))
    y = op("LeakyRelu", conv(x, 32, 16, 1, strides=[2, 2]), alpha=0.2)
    y = op("Clip", conv(y, 32, 1, 3, group=32), const(np.float32(0)), const(np.float32(6)))
    z = op("Sigmoid", conv(op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 32, 16, 3))
    y = op("Concat", y, z, axis=1)
    y = op("AveragePool", conv(y, 32, 32, 3, group=2), kernel_shape=[2, 2], strides=[2, 2])
    mode = {"mode": resize, "coordinate_transformation_mode": "asymmetric" if resize == "nearest" else "half_pixel"}
    rounding = {"nearest_mode": "floor"} if resize == "nearest" else {}
    y = op("Resize", y, "", const(np.array([1, 1, 2, 2], np.float32)), **mode, **rounding)
    ends = [op(f"Global{kind}Pool", conv(y, 32, 32, 3)) for kind in ("Average", "Max")]
    y = op("Flatten", op("Concat", *ends, axis=1))
    op("Elu", op("Gemm", y, const(random.standard_normal((64, 5)).astype(np.float32)), const(np.zeros(5, np.float32))))
    nodes[-1].output[0] = "features"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [info("features", TensorProto.FLOAT, ["N", 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _saved(model: onnx.ModelProto, path: Any, level: str) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


@pytest.mark.parametrize("level", ["EXTENDED", "ALL"])
@pytest.mark.parametrize("resize", ["nearest", "linear"])
def test_a_network_that_onnxruntime_saved_is_the_network_that_it_was(tmp_path, level, resize):
    original = _network(resize)
    saved = _saved(original, tmp_path / "saved.onnx", level)
    own = {(node.domain, node.op_type) for node in saved.graph.node if node.domain}
    assert (MICROSOFT, "FusedGemm") in own
    blocked = {op for domain, op in own if domain == BLOCKED}
    if level == "EXTENDED":
        assert (MICROSOFT, "FusedConv") in own
    elif blocked:  # on processors without blocks the saved graph holds none
        expected = {op for domain, op in EXPANSIONS if domain == BLOCKED}
        assert blocked | {"ReorderInput"} == expected

    loaded = load_model(saved)
    assert not [node for node in loaded.model.graph if node.domain]
    assert any(note.startswith("onnxruntime's own ops were written out") for note in loaded.info.notes)
    x, v = _r(2, 3, 16, 16), _r(2, 3, 16, 16)
    (expected_slope,) = _slope64(original, {"x": x}, {"x": v})
    rewritten = rewrite(loaded.model)
    assert not [applied for applied in rewritten.applied if not applied.exact]
    names = [*rewritten.values_in, *rewritten.tangents_in]
    value, slope = _run(ir.to_proto(rewritten.model).SerializeToString(), dict(zip(names, (x, v[None]), strict=True)))
    _close(value, _run(saved, {"x": x})[0], 2e-6)
    _close(slope[0], expected_slope, 2e-5)  # ten float32 layers


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("channels", [4, 12, 16, 36])
def test_reordering_channels_there_and_back_is_nothing(channels, last):
    nodes = [
        helper.make_node("ReorderInput", ["x"], ["b"], domain=BLOCKED, channels_last=last),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("ReorderOutput", ["r"], ["y"], domain=BLOCKED, channels_last=last, channels=channels),
    ]
    x = _r(1, 3, 5, channels) if last else _r(1, channels, 3, 5)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "blocks", info[:1], info[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED, 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))
    done = expand(model)
    if not done:
        pytest.skip("onnxruntime keeps no channels in blocks on this processor")
    (y,) = _run(ir.to_proto(model), {"x": x})
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_every_op_that_is_written_out_has_a_case():
    cased = {(case.domain, case.op) for case in CASES.values()}
    quantisers = {(MICROSOFT, "QuantizeLinear"), (MICROSOFT, "DequantizeLinear")}
    blocked = {(domain, op) for domain, op in EXPANSIONS if domain == BLOCKED}
    simplified = {(MICROSOFT, "SimplifiedLayerNormalization")}  # what reading makes of the one in the default domain
    assert cased | quantisers | blocked | simplified == set(EXPANSIONS)


def test_a_form_that_is_not_covered_stays_and_is_reported():
    lengths = np.array([4, 5], np.int32)
    case = Case("Attention", {"x": _TOKENS}, {**_QKV, "m": lengths}, {"num_heads": 3}, "xwbm")
    model = ir.from_proto(case.model())
    assert not expand(model)
    measure_shapes(model, feeds=case.moving)
    (applied,) = rewrite(model).applied
    assert (applied.op, applied.exact) == ("com.microsoft::Attention", False)


def test_what_stands_in_a_branch_is_written_out_too():
    info = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("FastGelu", ["x"], ["inside"], domain=MICROSOFT)],
        "branch",
        [],
        [info("inside", TensorProto.FLOAT, [2, 9])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)],
        "branching",
        [info("x", TensorProto.FLOAT, [2, 9])],
        [info("y", TensorProto.FLOAT, [2, 9])],
        [numpy_helper.from_array(np.array(True), "always")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    applied = rewrite(ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))).applied
    assert {a.op for a in applied} == {"Add", "Mul", "Tanh"}
    assert all(a.exact for a in applied)


@pytest.mark.parametrize(("opset", "per_channel"), [(10, False), (11, False), (17, True)])
def test_quantisers_at_old_opsets_are_those_of_the_standard(opset, per_channel):
    scale = np.array([0.1, 0.2, 0.05], np.float32) if per_channel else np.array(0.1, np.float32)
    zero = np.zeros(scale.shape, np.uint8) + np.uint8(128)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain=MICROSOFT),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain=MICROSOFT),
        ],
        "quantised",
        [info("x", TensorProto.FLOAT, [2, 3, 4])],
        [info("y", TensorProto.FLOAT, [2, 3, 4])],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    model = ir.from_proto(proto)
    expand(model)
    assert {node.domain for node in model.graph} == {""}
    x = _r(2, 3, 4)
    np.testing.assert_array_equal(_run(ir.to_proto(model), {"x": x})[0], _run(proto, {"x": x})[0])
    assert {(a.op, a.differentiable) for a in rewrite(model).applied} == {
        ("QuantizeLinear", False),
        ("DequantizeLinear", False),
    }


def test_a_graph_with_ops_that_the_checker_does_not_know_is_read():
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("ImageScaler", ["x"], ["s"], scale=0.5, bias=[1.0, 2.0, 3.0]),
            helper.make_node("GlobalAveragePool", ["s"], ["p"]),
            helper.make_node("Flatten", ["p"], ["features"]),
        ],
        "old",
        [info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("features", TensorProto.FLOAT, [1, 3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)
    loaded = load_model(proto.SerializeToString())
    x = _r(1, 3, 8, 8)
    (z,) = _run(ir.to_proto(loaded.model), {loaded.input_name: x})
    _close(z, 0.5 * x.mean((2, 3)) + np.array([1, 2, 3], np.float32), 1e-6)


def test_quantised_ops_of_onnxruntime_are_reported_as_steps():
    """A graph as onnxruntime quantises it: every op of its own domain is piecewise constant."""
    parameters = {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8)}
    parameters |= {"w": np.arange(24, dtype=np.uint8).reshape(3, 8), "zw": np.array(12, np.uint8)}
    scaled = ["s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *scaled], ["q"]),
        helper.make_node("QLinearSigmoid", ["q", *scaled, *scaled], ["a"], domain=MICROSOFT),
        helper.make_node("QLinearLeakyRelu", ["q", *scaled, *scaled], ["l"], domain=MICROSOFT, alpha=0.1),
        helper.make_node("QLinearAdd", ["a", *scaled, "l", *scaled, *scaled], ["b"], domain=MICROSOFT),
        helper.make_node("QLinearMul", ["b", *scaled, "a", *scaled, *scaled], ["m"], domain=MICROSOFT),
        helper.make_node("QLinearConcat", [*scaled, "m", *scaled, "m", *scaled], ["k"], domain=MICROSOFT, axis=1),
        helper.make_node("QLinearAveragePool", ["m", *scaled, *scaled], ["v"], domain=MICROSOFT, kernel_shape=[2, 2]),
        helper.make_node("QLinearGlobalAveragePool", ["v", *scaled, *scaled], ["p"], domain=MICROSOFT),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("QGemm", ["f", *scaled, "w", "s", "zw", "", *scaled], ["g"], domain=MICROSOFT),
        helper.make_node("QLinearSoftmax", ["g", *scaled, *scaled], ["t"], domain=MICROSOFT, axis=-1, opset=13),
        helper.make_node("DequantizeLinear", ["t", *scaled], ["features"]),
        helper.make_node("DequantizeLinear", ["k", *scaled], ["more"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "quantised",
        [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("features", TensorProto.FLOAT, ["N", 8]), info("more", TensorProto.FLOAT, ["N", 6, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(MICROSOFT, 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))
    applied = rewrite(model, outputs=["features"]).applied
    steps = {a.op for a in applied if not a.differentiable}
    assert {a.op for a in applied} - steps <= {"Flatten"}
    own = {f"{MICROSOFT}::{node.op_type}" for node in nodes if node.domain and node.op_type != "QLinearConcat"}
    assert own < steps


def test_constants_of_a_graph_of_16_bits_keep_their_digits():
    """1e-12, the op's own epsilon, is 0 in float16; the audited graph is float32 and needs it where rows are flat."""
    scale = np.ones(8, np.float16)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Unsqueeze", ["f", "one"], ["t"]),
        helper.make_node("SkipSimplifiedLayerNormalization", ["t", "t", "g"], ["n"], domain=MICROSOFT),
        helper.make_node("FastGelu", ["n"], ["a"], domain=MICROSOFT),
        helper.make_node("Flatten", ["a"], ["features"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "half",
        [info("x", TensorProto.FLOAT16, ["N", 3, 4, 4])],
        [info("features", TensorProto.FLOAT16, ["N", 3])],
        [numpy_helper.from_array(scale[:3], "g"), numpy_helper.from_array(np.array([1]), "one")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    loaded = load_model(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    x = np.zeros((2, 3, 4, 4), np.float32)
    x[1] = 1e-5
    (z,) = _run(ir.to_proto(loaded.model), {loaded.input_name: x})
    normal = 2e-5 / math.sqrt((2e-5) ** 2 + 1e-12)
    right = normal / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (normal + 0.044715 * normal**3)))
    np.testing.assert_allclose(z, [[0, 0, 0], [right] * 3], rtol=1e-5)
