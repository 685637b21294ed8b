"""Imports every module of rules, so that the table is complete."""

from lieaudit.graph.forward.rules import (
    arithmetic,
    convolution,
    discrete,
    layout,
    matmul,
    normalization,
    pointwise,
    pooling,
    reduction,
    sampling,
    selection,
    softmax,
)

__all__ = [
    "arithmetic",
    "convolution",
    "discrete",
    "layout",
    "matmul",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "sampling",
    "selection",
    "softmax",
]
