"""Normalisations: affine maps with fixed statistics, and those that compute their statistics from the input."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.sizes import Dims
from lieaudit.autodiff.tangent import Tangent
from lieaudit.graph.nodes import required
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.commuting import axis_has_grid, on_one_grid, only_first
from lieaudit.ops.elementwise_axes import unary
from lieaudit.ops.fused.normalisation import layer_normalization_before
from lieaudit.ops.op import Kind, Op, Outputs, Rule, Use


def _channels(context: Context, value: ir.Value, rank: int) -> ir.Value:
    """Return a per-channel vector (C,) as (C, 1, 1 …), to broadcast against axis 1 of a value of the given rank."""
    return context.op("Reshape", value, context.ints([-1, *[1] * (rank - 2)])) if rank > 2 else value


def normalized(
    context: Context, tangent: Tangent, x: ir.Value, axes: list[int], epsilon: float, *, centred: bool = True
) -> Tangent:
    """Return the tangent of x̂ = (x − mean) / √(var + ε) over the axes (not negative) of x.

    dx̂ = (c − x̂ mean(x̂ c)) / σ with c = dx − mean(dx); without centring (RMS) c = dx.
    """
    mean = context.reduce("Mean", x, axes) if centred else None
    centre = context.op("Sub", x, mean) if mean is not None else x
    square = context.op("Mul", centre, centre)
    variance = context.op("Add", context.reduce("Mean", square, axes), context.number(epsilon, x))
    inverse = context.op("Reciprocal", context.op("Sqrt", variance))
    return from_statistics(context, tangent, context.op("Mul", centre, inverse), inverse, axes, centred=centred)


def from_statistics(
    context: Context, tangent: Tangent, hat: ir.Value, inverse: ir.Value, axes: list[int], *, centred: bool
) -> Tangent:
    """Return dx̂ from x̂ and 1/σ."""
    rank, dims = tangent.rank, tangent.dims
    over = context.shift(axes, rank)
    rows = context.stack(tangent)
    projection = context.reduce("Mean", context.op("Mul", rows, hat), over)
    if centred:
        rows = context.op("Sub", rows, context.reduce("Mean", rows, over))
    rows = context.op("Sub", rows, context.op("Mul", projection, hat))
    kept: Dims = tuple(1 if i in axes else d for i, d in enumerate(dims))
    return context.scaled(context.stacked(rows, dims), inverse, kept)


def batch_normalization(context: Context, node: ir.Node) -> Outputs:
    """With fixed statistics y = γ (x − m) / σ + β, σ = √(v + ε): of x a factor per channel; any operand may move."""
    x, gamma, _, mean, variance = (required(node, i) for i in range(5))
    rank = context.rank(x)
    epsilon = context.number(node.attributes.get_float("epsilon", 1e-5), variance)
    sigma = context.op("Sqrt", context.op("Add", variance, epsilon))
    slope = context.op("Div", gamma, sigma)
    result = None
    if (dx := context.tangent(x)) is not None:
        dims: Dims = (dx.dims[1], *[1] * (rank - 2)) if rank > 1 else ()
        result = context.scaled(dx, _channels(context, slope, rank), dims)
    dgamma, dbeta, dmean, dvariance = (context.tangent(node.inputs[i]) for i in range(1, 5))
    # what is added to y per channel, and what multiplies x − m there
    shift = context.subtract(dbeta, None if dmean is None else context.scaled(dmean, slope, context.dims(gamma)))
    gain = None if dgamma is None else context.scaled(dgamma, context.op("Reciprocal", sigma), context.dims(gamma))
    if dvariance is not None:
        bend = context.op("Mul", context.op("Div", slope, context.op("Add", variance, epsilon)), context.number(0.5, x))
        gain = context.subtract(gain, context.scaled(dvariance, bend, context.dims(gamma)))
    if shift is not None:
        result = context.add(result, context.broadcast(_per_channel_rows(context, shift, rank), node.outputs[0]))
    if gain is not None:
        centred = context.op("Sub", x, _channels(context, mean, rank))
        rows = context.op("Mul", context.stack(_per_channel_rows(context, gain, rank)), centred)
        result = context.add(result, context.stacked(rows, context.dims(node.outputs[0])))
    return [result, *[None] * (len(node.outputs) - 1)]


def _per_channel_rows(context: Context, tangent: Tangent, rank: int) -> Tangent:
    """Return rows of one number per channel, (D, C), as those of a tensor (1, C, 1 …)."""
    if rank < 2:
        return tangent
    lead = context.lead
    rows = context.unsqueeze(context.stack(tangent), [lead, *range(lead + 2, lead + rank)])
    return context.stacked(rows, (1, tangent.dims[0], *[1] * (rank - 2)))


def _of_the_batch(use: Use) -> str:
    """Say that a BatchNormalization is in training mode; before opset 14 it is where it names that mode's outputs.

    onnxruntime then writes the running statistics over its own weights, so that runs differ for one image too.
    """
    named = any(value.name for value in use.node.outputs[1:])
    trains = use.node.attributes.get_int("training_mode", 0) if use.opset >= 14 else named
    return "normalises by the images of a batch" if trains else ""


def _fixed_statistics(use: Use) -> str:
    if use.node.attributes.get_int("training_mode", 0):
        return "training_mode normalises by the batch"
    return "" if use.node.attributes.get_int("spatial", 1) else "spatial=0 normalises every element by itself"


def layer_normalization(context: Context, node: ir.Node) -> Outputs:
    """Normalised over the last axes, times the learned scale."""
    x, scale, tangent = required(node, 0), required(node, 1), context.moving(node)
    axis = node.attributes.get_int("axis", -1) % tangent.rank
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    axes = list(range(axis, tangent.rank))
    centred = node.op_type == "LayerNormalization"
    made = normalized(context, tangent, x, axes, epsilon, centred=centred)
    scaled = context.scaled(made, scale, context.dims(scale))
    return [scaled, *[None] * (len(node.outputs) - 1)]


def instance_normalization(context: Context, node: ir.Node) -> Outputs:
    """Normalised over the spatial axes, times the learned scale per channel."""
    x, scale, tangent = required(node, 0), required(node, 1), context.moving(node)
    axes = list(range(2, tangent.rank))
    made = normalized(context, tangent, x, axes, node.attributes.get_float("epsilon", 1e-5))
    dims: Dims = (tangent.dims[1], *[1] * (tangent.rank - 2))
    return context.scaled(made, _channels(context, scale, tangent.rank), dims)


def mean_variance_normalization(context: Context, node: ir.Node) -> Outputs:
    """Normalised over the given axes; the standard adds 1e-9 to σ itself."""
    x, tangent = required(node, 0), context.moving(node)
    axes = [a % tangent.rank for a in node.attributes.get_ints("axes", [0, 2, 3])]
    return normalized(context, tangent, x, axes, 0.0)


def lp_normalization(context: Context, node: ir.Node) -> Outputs:
    """d(x / ‖x‖) = (dx − y d‖x‖) / ‖x‖."""
    x, y, tangent = required(node, 0), node.outputs[0], context.moving(node)
    axis = [node.attributes.get_int("axis", -1) % tangent.rank]
    p = node.attributes.get_int("p", 2)
    norm = (
        context.op(f"ReduceL{p}", x, axes=axis, keepdims=1)
        if context.opset < 18
        else context.op(f"ReduceL{p}", x, context.ints(axis), keepdims=1)
    )
    slope = y if p == 2 else context.op("Sign", x)
    rows = context.stack(tangent)
    change = context.reduce("Sum", context.op("Mul", rows, slope), context.shift(axis, tangent.rank))
    made = context.op("Sub", rows, context.op("Mul", change, y))
    kept: Dims = tuple(1 if i in axis else d for i, d in enumerate(tangent.dims))
    return context.scaled(context.stacked(made, tangent.dims), context.op("Reciprocal", norm), kept)


def lrn(context: Context, node: ir.Node) -> Outputs:
    """Y = x s^(−β), s = k + α/n Σ x² over neighbouring channels: dy = s^(−β) dx − β x s^(−β−1) ds."""
    x, y, tangent = required(node, 0), node.outputs[0], context.moving(node)
    size = node.attributes["size"].as_int()
    alpha, beta = node.attributes.get_float("alpha", 1e-4), node.attributes.get_float("beta", 0.75)
    bias = node.attributes.get_float("bias", 1.0)
    before = (size - 1) // 2
    s = context.op(
        "Mul", _window(context, context.op("Mul", x, x), 0, tangent, size, before), context.number(alpha / size, x)
    )
    s = context.op("Add", s, context.number(bias, x))
    square = context.stack(context.scaled(tangent, x, tangent.dims))
    ds = _window(context, square, context.lead, tangent, size, before)
    power = context.op("Pow", s, context.number(-beta, x))
    slope = context.op("Mul", context.op("Div", y, s), context.number(2 * alpha * beta / size, x))
    return context.subtract(
        context.scaled(tangent, power, tangent.dims),
        context.scaled(context.stacked(ds, tangent.dims), slope, tangent.dims),
    )


def _window(context: Context, value: ir.Value, lead: int, tangent: Tangent, size: int, before: int) -> ir.Value:
    """Sum over a window of channels: axis 1 of the value, shifted by ``lead``."""
    axis, rank = 1 + lead, tangent.rank + lead
    channels = int(tangent.dims[1])
    pads = [0] * (2 * rank)
    pads[axis], pads[rank + axis] = before, size - 1 - before
    padded = (
        context.op("Pad", value, context.ints(pads)) if context.opset >= 11 else context.op("Pad", value, pads=pads)
    )
    parts = [context.slice(padded, [i], [i + channels], [axis]) for i in range(size)]
    return context.op("Sum", *parts)


def group_normalization(context: Context, node: ir.Node) -> Outputs:
    """Normalised over groups of channels and space, times the learned scale per channel."""
    x, scale, tangent = required(node, 0), required(node, 1), context.moving(node)
    groups = node.attributes["num_groups"].as_int()
    batch = tangent.dims[0]
    grouped_x = context.op("Reshape", x, context.ints([0, groups, -1]))
    grouped_dims: Dims = (batch, groups, -1)
    prefix = [0] if context.lead else []
    rows = context.op("Reshape", context.stack(tangent), context.ints([*prefix, 0, groups, -1]))
    made = normalized(
        context, context.stacked(rows, grouped_dims), grouped_x, [2], node.attributes.get_float("epsilon", 1e-5)
    )
    spatial = [int(d) for d in tangent.dims[1:]]
    back = context.op("Reshape", context.stack(made), context.ints([*prefix, 0, *spatial]))
    dims: Dims = (tangent.dims[1], *[1] * (tangent.rank - 2))
    return context.scaled(context.stacked(back, tangent.dims), _channels(context, scale, tangent.rank), dims)


def _scaled_groups(use: Use) -> str:
    if use.opset < 21:
        return "before opset 21 its scale is per group"
    shape = required(use.node, 0).shape
    fixed = shape is not None and all(isinstance(size, int) for size in list(shape)[1:])
    return "" if fixed else "its height and width are not fixed"


def _one_or_two(use: Use) -> str:
    p = use.node.attributes.get_int("p", 2)
    return "" if p in {1, 2} else f"p is {p}"


def _per_channel(tracker: Tracker, node: ir.Node) -> bool:
    trained = not node.attributes.get_int("training_mode", 0) and bool(node.attributes.get_int("spatial", 1))
    return trained and only_first(tracker, node) and not axis_has_grid(tracker, node.inputs[0], 1)


_LAST_AXES = Rule("normalisation", layer_normalization)
_OVER = Kind.NORMALISATION

OPS = (
    Op("BatchNormalization",
       tangent=Rule("affine", batch_normalization, operands=range(5), accepts=_fixed_statistics), layout=unary,
       geometric=on_one_grid(_per_channel), kind=_OVER, random=_of_the_batch),
    Op("LayerNormalization", tangent=_LAST_AXES, layout=unary, kind=_OVER, expansion=layer_normalization_before),
    Op("RMSNormalization", tangent=_LAST_AXES, layout=unary, kind=_OVER),
    Op("InstanceNormalization", tangent=Rule("normalisation", instance_normalization), layout=unary, kind=_OVER),
    Op("GroupNormalization", tangent=Rule("normalisation", group_normalization, accepts=_scaled_groups),
       layout=unary, kind=_OVER),
    Op("MeanVarianceNormalization", tangent=Rule("normalisation", mean_variance_normalization), layout=unary,
       kind=_OVER),
    Op("LpNormalization", tangent=Rule("normalisation", lp_normalization, accepts=_one_or_two), layout=unary,
       kind=_OVER),
    Op("LRN", tangent=Rule("normalisation", lrn), layout=unary, kind=_OVER),
)  # fmt: skip
