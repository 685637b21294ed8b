"""Convolutions turned around, in forms that onnxruntime computes fast.

At stride 1 the transposed convolution is a convolution with the kernel flipped and its channels swapped; onnxruntime's
ConvTranspose takes 4.6 times as long. With strides it is a ConvTranspose; where that is slow (groups) or a waste
(kernels of one pixel), zeros are put between instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint, Extents
from lieaudit.autodiff.extents import Extent, Symbolic, product
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.nodes import ints_input, required
from lieaudit.ops.adjoints.arithmetic import Outputs, first
from lieaudit.ops.adjoints.placing import spread


@dataclass(frozen=True, slots=True)
class _Window:
    """A sliding window: per spatial axis its kernel, strides, dilations, and what is padded before and after."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    group: int

    @property
    def reach(self) -> list[int]:
        """Pixels from the first to the last of the kernel."""
        return [d * (k - 1) for k, d in zip(self.kernel, self.dilations, strict=True)]

    def attributes(self) -> dict[str, Any]:
        return {
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": [*self.before, *self.after],
            "group": self.group,
        }


def _window(a: Adjoint, node: ir.Node, kernel: list[int], grid: int, made: int) -> _Window:
    """Read a node; ``grid`` and ``made`` say which input and output sizes automatic padding follows."""
    n = len(kernel)
    attributes = node.attributes
    strides = list(attributes.get_ints("strides", [1] * n))
    dilations = list(attributes.get_ints("dilations", [1] * n))
    pads = list(attributes.get_ints("pads", [0] * (2 * n)))
    automatic = attributes.get_string("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = [0] * (2 * n)
    elif automatic.startswith("SAME"):
        x, y = required(node, 0), node.outputs[0]
        ends = x if grid == 0 else y, y if made == 0 else x
        for axis in range(n):
            size, out = (a.fixed(value, 2 + axis) for value in ends)
            full = max(0, (out - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - size)
            lower = full - full // 2 if automatic == "SAME_LOWER" else full // 2
            pads[axis], pads[n + axis] = lower, full - lower
    return _Window(kernel, strides, dilations, pads[:n], pads[n:], attributes.get_int("group", 1))


def convolution(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """W ∗ x: in x the kernel flipped and its channels swapped, ∗ u; in W see `_in_weights`."""
    u, x, w = first(ys), required(node, 0), required(node, 1)
    n = a.rank_of(x) - 2
    window = _window(a, node, [a.fixed(w, 2 + k) for k in range(n)], 0, 0)
    if i == 1:
        return _in_weights(a, x, a.sizes_of(x), u, window)
    if all(s == 1 for s in window.strides):
        return _at_every_pixel(a, u, w, window, [0] * n)
    sizes = [(a.fixed(x, 2 + k), a.fixed(node.outputs[0], 2 + k)) for k in range(n)]
    # pixels at the end that no window has reached
    left = [
        size + window.before[k] + window.after[k] - window.reach[k] - 1 - (out - 1) * window.strides[k]
        for k, (size, out) in enumerate(sizes)
    ]
    if window.group > 1:
        return _at_every_pixel(a, _apart(a, node, u, window), w, window, left)
    if all(k == 1 for k in window.kernel) and not any((*window.before, *window.after)):
        each = _at_every_pixel(a, u, w, window, [0] * n)
        extents = (*a.sizes_of(x)[:2], *a.sizes_of(node.outputs[0])[2:])
        return a.pad(_spread(a, each, extents, window.strides), n + 2, {}, {2 + k: v for k, v in enumerate(left)})
    return a.op("ConvTranspose", u, w, output_padding=left, **window.attributes())


def _apart(a: Adjoint, node: ir.Node, u: ir.Value, window: _Window) -> ir.Value:
    return _spread(a, u, a.sizes_of(node.outputs[0]), window.strides)


def _spread(a: Adjoint, u: ir.Value, extents: tuple[Extent, ...], strides: list[int]) -> ir.Value:
    """Put zeros between the pixels."""
    sizes = list(extents)
    for k, stride in enumerate(strides):
        count = sizes[2 + k]
        if stride == 1 or not isinstance(count, int):
            continue
        u = spread(a, u, tuple(sizes), 2 + k, count, stride)
        sizes[2 + k] = (count - 1) * stride + 1
    return u


def _at_every_pixel(a: Adjoint, u: ir.Value, w: ir.Value, window: _Window, left: list[int]) -> ir.Value:
    """Convolve with the turned kernel at stride 1; ``left``: further pixels at the end."""
    n = len(window.kernel)
    reach = window.reach
    before = [reach[k] - window.before[k] for k in range(n)]
    after = [reach[k] - window.after[k] + left[k] for k in range(n)]
    if any(p < 0 for p in (*before, *after)):  # windows that saw padding only
        u = a.pad(u, n + 2, {2 + k: min(0, p) for k, p in enumerate(before)},
                  {2 + k: min(0, p) for k, p in enumerate(after)})  # fmt: skip
    pads = [max(0, p) for p in (*before, *after)]
    turned = _turned(a, w, window)
    return a.op(
        "Conv", u, turned, kernel_shape=window.kernel, dilations=window.dilations, pads=pads, group=window.group
    )


def _turned(a: Adjoint, w: ir.Value, window: _Window) -> ir.Value:
    """Turn a kernel (M, C/g, …) into (C, M/g, …), flipped."""
    sizes, group = a.sizes_of(w), window.group
    m, c = a.fixed(w, 0), a.fixed(w, 1)
    space = list(sizes[2:])
    turned = a.reverse(w, [2 + k for k, size in enumerate(window.kernel) if size > 1])
    if group == 1:
        return a.transpose(turned, [1, 0, *range(2, len(sizes))])
    if c == 1 and m == group:
        return turned
    turned = a.reshape(turned, [group, m // group, c, *space])
    turned = a.transpose(turned, [0, 2, 1, *range(3, 3 + len(space))])
    return a.reshape(turned, [group * c, m // group, *space])


def _in_weights(a: Adjoint, x: ir.Value, sizes: Extents, u: ir.Value, window: _Window) -> ir.Value:
    """Return Σ over images and places of u x, by tap: a convolution of x by u, strides and dilations exchanged.

    Images take the part of channels, and channels that of images.
    """
    n, group = len(window.kernel), window.group
    count, channels, *space = sizes
    each = product([channels, Symbolic((), 1, group)])
    apart = a.reshape(x, [count, group, each, *space])
    apart = a.op("Transpose", apart, perm=[2, 1, 0, *range(3, 3 + n)])
    images = a.reshape(apart, [each, product([group, count]), *space])
    kernel = a.op("Transpose", u, perm=[1, 0, *range(2, 2 + n)])
    made = a.op(
        "Conv", images, kernel, strides=window.dilations, dilations=window.strides,
        pads=[*window.before, *window.after], group=group,
    )  # fmt: skip
    made = a.slice(made, [0] * n, window.kernel, list(range(2, 2 + n)))
    return a.op("Transpose", made, perm=[1, 0, *range(2, 2 + n)])


def transposed(a: Adjoint, node: ir.Node, i: int, ys: Outputs) -> ir.Value:
    """Convolve with the same kernel: ConvTranspose is the transpose of a Conv."""
    u, x, w = first(ys), required(node, 0), required(node, 1)
    n = a.rank_of(x) - 2
    window = _window(a, node, [a.fixed(w, 2 + k) for k in range(n)], 1, 1)
    if node.attributes.get_ints("output_shape", []) or _automatic(node):
        window = _to_shape(a, node, window)
    if i == 1:
        return _in_weights(a, u, a.sizes_of(node.outputs[0]), x, window)
    made = a.op("Conv", u, w, kernel_shape=window.kernel, **window.attributes())
    # pixels that output_padding adds, where they are so many that another window fits
    extra = node.attributes.get_ints("output_padding", [0] * n)
    longer = [k for k in range(n) if extra[k] >= window.strides[k]]
    ends = [a.fixed(x, 2 + k) for k in longer]
    return a.slice(made, [0] * len(longer), ends, [2 + k for k in longer]) if longer else made


def _automatic(node: ir.Node) -> bool:
    return node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")


def _to_shape(a: Adjoint, node: ir.Node, window: _Window) -> _Window:
    """Tell the pads from the sizes, as the standard shares them between the ends."""
    n = len(window.kernel)
    extra = list(node.attributes.get_ints("output_padding", [0] * n))
    before, after = [], []
    for k in range(n):
        size, out = a.fixed(required(node, 0), 2 + k), a.fixed(node.outputs[0], 2 + k)
        full = window.strides[k] * (size - 1) + extra[k] + window.reach[k] + 1 - out
        if full < 0:
            raise UnsupportedOpError(
                f"{node.op_type} {node.name!r} makes more pixels than its windows reach",
                reason="NO_TRANSPOSE",
                subject=node.name or node.op_type,
                hint="export it with output_padding instead of output_shape",
            )
        upper = node.attributes.get_string("auto_pad", "NOTSET") == "SAME_UPPER"
        lower = full // 2 if upper else full - full // 2
        before.append(lower)
        after.append(full - lower)
    return _Window(window.kernel, window.strides, window.dilations, before, after, window.group)


def columns(a: Adjoint, node: ir.Node, _i: int, ys: Outputs) -> ir.Value:
    """Col2Im: cut the blocks out again, a convolution with one kernel per place in the block."""
    u = first(ys)
    block = ints_input(node, 2)
    window = _window(a, node, block, 1, 1)
    each = math.prod(block)
    batch, channels, *space = a.sizes_of(node.outputs[0])
    dtype = u.dtype.numpy() if u.dtype is not None else np.float32
    kernel = a.const(np.eye(each, dtype=dtype).reshape(each, 1, *block))
    flat = a.reshape(u, [product([batch, channels]), 1, *space])
    made = a.op("Conv", flat, kernel, kernel_shape=block, **window.attributes())
    return a.reshape(made, a.sizes_of(required(node, 0)))
