"""Ops that rename, move or repeat elements."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.extents import Extent, Symbolic, product, ratio
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.nodes import required
from lieaudit.ops.adjoints.arithmetic import Outputs, first


def identity(_a: Adjoint, _node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Pass u on."""
    return first(ys)


def cast(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Cast back."""
    return a.cast(first(ys), required(node, 0))


def renamed(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Reshape back."""
    return a.reshape(first(ys), a.sizes_of(required(node, 0)))


def transpose(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Permute back."""
    rank = a.rank_of(node.outputs[0])
    perm = list(node.attributes.get_ints("perm", list(reversed(range(rank)))))
    return a.transpose(first(ys), [perm.index(k) for k in range(rank)])


def expand(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Sum over what was repeated."""
    return a.sum_to(first(ys), a.sizes_of(node.outputs[0]), a.sizes_of(required(node, 0)))


def tile(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Sum over the tiles."""
    made, given = a.sizes_of(node.outputs[0]), a.sizes_of(required(node, 0))
    split: list[Extent] = []
    gone = []
    for size, part in zip(made, given, strict=True):
        if size != part:
            gone.append(len(split))
            split.append(_ratio(node, size, part))
        split.append(part)
    return a.reduce("Sum", a.reshape(first(ys), split), gone, keepdims=False) if gone else first(ys)


def _ratio(node: ir.Node, size: Extent, part: Extent) -> Extent:
    times = ratio(size, part)
    if times is None:
        raise UnsupportedOpError(
            f"{node.op_type} {node.name!r} repeats an axis that has no fixed size",
            reason="DYNAMIC_SHAPE",
            subject=node.name or node.op_type,
            hint="export the model with fixed sizes",
        )
    return times


def concat(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Cut the operand's part out."""
    axis = node.attributes.get_int("axis", 1) % a.rank_of(node.outputs[0])
    lengths = [a.sizes_of(required(node, k))[axis] for k in range(i + 1)]
    start, end = _runtime_sum(a, lengths[:-1]), _runtime_sum(a, lengths)
    return a.op("Slice", first(ys), start, end, a.ints([axis]))


def _runtime_sum(a: Adjoint, sizes: list[Extent]) -> ir.Value:
    fixed = sum(size for size in sizes if isinstance(size, int))
    total = a.ints([fixed])
    for size in sizes:
        if not isinstance(size, int):
            total = a.op("Add", total, a.size(size))
    return total


def split(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Join the parts, zeros where nothing depends on one."""
    axis = node.attributes.get_int("axis", 0)
    like = next(y for y in ys if y is not None)
    parts = [a.zeros(a.sizes_of(value), like) if y is None else y for y, value in zip(ys, node.outputs, strict=True)]
    return a.op("Concat", *parts, axis=axis % a.rank_of(node.outputs[0]))


def depth_to_space(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Weave the sub-pixels back into channels."""
    u, block = first(ys), node.attributes["blocksize"].as_int()
    if node.attributes.get_string("mode", "DCR") == "DCR":
        return a.op("SpaceToDepth", u, blocksize=block)
    n, c, h, w = a.sizes_of(required(node, 0))
    shape = [n, product([c, Symbolic((), 1, block**2)]), h, block, w, block]
    woven = a.op("Transpose", a.reshape(u, shape), perm=[0, 1, 3, 5, 2, 4])
    return a.reshape(woven, [n, c, h, w])


def space_to_depth(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Weave the channels back into sub-pixels."""
    return a.op("DepthToSpace", first(ys), blocksize=node.attributes["blocksize"].as_int())
