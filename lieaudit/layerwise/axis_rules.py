"""What each op does to axes: one rule per family."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lieaudit.layerwise.atoms import (
    GRID,
    Axes,
    Axis,
    concat,
    coordinate,
    has_grid,
    normalise,
    plain,
    reshape,
    size_of,
    slice_axis,
    unify,
    without_position,
)
from lieaudit.layerwise.axes import Tracker, broadcast, rule

Result = list[Axes | None]

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BiasGelu", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "FastGelu",
    "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
    "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg", "Not", "QuantizeLinear", "QuickGelu",
    "RMSNormalization", "Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Selu", "Shrink", "Sigmoid",
    "Sign", "SimplifiedLayerNormalization", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish",
    "Tan", "Tanh", "ThresholdedRelu", "Trilu",
)  # fmt: skip
NARY = (
    "Add", "And", "BitShift", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean",
    "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Sub",
    "Sum", "Where", "Xor",
)  # fmt: skip
REDUCTIONS = (
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


def load() -> None:
    """Register the rules: importing this module did; the call says why it is imported."""


@rule(*UNARY)
def _unary(tracker: Tracker, node: ir.Node) -> Result:
    return [tracker.of(node.inputs[0])] if tracker.varies(node.inputs[0]) else [None]


@rule(*NARY)
def _nary(tracker: Tracker, node: ir.Node) -> Result:
    # only the residual pair of the fused Skip… normalisations is elementwise; the rest are its weights
    inputs = node.inputs[:2] if node.op_type.startswith("Skip") else node.inputs
    axes = [a for a in map(tracker.of, inputs) if a is not None]
    return [broadcast(axes)] if len(axes) == sum(v is not None for v in inputs) else [None]


@rule("Transpose")
def _transpose(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None]
    perm = tracker.ints(node, "perm") or list(range(len(axes)))[::-1]
    return [tuple(axes[i] for i in perm)]


@rule("Reshape", "Flatten")
def _reshape(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    return [reshape(axes, sizes)] if axes is not None and sizes is not None else [None]


@rule("Squeeze")
def _squeeze(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None]
    dropped = tracker.ints(node, "axes", 1)
    gone = (
        {i % len(axes) for i in dropped} if dropped is not None else {i for i, a in enumerate(axes) if size_of(a) == 1}
    )
    return [tuple(axis for i, axis in enumerate(axes) if i not in gone)]


@rule("Unsqueeze")
def _unsqueeze(tracker: Tracker, node: ir.Node) -> Result:
    axes, added = tracker.of(node.inputs[0]), tracker.ints(node, "axes", 1)
    if axes is None or added is None:
        return [None]
    rank = len(axes) + len(added)
    at = {i % rank for i in added}
    rest = iter(axes)
    return [tuple(() if i in at else next(rest) for i in range(rank))]


@rule("Expand", "Tile")
def _expand(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None:
        return [None]
    padded = ((),) * (len(sizes) - len(axes)) + axes
    return [
        tuple(
            axis if size_of(axis) == size else plain("free" if size_of(axis) == 1 else "unknown", size)
            for axis, size in zip(padded, sizes, strict=True)
        )
    ]


@rule("Concat")
def _concat(tracker: Tracker, node: ir.Node) -> Result:
    operands = [tracker.of(value) for value in node.inputs]
    if any(o is None for o in operands):
        return [None]
    known = [o for o in operands if o is not None]
    rank = len(known[0])
    at = node.attributes["axis"].as_int() % rank
    rest: list[Axis] = []
    for i in range(rank):
        axis = known[0][i]
        for operand in known[1:]:
            axis = unify(axis, operand[i]) if i != at else axis
        rest.append(axis)
    elsewhere = any(has_grid(axis) for i, axis in enumerate(rest) if i != at)
    rest[at] = concat([operand[at] for operand in known], grid_elsewhere=elsewhere)
    return [tuple(rest)]


@rule("Split")
def _split(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None] * len(node.outputs)
    at = node.attributes["axis"].as_int() % len(axes) if "axis" in node.attributes else 0
    start, out = 0, []
    for value in node.outputs:
        sizes = tracker.sizes(value)
        if sizes is None:
            return [None] * len(node.outputs)
        out.append(normalise((*axes[:at], slice_axis(axes[at], start, 1, sizes[at]), *axes[at + 1 :])))
        start += sizes[at]
    return list(out)


@rule("Slice")
def _slice(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    starts = tracker.ints(node, "starts", 1)
    if axes is None or sizes is None:
        return [None]
    at = tracker.ints(node, "axes", 3)
    if at is None:
        at = list(range(len(starts or ())))
    steps = tracker.ints(node, "steps", 4) or [1] * len(at)
    out = list(axes)
    for i, place in enumerate(at):
        axis = place % len(axes)
        size = size_of(axes[axis])
        if sizes[axis] == size and steps[i] == 1:
            continue
        if starts is None or steps[i] < 1:
            out[axis] = plain("unknown", sizes[axis])
            continue
        start = min(max(starts[i] + size if starts[i] < 0 else starts[i], 0), size)
        out[axis] = slice_axis(axes[axis], start, steps[i], sizes[axis])
    return [normalise(tuple(out))]


@rule("Gather")
def _gather(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    indices = tracker.constant(node.inputs[1])
    if axes is None or sizes is None or not tracker.varies(node.inputs[0]) or tracker.varies(node.inputs[1]):
        return [None]
    at = node.attributes["axis"].as_int() % len(axes) if "axis" in node.attributes else 0
    shape = tracker.sizes(node.inputs[1])
    if shape is None:
        return [None]
    before, after = axes[:at], axes[at + 1 :]
    size = size_of(axes[at])
    if indices is None:
        picked: Axes = tuple(plain("channel" if without_position(axes[at]) else "unknown", n) for n in shape)
    elif indices.ndim == 0:
        picked = ()
    else:
        flat = indices.reshape(-1) % size
        picked = (_taken(axes[at], flat),) if indices.ndim == 1 else tuple(plain("unknown", n) for n in shape)
    return [normalise((*before, *picked, *after))]


def _taken(axis: Axis, indices: np.ndarray) -> Axis:
    """Give the axis after picking these entries: a slice, a cyclic roll, or nothing known."""
    count, size = len(indices), size_of(axis)
    if count > 0 and np.array_equal(indices, np.arange(indices[0], indices[0] + count)):
        return slice_axis(axis, int(indices[0]), 1, count)
    if count == size and np.array_equal(indices, (np.arange(size) + indices[0]) % size):
        start = int(indices[0])
        head, tail = slice_axis(axis, start, 1, size - start), slice_axis(axis, 0, 1, start)
        return concat([head, tail], grid_elsewhere=True)
    return plain("channel" if without_position(axis) else "unknown", count)


@rule("Pad")
def _pad(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None:
        return [None]
    return [tuple(_resized(axis, size) for axis, size in zip(axes, sizes, strict=True))]


def _resized(axis: Axis, size: int) -> Axis:
    """Give the axis of a grid that was padded, cropped, pooled or resampled to another size."""
    if size_of(axis) == size:
        return axis
    role = grid_role(axis)
    if role is not None:
        return coordinate(role, size)
    return plain("channel", size) if axis and without_position(axis) else plain("unknown" if axis else "free", size)


def grid_role(axis: Axis) -> str | None:
    """Give ``height`` or ``width`` where neighbours on the axis are neighbours in the image, else None.

    Channels woven into a coordinate, ``(h r)``, are read as sub-pixels once an op treats the axis as space.
    """
    if len(axis) == 1 and axis[0].whole:
        return axis[0].role
    if len(axis) == 2 and axis[0].whole and axis[1].role == "channel":
        return axis[0].role
    return None


@rule("Conv", "ConvTranspose", "ConvInteger", "FusedConv")
def _conv(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None or tracker.varies(node.inputs[1]):
        return [None]
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    pointwise = is_pointwise(tracker, node)
    space = tuple(axis if pointwise else _window(axis, size) for axis, size in zip(axes[2:], sizes[2:], strict=True))
    if group == 1:
        return [contracted((axes[0], (), *space), axes[1], at=1, size=sizes[1])]
    channels = axes[1] if size_of(axes[1]) == sizes[1] == group else plain("channel", sizes[1])
    if has_grid(axes[1]) and channels is not axes[1]:
        channels = plain("mixed", sizes[1])
    return [(axes[0], channels, *space)]


def is_pointwise(tracker: Tracker, node: ir.Node) -> bool:
    """Say whether a convolution looks at one pixel only and keeps the grid."""
    sizes = tracker.sizes(node.inputs[1])
    kernel = list(sizes[2:]) if sizes is not None else []
    strides = tracker.ints(node, "strides") or [1]
    pads = tracker.ints(node, "pads") or [0]
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    return (
        all(k == 1 for k in kernel)
        and all(s == 1 for s in strides)
        and (automatic != "NOTSET" or not any(pads))
        and not any(tracker.ints(node, "output_padding") or ())
    )


def _window(axis: Axis, size: int) -> Axis:
    """Give the spatial axis after a sliding window."""
    if grid_role(axis) is not None or size == 1:
        return _resized(axis, size) if grid_role(axis) is not None and size > 1 else ()
    if not axis:
        return plain("free", size)
    if without_position(axis):
        return plain("channel", size)
    return plain("mixed" if any(a.role == "tokens" or a.role in GRID for a in axis) else "unknown", size)


@rule("MaxPool", "AveragePool", "LpPool")
def _pool(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None:
        return [None]
    return [(*axes[:2], *(_window(a, s) if a else plain("free", s) for a, s in zip(axes[2:], sizes[2:], strict=True)))]


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    return [None] if axes is None else [normalise((*axes[:2], *((),) * (len(axes) - 2)))]


@rule("Resize", "Upsample")
def _resize(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None:
        return [None]
    return [tuple(_resized(axis, size) for axis, size in zip(axes, sizes, strict=True))]


@rule("DepthToSpace")
def _depth_to_space(tracker: Tracker, node: ir.Node) -> Result:
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None or not without_position(axes[1]):
        return [None]
    return [(axes[0], plain("channel", sizes[1]), *(_resized(a, s) for a, s in zip(axes[2:], sizes[2:], strict=True)))]


@rule("SpaceToDepth")
def _space_to_depth(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    block = node.attributes["blocksize"].as_int()
    if axes is None:
        return [None]
    n, c, h, w = (size_of(axis) for axis in axes)
    split = reshape(axes, (n, c, h // block, block, w // block, block))
    moved = tuple(split[i] for i in (0, 3, 5, 1, 2, 4))
    return [reshape(moved, (n, c * block * block, h // block, w // block))]


@rule(*REDUCTIONS)
def _reduce(tracker: Tracker, node: ir.Node) -> Result:
    axes = tracker.of(node.inputs[0])
    if axes is None:
        return [None]
    arg = node.op_type.startswith("Arg")
    at = tracker.ints(node, "axis") or [0] if arg else tracker.ints(node, "axes", 1)
    keep = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    gone = {i % len(axes) for i in at} if at else set(range(len(axes)))
    out = tuple(() if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone)
    return [normalise(out)]


def contracted(kept: Axes, gone: Axis, *, at: int, size: int) -> Axes:
    """Give the axes after an axis was multiplied by a constant matrix into a new one of ``size`` at position ``at``.

    A new axis made of positions is channels where whole digits were used up (patch embedding) or nothing but the
    batch is left (flatten and classify); otherwise positions are mixed: token mixing.
    """
    rest = normalise((*kept[:at], (), *kept[at + 1 :]))
    role = "channel"
    if any(atom.role == "unknown" for atom in gone):
        role = "unknown"
    elif has_grid(gone):
        inner = any(has_grid(axis) for axis in rest)
        digits = all(atom.role in GRID or without_position((atom,)) for atom in gone)
        lonely = all(atom.role in {"batch", "free"} for axis in rest for atom in axis)
        partial = {atom.role for atom in gone if atom.role in GRID}
        left = {atom.role for axis in rest for atom in axis if atom.role in GRID}
        role = "channel" if lonely or (inner and digits and partial <= left) else "mixed"
    return (*rest[:at], plain(role, size), *rest[at + 1 :])


@rule("MatMul", "FusedMatMul")
def _matmul(tracker: Tracker, node: ir.Node) -> Result:
    a, b, sizes = tracker.of(node.inputs[0]), tracker.of(node.inputs[1]), tracker.sizes(node.outputs[0])
    if a is None or b is None or sizes is None or len(a) < 2 or len(b) < 2:
        return [None]
    for name, which in (("transA", 0), ("transB", 1)):
        if name in node.attributes and node.attributes[name].as_int():
            a, b = ((*a[:-2], a[-1], a[-2]), b) if which == 0 else (a, (*b[:-2], b[-1], b[-2]))
    batch = broadcast([a[:-2], b[:-2]])
    if not tracker.varies(node.inputs[1]):
        return [contracted((*batch, a[-2], ()), a[-1], at=len(batch) + 1, size=sizes[-1])]
    if not tracker.varies(node.inputs[0]):
        return [contracted((*batch, (), b[-1]), b[-2], at=len(batch), size=sizes[-2])]
    return [normalise((*batch, a[-2], b[-1]))]


@rule("Gemm")
def _gemm(tracker: Tracker, node: ir.Node) -> Result:
    a, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if a is None or sizes is None or tracker.varies(node.inputs[1]):
        return [None]
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
    rows, columns = (a[1], a[0]) if transposed else (a[0], a[1])
    return [contracted((rows, ()), columns, at=1, size=sizes[1])]


@rule("Einsum")
def _einsum(tracker: Tracker, node: ir.Node) -> Result:
    equation = node.attributes["equation"].as_string().replace(" ", "")
    sizes = tracker.sizes(node.outputs[0])
    if "." in equation or "->" not in equation or sizes is None:
        return [None]
    left, right = equation.split("->")
    terms = left.split(",")
    found: dict[str, Axis] = {}
    own: set[str] = set()
    for value, term in zip(node.inputs, terms, strict=True):
        axes = tracker.of(value)
        if axes is None or len(axes) != len(term):
            return [None]
        if tracker.varies(value):
            own.update(term)
        for letter, axis in zip(term, axes, strict=True):
            found[letter] = unify(found[letter], axis) if letter in found else axis
    if len([v for v in node.inputs if tracker.varies(v)]) > 1:
        return [normalise(tuple(found[letter] for letter in right))]
    gone = tuple(atom for letter in sorted(own - set(right)) for atom in found[letter])
    fresh = [i for i, letter in enumerate(right) if letter not in own]
    kept = tuple(found[letter] if letter in own else () for letter in right)
    if len(fresh) == 1:
        return [contracted(kept, gone, at=fresh[0], size=sizes[fresh[0]])]
    return [None if fresh or has_grid(gone) else normalise(kept)]


@rule("Attention", "MultiHeadAttention")
def _attention(tracker: Tracker, node: ir.Node) -> Result:
    query, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if query is None or sizes is None or len(query) != len(sizes):
        return [None]
    return [(*query[:-1], plain("channel", sizes[-1]))]
