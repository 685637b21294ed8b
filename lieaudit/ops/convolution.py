"""Convolutions: linear in the input, without the bias; affine per-channel maps."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.graph.nodes import has_input
from lieaudit.layouts.algebra import convolved
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.commuting import axis_has_grid, on_one_grid, only_first, spatial
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import Kind, Op, Outputs, Rule


def convolution(context: Context, node: ir.Node) -> Outputs:
    """Apply the same convolution without bias, on all directions as one batch."""
    rows = context.op(node.op_type, context.fold(context.moving(node)), node.inputs[1], attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


def deformable(context: Context, node: ir.Node) -> Outputs:
    """Apply the same deformable convolution without bias, offsets and mask repeated for every direction."""
    rest = [context.repeat(v) if i in {2, 4} and v is not None else v for i, v in enumerate(node.inputs)]
    rest[0] = context.fold(context.moving(node))
    if len(rest) > 3:
        rest[3] = None
    rows = context.op(node.op_type, *rest, attributes=node.attributes)
    return context.folded(rows, context.dims(node.outputs[0]))


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


_CONVOLUTION = Rule("convolution", convolution)

OPS = (
    Op("Conv", tangent=_CONVOLUTION, layout=convolution_axes, geometric=on_one_grid(_one_pixel),
       homogeneous=_without_bias, kind=Kind.CONVOLUTION, linear=(0, 1)),
    Op("ConvTranspose", tangent=_CONVOLUTION, layout=convolution_axes, homogeneous=_without_bias, kind=Kind.UPSAMPLING,
       linear=(0, 1)),
    Op("DeformConv", tangent=Rule("convolution", deformable), layout=convolution_axes, kind=Kind.CONVOLUTION,
       linear=(0, 1)),
)  # fmt: skip
