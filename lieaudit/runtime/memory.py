"""How much memory one row of a graph takes, from shape inference and liveness; and giving memory back."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache

import onnx_ir as ir

_DEFAULT_BYTES = 4
# onnxruntime's arena rounds up, pads channels for its blocked layout and holds one convolution's workspace
_OVERHEAD = 1.5


def give_back() -> None:
    """Return freed memory to the operating system, where the C library can: it would keep what arenas have freed."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return lambda _pad: None
    return trim


def row_bytes(model: ir.Model) -> int:
    """Estimate the peak bytes of live activations for one row (batch size 1).

    Every tensor lives from its producer to its last consumer in graph order. Symbolic sizes count as 1; a tensor of
    unknown shape counts as the largest known one.
    """
    order = list(model.graph)
    sizes: dict[ir.Value, int] = {}
    unknown: list[ir.Value] = []
    for value in [*model.graph.inputs, *(output for node in order for output in node.outputs)]:
        if value.shape is None:
            unknown.append(value)
        else:
            elements = math.prod(d if isinstance(d, int) else 1 for d in value.shape)
            sizes[value] = elements * (value.dtype.itemsize if value.dtype is not None else _DEFAULT_BYTES)  # type: ignore[assignment]
    largest = max(sizes.values(), default=_DEFAULT_BYTES)
    sizes |= dict.fromkeys(unknown, largest)
    last_use = dict.fromkeys(sizes, -1)
    for position, node in enumerate(order):
        for used in node.inputs:
            if used is not None and used in last_use:
                last_use[used] = position
    for value in model.graph.outputs:
        if value in last_use:
            last_use[value] = len(order)
    dying = [0] * (len(order) + 1)
    for value, position in last_use.items():
        dying[position] += sizes[value]
    live = sum(sizes[value] for value in model.graph.inputs)
    peak = live
    for position, node in enumerate(order):
        live += sum(sizes[value] for value in node.outputs)
        peak = max(peak, live)
        live -= dying[position]
    return int(peak * _OVERHEAD)
