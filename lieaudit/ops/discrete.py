"""Ops that jump: their output is piecewise constant, made of integers or truth values, or does not read the image."""

from __future__ import annotations

from lieaudit.ops.elementwise_axes import nary, unary
from lieaudit.ops.op import ALL, INTEGER_RULE, STEP_NOTE, Op, Rule, draws

_INTEGERS = Rule(INTEGER_RULE, operands=(), outputs=ALL, steps=ALL)
_STEPS = Rule("piecewise constant", operands=(), outputs=ALL, steps=ALL, differentiable=False, note=STEP_NOTE)
_SHAPE = Rule(INTEGER_RULE, operands=(), outputs=ALL, ignored=ALL)

OPS = (
    *(
        Op(name, tangent=_INTEGERS, layout=nary)
        for name in ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor")
    ),
    *(Op(name, tangent=_INTEGERS, layout=unary) for name in ("IsInf", "IsNaN", "Not")),
    *(Op(name, tangent=_INTEGERS, sized_by=ALL) for name in ("NonMaxSuppression", "NonZero")),
    *(Op(name, tangent=_STEPS, layout=unary) for name in ("Ceil", "Floor", "Round", "Sign")),
    Op("Hardmax", tangent=_STEPS, layout=unary, of_classes=True),
    Op("BitShift", tangent=_STEPS, layout=nary),
    *(Op(name, tangent=_STEPS, random=draws) for name in ("Bernoulli", "Multinomial")),
    *(Op(name, tangent=_SHAPE, random=draws) for name in ("RandomNormal", "RandomUniform")),
    *(Op(name, tangent=_SHAPE, shape_only=True, random=draws) for name in ("RandomNormalLike", "RandomUniformLike")),
    *(Op(name, tangent=_SHAPE, shape_only=True) for name in ("EyeLike", "Shape", "Size")),
    # its operand is a shape: integers
    Op("ConstantOfShape", tangent=_SHAPE, sized_by=(0,)),
)
