"""Ops that are piecewise constant: their derivative is zero almost everywhere, and says nothing about finite steps."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import RULES, Outputs, Rule

INTEGER_RULE = "integer or constant"
QUANTISATION_RULE = "quantisation"

QUANTISATION = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
MICROSOFT_QUANTISATION = (
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "MulInteger",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearReduceMean",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QLinearWhere",
    "QuantizeLinear",
    "ReduceSumInteger",
)
"""Those of onnxruntime's own domain: it fuses a quantised graph into them."""
STEPS = ("Round", "Floor", "Ceil", "Sign", "OneHot", "BitShift", "Mod", "Multinomial", "Bernoulli")
INTEGER = (
    "ArgMax",
    "ArgMin",
    "Shape",
    "Size",
    "NonZero",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "And",
    "Or",
    "Xor",
    "Not",
    "IsNaN",
    "IsInf",
    "EyeLike",
    "ConstantOfShape",
    "RandomNormalLike",
    "RandomUniformLike",
    "NonMaxSuppression",
    "Unique",
    "Hardmax",
)
"""Ops whose output is made of integers, truth values or constants: nothing is lost by a zero derivative, except that
the jump itself is not seen."""


def zero(_context: Context, _node: ir.Node) -> Outputs:
    """No tangent."""
    return None


RULES.update(
    {
        key: Rule(
            QUANTISATION_RULE,
            zero,
            differentiable=False,
            note=(
                "piecewise constant, derivative zero almost everywhere, and so is everything behind it: "
                "the limit t → 0 is not meaningful, use finite differences with a stated step"
            ),
        )
        for key in (
            *(("", op_type) for op_type in QUANTISATION),
            *(("com.microsoft", op_type) for op_type in MICROSOFT_QUANTISATION),
        )
    }
)
RULES.update(
    {
        ("", op_type): Rule(
            "piecewise constant",
            zero,
            differentiable=False,
            note="derivative zero almost everywhere; jumps are not seen",
        )
        for op_type in STEPS
    }
)
RULES.update({("", op_type): Rule(INTEGER_RULE, zero) for op_type in INTEGER})
