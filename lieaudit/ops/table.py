"""The table of ops, gathered from the families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import onnx_ir as ir

from lieaudit.ops import (
    arithmetic,
    attention,
    convolution,
    discrete,
    linear_models,
    matmul,
    normalization,
    pointwise,
    pooling,
    quantization,
    rearrange,
    recurrent,
    reduction,
    resampling,
    sampling,
    scatter,
    selection,
    sequences,
    softmax,
)
from lieaudit.ops.fused import activations, blocked, experimental, namesakes, normalisation, products
from lieaudit.ops.fused import attention as fused_attention
from lieaudit.ops.op import Kind, Op, OpName, Rule, Use, name_of

_FAMILIES = (
    arithmetic, attention, convolution, discrete, linear_models, matmul, normalization, pointwise, pooling,
    quantization, rearrange, recurrent, reduction, resampling, sampling, scatter, selection, sequences, softmax,
    activations, blocked, experimental, fused_attention, namesakes, normalisation, products,
)  # fmt: skip


def _table(ops: Iterable[Op]) -> dict[OpName, Op]:
    table: dict[OpName, Op] = {}
    for op in ops:
        if op.key in table:
            raise ValueError(f"{op.domain}::{op.name} has an entry already")
        table[op.key] = op
    return table


OPS: dict[OpName, Op] = _table(op for family in _FAMILIES for op in family.OPS)


def lookup(node: ir.Node) -> Op | None:
    """Return the entry of a node's op; None where the project knows nothing of it."""
    return OPS.get(name_of(node))


def rearranges(node: ir.Node) -> bool:
    """Say whether a node only renames, moves or recasts the elements of its first operand, each once."""
    op = lookup(node)
    return op is not None and op.kind == Kind.REARRANGEMENT


def is_random(node: ir.Node, opset: int) -> str:
    """Say how a node's output is no function of one image (`Op.random`); empty where it is one."""
    op = lookup(node)
    return op.random(Use.of(node, opset, ())) if op is not None else ""


@contextmanager
def replaced_rule(op_type: str, new: Rule | None, domain: str = "") -> Iterator[None]:
    """Use another rule for an op inside the ``with`` block (None: no own rule, as if the op were unknown)."""
    key = (domain, op_type)
    before = OPS.get(key)
    OPS[key] = replace(before or Op(op_type, domain), tangent=new)
    try:
        yield
    finally:
        if before is None:
            del OPS[key]
        else:
            OPS[key] = before
