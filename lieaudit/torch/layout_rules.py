"""What each operator of torch does to axes: its operands read, and `lieaudit.layouts.algebra` called.

An operator is either known here, is pointwise, or leaves a tensor of unknown axes behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lieaudit.layouts import algebra
from lieaudit.layouts.axes import Axes, plain, reshape, size_of, slice_axis
from lieaudit.torch.operators import Operation, name_of

Result = Axes | list[Axes | None] | None
"""Axes of the first output, or of each; None: not known."""


def known(func: Any) -> bool:
    """Say whether an operator has a rule of its own; others are followed through those they are made of."""
    return name_of(func) in _RULES


def derive(call: Operation) -> list[Axes]:
    """Return the axes of an operator's outputs."""
    if not call.outputs:
        return []  # it reads a number out
    rule = _RULES.get(call.name) or (_pointwise if torch.Tag.pointwise in call.func.tags else None)
    found = rule(call) if rule is not None else None
    made = list(found) if isinstance(found, list) else [found]
    made += [None] * (len(call.outputs) - len(made))
    return [_fitting(axes, output) for axes, output in zip(made, call.outputs, strict=True)]


def _fitting(axes: Axes | None, output: torch.Tensor) -> Axes:
    sizes = tuple(output.shape)
    if axes is not None and tuple(map(size_of, axes)) == sizes:
        return axes
    return tuple(plain("unknown", size) for size in sizes)


def _same(call: Operation) -> Result:
    return call.axes(call.first()) if call.varies(call.first()) else None


def _pointwise(call: Operation) -> Result:
    return algebra.broadcast([call.axes(tensor) for tensor in call.inputs])


# ---- rearranging --------------------------------------------------------------------------------------------------


def _viewed(call: Operation) -> Result:
    return reshape(call.axes(call.first()), call.sizes)


def _permuted(call: Operation) -> Result:
    return algebra.permuted(call.axes(call.first()), call.dims(call.given("dims")))


def _transposed(call: Operation) -> Result:
    axes = call.axes(call.first())
    perm = list(range(len(axes)))
    a, b = call.dims([call.given("dim0"), call.given("dim1")]) if "dim0" in call.arguments else (0, len(axes) - 1)
    perm[a], perm[b] = perm[b], perm[a]
    return algebra.permuted(axes, perm)


def _unsqueezed(call: Operation) -> Result:
    axes = call.axes(call.first())
    return algebra.unsqueezed(axes, call.dims(call.given("dim"), len(axes) + 1))


def _squeezed(call: Operation) -> Result:
    tensor = call.first()
    return algebra.squeezed(call.axes(tensor), [d for d in call.dims(call.given("dim")) if tensor.shape[d] == 1])


def _expanded(call: Operation) -> Result:
    return algebra.expanded(call.axes(call.first()), call.sizes)


def _concatenated(call: Operation) -> Result:
    tensors = [tensor for tensor in call.inputs if tensor.numel()]
    return algebra.joined([call.axes(tensor) for tensor in tensors], call.given("dim") % call.outputs[0].dim())


def _stacked(call: Operation) -> Result:
    at = call.given("dim") % call.outputs[0].dim()
    return algebra.joined([algebra.unsqueezed(call.axes(tensor), [at]) for tensor in call.inputs], at)


# ---- picking ------------------------------------------------------------------------------------------------------


def _sliced(call: Operation) -> Result:
    at, axes = call.dims(call.given("dim"))[0], call.axes(call.first())
    size = call.first().shape[at]
    start = call.given("start") or 0
    start = min(max(start + size if start < 0 else start, 0), size)
    return algebra.replaced(axes, at, algebra.sliced(axes[at], start, call.given("step"), call.sizes[at]))


def _flipped(call: Operation) -> Result:
    axes = call.axes(call.first())
    for at in call.dims(call.given("dims")):
        axes = algebra.replaced(axes, at, algebra.sliced(axes[at], 0, -1, call.sizes[at]))
    return axes


def _selected(call: Operation) -> Result:
    return algebra.replaced(call.axes(call.first()), call.dims(call.given("dim"))[0])


def _index_selected(call: Operation) -> Result:
    return _picked(call, call.dims(call.given("dim"))[0], call.given("index"))


def _indexed(call: Operation) -> Result:
    """Return the axes behind ``x[:, indices]``, one list of numbers along one axis."""
    indices = call.given("indices")
    given = [(at, index) for at, index in enumerate(indices) if index is not None]
    if len(given) != 1 or given[0][1].dim() != 1 or given[0][1].dtype == torch.bool:
        return None
    return _picked(call, *given[0])


def _picked(call: Operation, at: int, index: torch.Tensor) -> Result:
    if call.varies(index):
        return None
    axes, size = call.axes(call.first()), call.first().shape[at]
    return algebra.replaced(axes, at, algebra.taken(axes[at], [int(i) % size for i in index.reshape(-1)]))


def _rolled(call: Operation) -> Result:
    if not call.given("dims"):
        return None
    axes = call.axes(call.first())
    for shift, at in zip(call.given("shifts"), call.dims(call.given("dims")), strict=True):
        size = call.first().shape[at]
        axes = (*axes[:at], algebra.rolled(axes[at], -shift % size), *axes[at + 1 :])
    return axes


def _split(call: Operation) -> Result:
    at, axes = call.dims(call.given("dim"))[0], call.axes(call.first())
    found: list[Axes | None] = []
    start = 0
    for output in call.outputs:
        size = output.shape[at]
        found.append(algebra.replaced(axes, at, slice_axis(axes[at], start, 1, size)))
        start += size
    return found


def _unbound(call: Operation) -> Result:
    at, axes = call.dims(call.given("dim"))[0], call.axes(call.first())
    return [algebra.replaced(axes, at) for _ in call.outputs]


def _reduced(call: Operation) -> Result:
    axes = call.axes(call.first())
    if "dim" not in call.arguments and call.name in {"max", "min"} and len(call.inputs) > 1:
        return _pointwise(call)
    kept = algebra.reduced(axes, call.dims(call.given("dim")), keep=bool(call.given("keepdim")))
    return [kept, *[kept] * (len(call.outputs) - 1)]


# ---- grids --------------------------------------------------------------------------------------------------------


def _convolved(call: Operation) -> Result:
    weight = call.given("weight")
    if call.varies(weight):
        return None
    axes, groups = call.axes(call.first()), call.given("groups") or 1
    if len(axes) != len(call.sizes):
        return None
    return algebra.convolved(axes, call.sizes, groups=groups, pointwise=one_pixel(call))


def one_pixel(call: Operation) -> bool:
    """Say whether a convolution looks at one pixel only and keeps the grid."""
    strides, padding = call.given("stride") or [1], call.given("padding") or [0]
    beyond = call.given("output_padding") or [0]
    return (
        all(size == 1 for size in call.given("weight").shape[2:])
        and all(step == 1 for step in strides)
        and (isinstance(padding, str) or not any(padding))
        and not any(beyond)
    )


def _pooled(call: Operation) -> Result:
    axes = call.axes(call.first())
    return algebra.pooled(axes, call.sizes) if len(axes) == 4 else None


def _resampled(call: Operation) -> Result:
    return algebra.resampled(call.axes(call.first()), call.sizes)


def _padded(call: Operation) -> Result:
    axes, amounts = call.axes(call.first()), call.given("pad", "padding")
    changes = [(0, 0)] * len(axes)
    for i, before in enumerate(amounts[::2]):
        changes[len(axes) - 1 - i] = (before, amounts[2 * i + 1])
    return algebra.padded(axes, call.sizes, changes)


def _depth_to_space(call: Operation) -> Result:
    axes = call.axes(call.first())
    return algebra.depth_to_space(axes, call.given("upscale_factor"), channels_first=True) if len(axes) == 4 else None


def _space_to_depth(call: Operation) -> Result:
    axes = call.axes(call.first())
    return algebra.space_to_depth(axes, call.given("downscale_factor"), channels_first=True) if len(axes) == 4 else None


# ---- products -----------------------------------------------------------------------------------------------------


def _product(call: Operation) -> Result:
    first, second = call.operands()
    varies = (call.varies(first), call.varies(second))
    return algebra.multiplied(call.axes(first), call.axes(second), call.sizes, varies=varies)


def _linear(call: Operation) -> Result:
    weight = call.given("weight")
    if call.varies(weight):
        return None
    axes = call.axes(call.first())
    return algebra.contracted((*axes[:-1], ()), axes[-1], at=len(axes) - 1, size=call.sizes[-1])


_RULES: dict[str, Callable[[Operation], Result]] = {
    **dict.fromkeys(
        (
            "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "_softmax", "_log_softmax",
            "native_layer_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "native_group_norm",
            "_safe_softmax", "layer_norm", "cumsum", "_fused_rms_norm", "native_dropout", "rrelu_with_noise",
            "cudnn_batch_norm", "batch_norm", "log_sigmoid_forward", "tril", "triu",
        ),
        _same,
    ),
    **dict.fromkeys(("convolution", "_convolution", "conv2d", "mkldnn_convolution", "cudnn_convolution"), _convolved),
    **dict.fromkeys(
        (
            "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
            "adaptive_max_pool2d",
        ),
        _pooled,
    ),
    **dict.fromkeys(
        (
            "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d",
        ),
        _resampled,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _viewed),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "linalg_vector_norm", "var", "logsumexp"), _reduced),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), _product),
    "permute": _permuted,
    **dict.fromkeys(("transpose", "t"), _transposed),
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    **dict.fromkeys(("expand", "repeat"), _expanded),
    "slice": _sliced,
    "flip": _flipped,
    "select": _selected,
    "index_select": _index_selected,
    "index": _indexed,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "unbind": _unbound,
    "cat": _concatenated,
    "stack": _stacked,
    "linear": _linear,
    "roll": _rolled,
    **dict.fromkeys(
        ("constant_pad_nd", "pad", "_pad_enum", "_pad_circular", "reflection_pad2d", "replication_pad2d"), _padded
    ),
    "pixel_unshuffle": _space_to_depth,
    "pixel_shuffle": _depth_to_space,
}  # fmt: skip
