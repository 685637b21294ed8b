"""Scaled dot-product attention as one op (Vaswani et al. 2017, section 3.2), written out."""

from __future__ import annotations

import math

import numpy as np
import onnx

from lieaudit.ops.attention import attention_axes
from lieaudit.ops.body import Body, NotCovered
from lieaudit.ops.op import MICROSOFT, Kind, Op

_MASKED = -10000.0
"""What a masked score gets by default."""


def _attention(b: Body) -> None:
    """Projections inside: (N, S, hidden) times weights (hidden, Q + K + V)."""
    if any(b.has(i) for i in (4, 6)) or b.flag("do_rotary") or b.wants(1):
        raise NotCovered("past keys and values, or rotary positions")
    heads = b.attributes["num_heads"].as_int()
    sizes = list(b.attributes.get_ints("qkv_hidden_sizes", [b.size(1, 1) // 3] * 3))
    projected = b.op("MatMul", b.input(0), b.input(1))
    if b.has(2):
        projected = b.op("Add", projected, b.input(2))
    query, key, value = (
        _heads(b, part, heads, size // heads) for part, size in zip(b.split(projected, sizes, -1), sizes, strict=True)
    )
    bias = [b.input(5)] if b.has(5) else []
    if b.has(3):
        bias.append(_mask(b, 3))
    b.result(_attended(b, query, key, value, bias, sizes[0] // heads))


def _multi_head_attention(b: Body) -> None:
    """Projections outside, each (N, S, hidden); bias holds those of query, key and value one after the other."""
    if any(b.has(i) for i in (6, 7, 8, 9)) or any(b.wants(i) for i in (1, 2, 3)):
        raise NotCovered("past keys and values, or scores as output")
    if not (b.has(1) and b.has(2)) or b.rank(0) != 3 or b.rank(1) not in {3, 4}:
        raise NotCovered("query, key and value in one tensor")
    heads = b.attributes["num_heads"].as_int()
    size = b.size(0, -1) // heads
    parts = [b.input(i) for i in range(3)]
    if b.has(3):
        if b.rank(1) != 3:
            raise NotCovered("a bias of keys that have heads already")
        widths = [size * heads, size * heads, b.size(3, 0) - 2 * size * heads]
        parts = [b.op("Add", part, bias) for part, bias in zip(parts, b.split(b.input(3), widths, 0), strict=True)]
    query = _heads(b, parts[0], heads, size)
    # -1 where only the width is known: the value's heads may be of another size
    key, value = parts[1:] if b.rank(1) == 4 else (_heads(b, parts[1], heads, size), _heads(b, parts[2], heads, -1))
    bias = [b.input(5)] if b.has(5) else []
    if b.has(4):
        bias.append(_mask(b, 4))
    b.result(_attended(b, query, key, value, bias, size))


def _heads(b: Body, x: str, heads: int, size: int) -> str:
    """Turn (N, S, heads · size) into (N, heads, S, size)."""
    return b.op("Transpose", b.op("Reshape", x, b.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])


def _mask(b: Body, index: int) -> str:
    """Return what a mask of zeros and ones, (N, T) or (N, S, T), adds to the scores (N, heads, S, T)."""
    rank = b.rank(index)
    if rank not in {2, 3}:
        raise NotCovered(f"a mask of rank {rank}")
    hidden = b.op("Equal", b.input(index), b.const(np.array(0, np.int32)))
    number = onnx.helper.np_dtype_to_tensor_dtype(b.dtype)
    added = b.scaled(b.op("Cast", hidden, to=number), b.attributes.get_float("mask_filter_value", _MASKED))
    return b.unsqueeze(added, 1, 2) if rank == 2 else b.unsqueeze(added, 1)


def _attended(b: Body, query: str, key: str, value: str, bias: list[str], size: int) -> str:
    """Write softmax(scale · Q Kᵀ + bias) V, and join the heads."""
    if b.flag("unidirectional"):
        steps = b.size(0, 1)
        bias = [*bias, b.const(np.triu(np.full((steps, steps), np.finfo(b.dtype).min, b.dtype), 1))]
    scale = b.attributes.get_float("scale", 0.0) or 1.0 / math.sqrt(size)
    scores = b.scaled(b.op("MatMul", query, b.op("Transpose", key, perm=[0, 1, 3, 2])), scale)
    for term in bias:
        scores = b.op("Add", scores, term)
    # before opset 13 a Softmax takes all axes from its axis on: of the last one, the two are the same
    joined = b.op("Transpose", b.op("MatMul", b.op("Softmax", scores, axis=3), value), perm=[0, 2, 1, 3])
    return b.op("Reshape", joined, b.ints(0, 0, -1))


OPS = (
    Op("Attention", MICROSOFT, expansion=_attention, layout=attention_axes, kind=Kind.ATTENTION),
    Op("MultiHeadAttention", MICROSOFT, expansion=_multi_head_attention, layout=attention_axes, kind=Kind.ATTENTION),
)
