"""onnxruntime's own ops written out in ops of the ONNX standard, so that rules, heads and layouts meet only those.

A graph that onnxruntime optimised and saved holds ops of its own: convolutions with their activation, attention as one
node, normalisations with the sum before them, convolutions on channels in blocks. Each is a product of ops that the
standard has, and `expand` puts them in its place. One function an op, in the module of its family; `EXPANSIONS` is the
table. A form that no function covers stays as it is: the generic rule differentiates it, and the report says so.
"""

from __future__ import annotations

from lieaudit.graph.forward.fused import (
    activations,
    attention,
    blocked,
    experimental,
    namesakes,
    normalisation,
    products,
)
from lieaudit.graph.forward.fused.body import EXPANSIONS, MICROSOFT
from lieaudit.graph.forward.fused.expand import expand, known

__all__ = [
    "EXPANSIONS",
    "MICROSOFT",
    "activations",
    "attention",
    "blocked",
    "expand",
    "experimental",
    "known",
    "namesakes",
    "normalisation",
    "products",
]
