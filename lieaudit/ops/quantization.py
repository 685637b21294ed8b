"""Quantisation: piecewise constant, and so is everything behind it."""

from __future__ import annotations

from dataclasses import replace

from lieaudit.ops.convolution import convolution_axes
from lieaudit.ops.elementwise_axes import unary
from lieaudit.ops.fused.namesakes import quantiser
from lieaudit.ops.op import ALL, MICROSOFT, QUANTISATION_RULE, Kind, Op, Rule

_NOTE = (
    "piecewise constant, derivative zero almost everywhere, and so is everything behind it: "
    "the limit t → 0 is not meaningful, use finite differences with a stated step"
)
_STEPS = Rule(QUANTISATION_RULE, operands=(), outputs=(), steps=ALL, differentiable=False, note=_NOTE)
_FUSED = {
    "DynamicQuantizeLSTM": None, "DynamicQuantizeMatMul": None, "MatMulInteger16": None, "MatMulIntegerToFloat": None,
    "MulInteger": None, "QAttention": None, "QEmbedLayerNormalization": None, "QGemm": 7, "QLinearAdd": 6,
    "QLinearAveragePool": 3, "QLinearConcat": 0, "QLinearConv": 6, "QLinearGlobalAveragePool": 3,
    "QLinearLeakyRelu": 3, "QLinearMul": 6, "QLinearReduceMean": 3, "QLinearSigmoid": 3, "QLinearSoftmax": 3,
    "QLinearWhere": 7, "QuantizeLinear": 1, "ReduceSumInteger": None,
}  # fmt: skip
"""Those of onnxruntime's own domain, which it fuses a quantised graph into, and the operand of their output's scale."""

_HEADS = {"QLinearSigmoid": "sigmoid", "QLinearSoftmax": "softmax"}

_DEQUANTISED = Rule(QUANTISATION_RULE, operands=(), steps=(0, 2), differentiable=False, note=_NOTE)
"""A scale that follows the image is not covered: the output is linear in it."""

OPS = (
    Op("QuantizeLinear", tangent=_STEPS, layout=unary, scale=1),
    Op("DequantizeLinear", tangent=_DEQUANTISED, layout=unary),
    Op("DequantizeLinear", MICROSOFT, tangent=_DEQUANTISED, layout=unary, expansion=quantiser),
    Op("DynamicQuantizeLinear", tangent=_STEPS),
    Op("QLinearConv", tangent=_STEPS, scale=6),
    Op("QLinearMatMul", tangent=_STEPS, scale=6),
    Op("ConvInteger", tangent=_STEPS, layout=convolution_axes, kind=Kind.CONVOLUTION),
    Op("MatMulInteger", tangent=_STEPS),
    *(
        Op(name, MICROSOFT, tangent=replace(_STEPS, outputs=ALL),
           expansion=quantiser if name == "QuantizeLinear" else None, scale=scale, head=_HEADS.get(name, ""))
        for name, scale in _FUSED.items()
    ),
)  # fmt: skip
