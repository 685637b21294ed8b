"""What each operator of torch does to the layout of its input.

An operator is either known here, is pointwise, or leaves a tensor of unknown layout behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from lieaudit.torch.layouts import Axis, Factor, Layout, factor, feature_map

_Known = dict[int, Layout | None]
_Rule = Callable[[Any, Any, _Known, list[torch.Tensor]], Layout | None]


def known(func: Any) -> bool:
    """Say whether there is a rule of its own for an operator; others are followed through those they are made of."""
    name = _name(func)
    return name in _RULES or name in _SEVERAL


def derive(func: Any, args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> list[Layout | None]:
    """Give the layouts of an operator's outputs; None: unknown.

    ``layouts`` maps the ids of the tensors among ``args`` and ``kwargs`` to what is known of them.
    """
    name = _name(func)
    if any(layout is None for layout in layouts.values()):
        return [None] * len(outputs)
    if name in _SEVERAL:
        return _SEVERAL[name](args, kwargs, layouts, outputs)
    rule = _RULES.get(name) or (_pointwise if torch.Tag.pointwise in func.tags else None)
    layout = rule(args, kwargs, layouts, outputs) if rule is not None and outputs else None
    # Further outputs of such operators are indices or statistics, which nothing downstream treats as an image.
    return [layout, *([None] * (len(outputs) - 1))] if outputs else []


def _name(func: Any) -> str:
    name: str = func._schema.name  # noqa: SLF001 - the only name it has
    return name.removeprefix("aten::")


def _first(args: Any, layouts: _Known) -> Layout:
    layout = layouts[id(args[0])]
    assert layout is not None  # noqa: S101 - unknown inputs were sorted out
    return layout


def _same(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    return _first(args, layouts)


def _pointwise(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    axes: list[Axis] = []
    for position, size in enumerate(outputs[0].shape):
        back = outputs[0].dim() - position
        found: set[Axis] = set()
        for tensor in inputs:
            layout = layouts[id(tensor)]
            if tensor.dim() >= back and tensor.shape[-back] == size and layout is not None:
                found.add(layout.axes[-back])
        placed = {axis for axis in found if any(f.kind != "c" for f in axis)}
        if len(placed) > 1:
            return None
        # An operand without a grid takes part position by position: the other operand says what the positions are.
        axes.append(next(iter(placed or found), ()))
    return Layout(tuple(axes))


def _new_grid(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    """Convolutions, pooling, resizing, padding: n c h w on a grid of its own."""
    axes = _first(args, layouts).axes
    kinds = ["".join(f.kind for f in axis) for axis in axes]
    if outputs[0].shape[2:].numel() == 1 and not any("h" in k or "w" in k for k in kinds[:2]):
        return Layout((axes[0], factor("c", outputs[0].shape[1]), (), ()))  # one value for the whole grid
    if len(kinds) != 4 or outputs[0].dim() != 4 or kinds[0] not in {"n", ""}:
        return None
    if kinds[2].strip("h") or kinds[3].strip("w") or "h" in kinds[1] or "w" in kinds[1]:
        return None
    if any(f.shift or f.stride != 1 for axis in axes[2:] for f in axis):
        # a rolled grid stays what it is under a window of one pixel; wider ones see pixels that are no neighbours
        pointwise = _one_pixel(args) and outputs[0].shape[2:] == args[0].shape[2:]
        return Layout((axes[0], factor("c", outputs[0].shape[1]), *axes[2:])) if pointwise else None
    return feature_map(outputs[0].shape)


def _one_pixel(args: Any) -> bool:
    """Say whether these are the arguments of a convolution with a 1×1 kernel, stride 1 and no padding."""
    if len(args) < 2 or not isinstance(args[1], torch.Tensor) or any(size != 1 for size in args[1].shape[2:]):
        return False
    strides, padding = args[3] if len(args) > 3 else [1], args[4] if len(args) > 4 else [0]
    return all(step == 1 for step in strides) and not any(padding)


def _padded(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    axes = list(_first(args, layouts).axes)
    for d, (old, new) in enumerate(zip(args[0].shape, outputs[0].shape, strict=True)):
        if old == new:
            continue
        kinds = {f.kind for f in axes[d]}
        if len(axes[d]) > 1 or kinds - {"h", "w", "c"} or any(f.stride != 1 or f.shift for f in axes[d]):
            return None
        axes[d] = factor(kinds.pop() if kinds else "c", new)
    return Layout(tuple(axes))


def _space_to_depth(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    axes, ratio = list(_first(args, layouts).axes), args[1]
    if len(axes) != 4 or any(len(axis) != 1 or axis[0].size % ratio for axis in axes[2:]):
        return None
    minor = []
    for d in (2, 3):
        part = axes[d][0]
        minor.append(replace(part, size=ratio))
        major = replace(part, size=part.size // ratio, stride=part.stride * ratio)
        axes[d] = (major,) if major.size > 1 else ()
    axes[1] = (*axes[1], *minor)
    return Layout(tuple(axes))


def _depth_to_space(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:
    axes, ratio = list(_first(args, layouts).axes), args[1]
    if len(axes) != 4:
        return None
    if all(f.kind == "c" for f in axes[1]):
        return _new_grid(args, kwargs, layouts, outputs)  # channels become pixels that were none before
    minor = axes[1][-2:]
    if [f.kind for f in minor] != ["h", "w"] or any(f.size != ratio for f in minor):
        return None
    for d, part in zip((2, 3), minor, strict=True):
        axes[d] = _merged([*axes[d], part])
    axes[1] = axes[1][:-2]
    return Layout(tuple(axes))


def _permuted(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout:  # noqa: ARG001
    axes = _first(args, layouts).axes
    return Layout(tuple(axes[d] for d in args[1]))


def _transposed(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout:  # noqa: ARG001
    axes = list(_first(args, layouts).axes)
    a, b = (args[1], args[2]) if len(args) > 2 else (0, len(axes) - 1)
    axes[a], axes[b] = axes[b], axes[a]
    return Layout(tuple(axes))


def _viewed(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    pool = [f for axis in _first(args, layouts).axes for f in axis]
    pool.reverse()
    axes: list[Axis] = []
    for size in outputs[0].shape:
        taken: list[Factor] = []
        rest = size
        while rest > 1:
            if not pool:
                return None
            part = pool.pop()
            if part.size > rest:
                if part.size % rest or part.kind == "t":
                    return None
                minor = part.size // rest
                pool.append(replace(part, size=minor))
                part = replace(part, size=rest, stride=part.stride * minor)
            elif rest % part.size:
                return None
            taken.append(part)
            rest //= part.size
        axes.append(_merged(taken))
    return Layout(tuple(axes))


def _merged(factors: list[Factor]) -> Axis:
    """Join neighbours that a split had parted: h₁ h₂ → h, c c → c."""
    joined: list[Factor] = []
    for part in factors:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.kind == part.kind
            and part.kind != "t"
            and (part.kind == "c" or (last.stride == part.stride * part.size and last.shift == part.shift))
        ):
            joined[-1] = replace(part, size=last.size * part.size)
        else:
            joined.append(part)
    return tuple(joined)


def _unsqueezed(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout:  # noqa: ARG001
    axes = list(_first(args, layouts).axes)
    axes.insert(args[1] if args[1] >= 0 else args[1] + len(axes) + 1, ())
    return Layout(tuple(axes))


def _squeezed(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout:
    given = args[1] if len(args) > 1 else range(args[0].dim())
    gone = {d % args[0].dim() for d in ([given] if isinstance(given, int) else given)}
    axes = _first(args, layouts).axes
    del kwargs, outputs
    return Layout(tuple(axis for d, axis in enumerate(axes) if d not in gone or args[0].shape[d] != 1))


def _expanded(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout:  # noqa: ARG001
    axes = _first(args, layouts).axes
    shape = outputs[0].shape
    axes = ((),) * (len(shape) - len(axes)) + axes
    grown = [
        axis if math.prod(f.size for f in axis) == size else factor("c", size)
        for axis, size in zip(axes, shape, strict=True)
    ]
    return Layout(tuple(grown))


def _reduced(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    axes = _first(args, layouts).axes
    given = args[1] if len(args) > 1 and args[1] is not None else range(len(axes))
    gone = {d % len(axes) for d in ([given] if isinstance(given, int) else given)} or set(range(len(axes)))
    kept = len(outputs[0].shape) == len(axes)
    left = Layout(tuple(() if d in gone else axis for d, axis in enumerate(axes) if kept or d not in gone))
    lost = {f.kind for d in gone for f in axes[d]} & {"h", "w"}
    # A mean over one of the two spatial axes leaves no image behind.
    return left if lost not in ({"h"}, {"w"}) else None


def _sliced(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    layout = _first(args, layouts)
    dim = (args[1] if len(args) > 1 else 0) % args[0].dim()
    size, result = args[0].shape[dim], outputs[0].shape[dim]
    if result == size:
        return layout
    start = args[2] if len(args) > 2 and args[2] is not None else 0
    start = start + size if start < 0 else start
    axis = layout.axes[dim]
    if len(axis) == 1 and axis[0].kind == "t":
        part = axis[0]
        if start >= part.prefix and start + result == size and start == part.prefix:
            replaced = part.inner
        elif start + result <= part.prefix:
            replaced = factor("c", result)
        elif start < part.prefix and start + result == size:
            replaced = (Factor("t", result, prefix=part.prefix - start, inner=part.inner),)
        else:
            return None
    elif len(axis) == 1 and axis[0].kind in {"h", "w"} and axis[0].stride == 1 and axis[0].shift == 0:
        replaced = factor(axis[0].kind, result)
    elif all(f.kind == "c" for f in axis):
        replaced = factor("c", result)
    else:
        return None
    return Layout((*layout.axes[:dim], replaced, *layout.axes[dim + 1 :]))


def _selected(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    axes = _first(args, layouts).axes
    dim = args[1] % len(axes)
    axis = axes[dim]
    index = args[2] % args[0].shape[dim]
    prefix = len(axis) == 1 and axis[0].kind == "t" and index < axis[0].prefix
    if not prefix and any(f.kind != "c" for f in axis):
        return None
    return Layout((*axes[:dim], *axes[dim + 1 :]))


def _concatenated(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    tensors = [t for t in args[0] if t.numel()]
    dim = (args[1] if len(args) > 1 else 0) % outputs[0].dim()
    found = [layout for t in tensors if (layout := layouts[id(t)]) is not None]
    axes: list[Axis] = []
    for d in range(outputs[0].dim()):
        parts = [layout.axes[d] for layout in found]
        if d != dim:
            placed = {axis for axis in parts if any(f.kind != "c" for f in axis)}
            if len(placed) > 1:
                return None
            axes.append(next(iter(placed or parts), ()))
            continue
        placed_at = [i for i, axis in enumerate(parts) if any(f.kind != "c" for f in axis)]
        if not placed_at:
            axes.append(factor("c", outputs[0].shape[d]))
        elif placed_at == [len(parts) - 1]:
            before = sum(t.shape[d] for t in tensors[:-1])
            last = parts[-1]
            if len(last) == 1 and last[0].kind == "t":
                tokens = Factor("t", outputs[0].shape[d], prefix=before + last[0].prefix, inner=last[0].inner)
            elif {f.kind for f in last} == {"h", "w"}:
                tokens = Factor("t", outputs[0].shape[d], prefix=before, inner=last)
            else:
                return None
            axes.append((tokens,))
        else:
            return None
    return Layout(tuple(axes))


def _stacked(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:
    dim = (args[1] if len(args) > 1 else 0) % outputs[0].dim()
    found = {layouts[id(t)] for t in args[0]}
    layout = next(iter(found))
    del kwargs
    if len(found) != 1 or layout is None:
        return None
    return Layout((*layout.axes[:dim], factor("c", len(args[0])), *layout.axes[dim:]))


def _product(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    """Matrix products: the last axis of the first operand is summed with the one before last of the second."""
    a, b = layouts[id(args[0])], layouts[id(args[1])]
    if a is None or b is None:
        return None
    lead = a.axes[:-2]
    if len(a.axes) == 3 and all(f.kind == "c" for f in lead[0]):
        lead = b.axes[:1]
    return Layout((*lead, a.axes[-2], b.axes[-1]))


def _added_product(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:
    return _product(args[1:], kwargs, layouts, outputs)


def _linear(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout:  # noqa: ARG001
    return Layout((*_first(args, layouts).axes[:-1], factor("c", outputs[0].shape[-1])))


def _rolled(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> Layout | None:  # noqa: ARG001
    axes = list(_first(args, layouts).axes)
    for shift, dim in zip(args[1], args[2] if len(args) > 2 else (), strict=False):
        axis = axes[dim]
        if all(f.kind == "c" for f in axis):
            continue
        if len(axis) != 1 or axis[0].kind not in {"h", "w"} or axis[0].stride != 1:
            return None
        axes[dim] = (replace(axis[0], shift=(axis[0].shift - shift) % axis[0].size),)
    return Layout(tuple(axes)) if len(args) > 2 else None


def _split(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> list[Layout | None]:
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    axes = _first(args, layouts).axes
    dim %= len(axes)
    if any(f.kind != "c" for f in axes[dim]):
        return [None] * len(outputs)
    return [Layout((*axes[:dim], factor("c", o.shape[dim]), *axes[dim + 1 :])) for o in outputs]


def _unbound(args: Any, kwargs: Any, layouts: _Known, outputs: list[torch.Tensor]) -> list[Layout | None]:
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    axes = _first(args, layouts).axes
    dim %= len(axes)
    if any(f.kind != "c" for f in axes[dim]):
        return [None] * len(outputs)
    return [Layout((*axes[:dim], *axes[dim + 1 :])) for _ in outputs]


_SEVERAL: dict[str, Callable[[Any, Any, _Known, list[torch.Tensor]], list[Layout | None]]] = {
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbound,
}

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (
            "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "_softmax", "_log_softmax",
            "native_layer_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "native_group_norm",
            "_safe_softmax", "layer_norm", "cumsum", "flip", "_fused_rms_norm", "native_dropout", "rrelu_with_noise",
            "cudnn_batch_norm", "batch_norm", "log_sigmoid_forward",
        ),
        _same,
    ),
    **dict.fromkeys(
        (
            "convolution", "_convolution", "conv2d", "mkldnn_convolution", "max_pool2d_with_indices", "max_pool2d",
            "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_bilinear2d",
            "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
            "reflection_pad2d", "replication_pad2d", "cudnn_convolution",
        ),
        _new_grid,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _viewed),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "linalg_vector_norm", "var", "logsumexp"), _reduced),
    **dict.fromkeys(("mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    "permute": _permuted,
    "transpose": _transposed,
    "t": _transposed,
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
    "slice": _sliced,
    "select": _selected,
    "cat": _concatenated,
    "stack": _stacked,
    "linear": _linear,
    "roll": _rolled,
    **dict.fromkeys(("constant_pad_nd", "pad", "_pad_enum", "_pad_circular"), _padded),
    "pixel_unshuffle": _space_to_depth,
    "pixel_shuffle": _depth_to_space,
}  # fmt: skip
