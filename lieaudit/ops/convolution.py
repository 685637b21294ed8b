"""Convolutions: linear in the input, without the bias; affine per-channel maps."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.graph.nodes import has_input, required
from lieaudit.layouts.algebra import convolved
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.adjoints import convolution as adjoint
from lieaudit.ops.commuting import axis_has_grid, on_one_grid, only_first, spatial
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import Kind, Op, Outputs, Rule, Transpose, Use


def convolution(context: Context, node: ir.Node) -> Outputs:
    """d(w ∗ x + b) = w ∗ dx + dw ∗ x + db."""
    dx, result = context.tangent(node.inputs[0]), None
    if dx is not None:
        # all directions as one batch
        rows = context.op(node.op_type, context.fold(dx), node.inputs[1], attributes=node.attributes)
        result = context.folded(rows, context.dims(node.outputs[0]))
    result = context.add(result, _by_weights(context, node))
    return context.add(result, _by_bias(context, node, 2))


def deformable(context: Context, node: ir.Node) -> Outputs:
    """As `convolution`; linear in the mask too. Offsets and mask are repeated for every direction."""
    dx, dmask = context.tangent(node.inputs[0]), context.tangent(node.inputs[4] if has_input(node, 4) else None)
    dims, result = context.dims(node.outputs[0]), None
    _, weights, offset, _, mask = [*node.inputs, None, None][:5]
    for moving, at in ((dx, 0), (dmask, 4)):
        if moving is None:
            continue
        inputs = [context.repeat(required(node, 0)), weights, context.repeat(required(node, 2)), None, None]
        inputs[4] = context.repeat(mask) if mask is not None else None
        inputs[at] = context.fold(moving)
        rows = context.op(node.op_type, *inputs, attributes=node.attributes)
        result = context.add(result, context.folded(rows, dims))
    result = context.add(result, _by_weights(context, node, offset, None, mask))
    return context.add(result, _by_bias(context, node, 3))


def _by_weights(context: Context, node: ir.Node, *others: ir.Value | None) -> Tangent | None:
    """Return dw ∗ x, the weights of all directions as more output channels; ``others`` are further operands."""
    x, moving, dims = required(node, 0), context.tangent(required(node, 1)), context.dims(node.outputs[0])
    if moving is None:
        return None
    rows = context.stack(moving)
    if not context.lead:
        return context.stacked(context.op(node.op_type, x, rows, *others, attributes=node.attributes), dims)
    groups = node.attributes.get_int("group", 1)
    first, second, *kernel = (int(size) for size in moving.dims)
    rank = len(kernel)
    if node.op_type == "ConvTranspose":  # (D, C, M / groups, …) → (C, D · M / groups, …)
        each = second
        rows = context.op("Transpose", rows, perm=[1, 0, *range(2, rank + 3)])
        rows = context.op("Reshape", rows, context.ints([first, -1, *kernel]))
    else:  # (D, M, C / groups, …) → (groups · D · M / groups, C / groups, …)
        each = first // groups
        rows = context.op("Reshape", rows, context.ints([-1, groups, each, second, *kernel]))
        rows = context.op("Transpose", rows, perm=[1, 0, *range(2, rank + 4)])
        rows = context.op("Reshape", rows, context.ints([-1, second, *kernel]))
    made = context.op(node.op_type, x, rows, *others, attributes=node.attributes)
    grid = [int(size) for size in dims[2:]]
    made = context.op("Reshape", made, context.ints([0, groups, -1, each, *grid]))
    made = context.op("Transpose", made, perm=[2, 0, 1, *range(3, rank + 4)])
    return context.stacked(context.op("Reshape", made, context.ints([0, 0, groups * each, *grid])), dims)


def _by_bias(context: Context, node: ir.Node, place: int) -> Tangent | None:
    moving = context.tangent(node.inputs[place] if has_input(node, place) else None)
    if moving is None:
        return None
    out = node.outputs[0]
    rank, lead = context.rank(out), context.lead
    rows = context.unsqueeze(context.stack(moving), [lead, *range(lead + 2, lead + rank)])
    return context.broadcast(context.stacked(rows, (1, moving.dims[0], *[1] * (rank - 2))), out)


def _sizes_fixed(use: Use) -> str:
    """Refuse weights that move where a size is open: their rows are put among the channels."""
    if 1 not in use.active:
        return ""
    shapes = (required(use.node, 1).shape, use.node.outputs[0].shape)
    sizes = [size for shape, start in zip(shapes, (0, 2), strict=True) for size in (shape or [None])[start:]]
    fixed = all(shape is not None for shape in shapes) and all(isinstance(size, int) for size in sizes)
    return "" if fixed else "its weights follow the image and a size of theirs, or of the output, is open"


def convolution_axes(tracker: Tracker, node: ir.Node) -> Result:
    """Return the axes of a convolution."""
    axes, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if axes is None or sizes is None or tracker.varies(node.inputs[1]):
        return [None]
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return [convolved(axes, sizes, groups=group, pointwise=is_pointwise(tracker, node))]


def is_pointwise(tracker: Tracker, node: ir.Node) -> bool:
    """Say whether a convolution looks at one pixel only and keeps the grid."""
    sizes = tracker.sizes(node.inputs[1])
    kernel = list(sizes[2:]) if sizes is not None else []
    strides = tracker.ints(node, "strides") or [1]
    pads = tracker.ints(node, "pads") or [0]
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    return (
        node.op_type != "DeformConv"
        and len(kernel) > 0
        and all(k == 1 for k in kernel)
        and all(s == 1 for s in strides)
        and (automatic != "NOTSET" or not any(pads))
        and not any(tracker.ints(node, "output_padding") or ())
    )


def _one_pixel(tracker: Tracker, node: ir.Node) -> bool:
    return is_pointwise(tracker, node) and only_first(tracker, node) and not axis_has_grid(tracker, node.inputs[0], 1)


def _without_bias(tracker: Tracker, node: ir.Node) -> bool:
    return not has_input(node, 2) and spatial(tracker, node)


_CONVOLUTION = Rule("convolution", convolution, operands=(0, 1, 2), accepts=_sizes_fixed)
_DEFORMABLE = Rule("convolution", deformable, operands=(0, 1, 3, 4), accepts=_sizes_fixed)

OPS = (
    Op("Conv", tangent=_CONVOLUTION, layout=convolution_axes, geometric=on_one_grid(_one_pixel),
       homogeneous=_without_bias, kind=Kind.CONVOLUTION, linear=(0, 1),
       transpose=Transpose(adjoint.convolution, (0, 1))),
    Op("ConvTranspose", tangent=_CONVOLUTION, layout=convolution_axes, homogeneous=_without_bias, kind=Kind.UPSAMPLING,
       linear=(0, 1),
       transpose=Transpose(adjoint.transposed, (0, 1))),
    Op("DeformConv", tangent=_DEFORMABLE, layout=convolution_axes, kind=Kind.CONVOLUTION,
       linear=(0, 1),
       transpose=Transpose(operands=(), without="its samples lie between pixels")),
)  # fmt: skip
