"""Ops that move, copy or drop elements: linear, applied to the rows as to the values, axes shifted by the lead."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.forward.context import Context, constant, has_input, ints_of
from lieaudit.graph.forward.rules import Outputs, rule
from lieaudit.graph.forward.tangent import Tangent

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def _first(context: Context, node: ir.Node) -> Tangent:
    tangent = context.tangent(node.inputs[0])
    assert tangent is not None  # noqa: S101 - accepted only so
    return tangent


def only_first(context: Context, node: ir.Node) -> bool:
    """Say whether the first input is the only one that carries a tangent."""
    return context.active(node) == [0]


def _stacked(context: Context, node: ir.Node, rows: ir.Value, index: int = 0) -> Tangent:
    return context.stacked(rows, context.dims(node.outputs[index]))


def ints_input(node: ir.Node, index: int) -> list[int]:
    """Give a constant integer input; an error names it where the graph computes it."""
    value = node.inputs[index]
    array = constant(value)
    if array is None:
        raise UnsupportedOpError(
            f"input {index} of {node.op_type} {node.name!r} is computed by the graph",
            reason="DYNAMIC_AXES",
            subject=node.name or node.op_type,
            hint="export with constant axes",
        )
    return [int(v) for v in array.reshape(-1)]


@rule("Identity", "Dropout", name="identity", accepts=lambda _context, node: not _training(node))
def identity(context: Context, node: ir.Node) -> Outputs:
    """Pass on the tangent; Dropout does nothing at inference."""
    return [_first(context, node), *[None] * (len(node.outputs) - 1)]


def _training(node: ir.Node) -> bool:
    if node.op_type != "Dropout" or not has_input(node, 2):
        return False
    array = constant(node.inputs[2])
    return array is None or bool(array.reshape(-1)[0])


@rule("Cast", "CastLike", name="cast")
def cast(context: Context, node: ir.Node) -> Outputs:
    """Pass on the tangent: a cast between floats is the identity (its rounding is the value's own)."""
    tangent = context.tangent(node.inputs[0])
    y = node.outputs[0]
    if tangent is None or y.dtype not in _FLOATS:
        return None
    assert node.inputs[0] is not None  # noqa: S101 - required input
    if node.inputs[0].dtype == y.dtype:
        return tangent
    return _stacked(context, node, context.cast(context.stack(tangent), y))


@rule("Transpose", name="layout")
def transpose(context: Context, node: ir.Node) -> Outputs:
    """Transpose of the axes behind the directions."""
    tangent = _first(context, node)
    perm = node.attributes.get_ints("perm", list(reversed(range(tangent.rank))))
    lead = list(range(context.lead))
    rows = context.op("Transpose", context.stack(tangent), perm=lead + [p + context.lead for p in perm])
    return _stacked(context, node, rows)


@rule("Reshape", name="layout", accepts=only_first)
def reshape(context: Context, node: ir.Node) -> Outputs:
    """Reshape with the axis of directions kept in front."""
    tangent, shape = _first(context, node), node.inputs[1]
    assert shape is not None  # noqa: S101 - required input
    rows = context.stack(tangent)
    if not context.lead:
        return _stacked(context, node, context.op("Reshape", rows, shape, attributes=node.attributes))
    if node.attributes.get_int("allowzero", 0):
        # A zero is a size here: the number of directions has to be given.
        target = context.op("Concat", context.count, shape, axis=0)
        return _stacked(context, node, context.op("Reshape", rows, target, attributes=node.attributes))
    array = constant(shape)
    # 0 keeps the size at its place, and every place moved by one on both sides.
    target = (
        context.op("Concat", context.ints([0]), shape, axis=0)
        if array is None
        else context.ints([0, *(int(v) for v in array.reshape(-1))])
    )
    return _stacked(context, node, context.op("Reshape", rows, target))


@rule("Flatten", name="layout")
def flatten(context: Context, node: ir.Node) -> Outputs:
    """Reshape to the output's shape."""
    return reshaped(context, _first(context, node), node.outputs[0])


def reshaped(context: Context, tangent: Tangent, like: ir.Value) -> Tangent:
    """Give a tangent in the shape of a value with the same elements."""
    rows, dims = context.stack(tangent), context.dims(like)
    free = [i for i, size in enumerate(dims) if not isinstance(size, int)]
    if len(free) <= 1:
        fixed = [-1 if i in free else int(size) for i, size in enumerate(dims)]
        target = context.ints([*([0] if context.lead else []), *fixed])
    else:
        target = context.op("Shape", like, dtype=ir.DataType.INT64)
        if context.lead:
            target = context.op("Concat", context.ints([0]), target, axis=0)
    return context.stacked(context.op("Reshape", rows, target), dims)


@rule("Squeeze", "Unsqueeze", name="layout", accepts=only_first)
def squeeze(context: Context, node: ir.Node) -> Outputs:
    """Drop or insert axes of size 1: a reshape to the output's shape."""
    return reshaped(context, _first(context, node), node.outputs[0])


@rule("Concat", name="layout")
def concat(context: Context, node: ir.Node) -> Outputs:
    """Concatenate the tangents, zeros where an input does not move."""
    out = node.outputs[0]
    rank = context.rank(out)
    axis = node.attributes.get_int("axis", 1) % rank
    tangents = [context.tangent(value) for value in node.inputs]
    bare = [None if t is None else context.multiplied(t) for t in tangents]
    if axis > 0 and all(t is not None and t.folded is not None for t in bare):
        folded = [t.folded for t in bare if t is not None]
        return context.folded(context.op("Concat", *folded, axis=axis), context.dims(out))
    like = next(t for t in bare if t is not None)
    parts = [
        _zeros(context, value, context.stack(like)) if t is None else context.stack(t)
        for value, t in zip(node.inputs, bare, strict=True)
        if value is not None
    ]
    return _stacked(context, node, context.op("Concat", *parts, axis=axis + context.lead))


def _zeros(context: Context, value: ir.Value, like: ir.Value) -> ir.Value:
    """Give zero rows for a value that does not move."""
    shape = context.op("Shape", value, dtype=ir.DataType.INT64)
    if context.lead:
        shape = context.op("Concat", context.count, shape, axis=0)
    return context.op("Expand", context.number(0, like), shape)


@rule("Split", name="layout", accepts=only_first)
def split(context: Context, node: ir.Node) -> Outputs:
    """Split along the shifted axis."""
    tangent = _first(context, node)
    attributes = dict(node.attributes)
    axis = node.attributes.get_int("axis", 0)
    attributes["axis"] = ir.AttrInt64("axis", context.shift([axis], tangent.rank)[0])
    rows = context.ops(
        "Split", context.stack(tangent), *node.inputs[1:], outputs=len(node.outputs), attributes=attributes
    )
    return [_stacked(context, node, r, i) for i, r in enumerate(rows)]


@rule("Slice", name="layout", accepts=only_first)
def slice_(context: Context, node: ir.Node) -> Outputs:
    """Slice along the shifted axes."""
    tangent = _first(context, node)
    rows = context.stack(tangent)
    if "starts" in node.attributes:
        starts, ends = ints_of(node, "starts"), ints_of(node, "ends")
        assert starts is not None  # noqa: S101 - required attributes of the old form
        assert ends is not None  # noqa: S101
        axes = ints_of(node, "axes") or list(range(len(starts)))
        axes = context.shift(axes, tangent.rank)
        return _stacked(context, node, context.op("Slice", rows, starts=starts, ends=ends, axes=axes))
    if has_input(node, 3):
        axes_value = context.ints(context.shift(ints_input(node, 3), tangent.rank))
    else:
        start = node.inputs[1]
        assert start is not None  # noqa: S101 - required input
        count = int(context.dims(start)[0])
        axes_value = context.ints(context.shift(range(count), tangent.rank))
    return _stacked(
        context, node, context.op("Slice", rows, node.inputs[1], node.inputs[2], axes_value, *node.inputs[4:])
    )


@rule("Gather", name="layout", accepts=only_first)
def gather(context: Context, node: ir.Node) -> Outputs:
    """Gather along the shifted axis."""
    tangent = _first(context, node)
    axis = context.shift([node.attributes.get_int("axis", 0)], tangent.rank)[0]
    return _stacked(context, node, context.op("Gather", context.stack(tangent), node.inputs[1], axis=axis))


@rule("GatherElements", name="layout", accepts=only_first)
def gather_elements(context: Context, node: ir.Node) -> Outputs:
    """Gather elements with the indices repeated for every direction."""
    tangent, indices = _first(context, node), node.inputs[1]
    assert indices is not None  # noqa: S101 - required input
    axis = context.shift([node.attributes.get_int("axis", 0)], tangent.rank)[0]
    return _stacked(
        context,
        node,
        context.op("GatherElements", context.stack(tangent), repeat_stacked(context, indices), axis=axis),
    )


def repeat_stacked(context: Context, value: ir.Value) -> ir.Value:
    """Repeat a value for every direction: (D, *shape)."""
    if not context.lead:
        return value
    sizes = context.op("Shape", value, dtype=ir.DataType.INT64)
    return context.op("Expand", value, context.op("Concat", context.count, sizes, axis=0))


@rule("GatherND", name="layout", accepts=only_first)
def gather_nd(context: Context, node: ir.Node) -> Outputs:
    """GatherND with the axis of directions as one more batch axis."""
    tangent, indices = _first(context, node), node.inputs[1]
    assert indices is not None  # noqa: S101 - required input
    batch = node.attributes.get_int("batch_dims", 0) + context.lead
    rows = context.op("GatherND", context.stack(tangent), repeat_stacked(context, indices), batch_dims=batch or None)
    return _stacked(context, node, rows)


@rule("ScatterElements", "Scatter", name="layout", accepts=lambda _c, n: _plain_scatter(n))
def scatter_elements(context: Context, node: ir.Node) -> Outputs:
    """Scatter the tangents of the updates into the tangent of the data."""
    data, indices, updates = node.inputs
    assert data is not None  # noqa: S101 - required inputs
    assert indices is not None  # noqa: S101
    assert updates is not None  # noqa: S101
    axis = context.shift([node.attributes.get_int("axis", 0)], context.rank(data))[0]
    attributes = {"reduction": node.attributes["reduction"]} if "reduction" in node.attributes else {}
    rows = context.op(
        node.op_type,
        rows_or_zeros(context, data),
        repeat_stacked(context, indices),
        rows_or_zeros(context, updates),
        attributes=attributes,
        axis=axis,
    )
    return _stacked(context, node, rows)


def rows_or_zeros(context: Context, value: ir.Value) -> ir.Value:
    """Give the stacked rows of a value, zeros where it does not move."""
    tangent = context.tangent(value)
    return context.stack(tangent) if tangent is not None else _zeros(context, value, value)


def _plain_scatter(node: ir.Node) -> bool:
    return node.attributes.get_string("reduction", "none") in {"none", "add"}


@rule("ScatterND", name="layout", accepts=lambda _c, n: _plain_scatter(n))
def scatter_nd(context: Context, node: ir.Node) -> Outputs:
    """ScatterND on transposed rows: the directions go behind the indexed axes."""
    data, indices, updates = node.inputs
    assert data is not None  # noqa: S101 - required inputs
    assert updates is not None  # noqa: S101
    base, moved = rows_or_zeros(context, data), rows_or_zeros(context, updates)
    if context.lead:
        base, moved = _to_back(context, base, context.rank(data)), _to_back(context, moved, context.rank(updates))
    rows = context.op("ScatterND", base, indices, moved, attributes=node.attributes)
    if context.lead:
        rank = context.rank(data)
        rows = context.op("Transpose", rows, perm=[rank, *range(rank)])
    return _stacked(context, node, rows)


def _to_back(context: Context, rows: ir.Value, rank: int) -> ir.Value:
    return context.op("Transpose", rows, perm=[*range(1, rank + 1), 0])


@rule("Pad", name="layout", accepts=only_first)
def pad(context: Context, node: ir.Node) -> Outputs:
    """Pad with zeros where the values are padded with a constant; otherwise with the same mode."""
    tangent = _first(context, node)
    rank, rows = tangent.rank, context.stack(tangent)
    mode = node.attributes.get_string("mode", "constant")
    pads = ints_of(node, "pads", 1)
    if pads is None:
        return _stacked(context, node, context.op("Pad", rows, _dynamic_pads(context, node, rank), mode=mode))
    if has_input(node, 3):
        axes = [axis % rank for axis in ints_input(node, 3)]
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            full[axis], full[rank + axis] = pads[i], pads[len(axes) + i]
        pads = full
    lead = [0] * context.lead
    shifted = [*lead, *pads[:rank], *lead, *pads[rank:]]
    if context.opset >= 11:
        return _stacked(context, node, context.op("Pad", rows, context.ints(shifted), mode=mode))
    return _stacked(context, node, context.op("Pad", rows, pads=shifted, mode=mode))


def _dynamic_pads(context: Context, node: ir.Node, rank: int) -> ir.Value:
    """Give the pads with two zeros for the directions, where the graph computes them."""
    pads = node.inputs[1]
    assert pads is not None  # noqa: S101 - an input since opset 11
    if has_input(node, 3):
        axes = context.ints(axis % rank for axis in ints_input(node, 3))
        count = context.dims(pads)[0]
        assert isinstance(count, int)  # noqa: S101 - twice the number of axes
        zeros = context.ints([0] * rank)
        halves = [context.slice(pads, [i * count // 2], [(i + 1) * count // 2], [0]) for i in range(2)]
        full = [context.op("ScatterElements", zeros, axes, half, axis=0) for half in halves]
    else:
        full = [context.slice(pads, [i * rank], [(i + 1) * rank], [0]) for i in range(2)]
    lead = [context.ints([0])] if context.lead else []
    return context.op("Concat", *lead, full[0], *lead, full[1], axis=0)


@rule("Tile", name="layout", accepts=only_first)
def tile(context: Context, node: ir.Node) -> Outputs:
    """Tile, once along the directions."""
    repeats = node.inputs[1]
    if context.lead:
        repeats = context.op("Concat", context.ints([1]), repeats, axis=0)
    return _stacked(context, node, context.op("Tile", context.stack(_first(context, node)), repeats))


@rule("Expand", name="layout", accepts=only_first)
def expand(context: Context, node: ir.Node) -> Outputs:
    """Broadcast to the output's shape."""
    return context.broadcast(_first(context, node), node.outputs[0])


@rule("DepthToSpace", "SpaceToDepth", "Col2Im", name="layout", accepts=only_first)
def folded(context: Context, node: ir.Node) -> Outputs:
    """Give the same op on all directions as one batch."""
    rows = context.op(node.op_type, context.fold(_first(context, node)), *node.inputs[1:], attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


@rule("Resize", "Upsample", name="resize", accepts=only_first)
def resize(context: Context, node: ir.Node) -> Outputs:
    """Give the same interpolation on all directions as one batch, zero outside where a crop extrapolates."""
    rows = context.fold(_first(context, node))
    inputs = list(node.inputs)
    inputs[0] = rows
    attributes = dict(node.attributes)
    if attributes.pop("extrapolation_value", None) is not None:
        attributes["extrapolation_value"] = ir.AttrFloat32("extrapolation_value", 0.0)
    if len(inputs) > 3 and inputs[3] is not None and ints_of(node, "axes") is None:
        # sizes names the batch too; N becomes D·N.
        sizes = inputs[3]
        rest = context.slice(sizes, [1], [len(context.dims(node.outputs[0]))], [0])
        inputs[3] = context.op("Concat", context.sizes(rows, 0, 1), rest, axis=0)
    made = context.op(node.op_type, *inputs, dtype=rows.dtype, attributes=attributes)
    return context.folded(made, context.dims(node.outputs[0]))


@rule("CumSum", name="layout", accepts=only_first)
def cumulative(context: Context, node: ir.Node) -> Outputs:
    """Sum running along the shifted axis."""
    tangent = _first(context, node)
    axis = context.shift(ints_input(node, 1), tangent.rank)[0]
    rows = context.op(
        "CumSum", context.stack(tangent), context.const(np.array(axis, np.int64)), attributes=node.attributes
    )
    return _stacked(context, node, rows)


@rule("Trilu", name="layout", accepts=only_first)
def trilu(context: Context, node: ir.Node) -> Outputs:
    """Give the triangle of the last two axes."""
    rows = context.op("Trilu", context.stack(_first(context, node)), *node.inputs[1:], attributes=node.attributes)
    return _stacked(context, node, rows)


@rule("Einsum", name="matrix product")
def einsum(context: Context, node: ir.Node) -> Outputs:
    """D of a multilinear form: one term per moving operand, that operand with one more index in front."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left.replace(",", "").replace("...", "")))
        right = ("..." if "..." in left else "") + "".join(x for x in letters if left.count(x) == 1)
    free = next(letter for letter in "zyxwvutsrqponmlkjihgfedcba" if letter not in equation)
    result: Tangent | None = None
    for i, value in enumerate(node.inputs):
        tangent = context.tangent(value)
        if tangent is None:
            continue
        inputs = list(node.inputs)
        inputs[i] = context.stack(tangent)
        new = [free + term if j == i and context.lead else term for j, term in enumerate(terms)]
        target = free + right if context.lead else right
        rows = context.op("Einsum", *inputs, equation=f"{','.join(new)}->{target}")
        result = context.add(result, _stacked(context, node, rows))
    return result


@rule("ReverseSequence", name="layout", accepts=only_first)
def reverse_sequence(context: Context, node: ir.Node) -> Outputs:
    """Reverse on rows transposed so that the directions come last (the op wants batch and time in front)."""
    tangent = _first(context, node)
    rows = context.stack(tangent)
    if context.lead:
        rows = _to_back(context, rows, tangent.rank)
    rows = context.op("ReverseSequence", rows, node.inputs[1], attributes=node.attributes)
    if context.lead:
        rows = context.op("Transpose", rows, perm=[tangent.rank, *range(tangent.rank)])
    return _stacked(context, node, rows)


@rule("Compress", name="layout", accepts=only_first)
def compress(context: Context, node: ir.Node) -> Outputs:
    """Keep the slices the condition names."""
    tangent = _first(context, node)
    axis = node.attributes.get_int("axis", None)
    if axis is None:
        rows = context.op("Reshape", context.stack(tangent), context.ints([0, -1] if context.lead else [-1]))
        made = context.op("Compress", rows, node.inputs[1], axis=context.lead)
    else:
        shifted = context.shift([axis], tangent.rank)[0]
        made = context.op("Compress", context.stack(tangent), node.inputs[1], axis=shifted)
    return _stacked(context, node, made)
