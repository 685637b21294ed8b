"""GridSample, differentiated by the image and by the grid (Jaderberg et al. 2015, section 3.3).

y(g) = Σ_ij S_ij w_i(t_x) w_j(t_y), with S_ij the pixels around the point, t the point's distance from the first of
them and w the kernel. By the image it is the same sampling; by the grid it is dx/dg_x Σ_ij S_ij w'_i(t_x) w_j(t_y).
The pixels are taken by a GridSample to the nearest one, so that padding is onnxruntime's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.nodes import required
from lieaudit.ops.adjoints.sampling import grid_sample as transposed
from lieaudit.ops.grids import affine_grid
from lieaudit.ops.interpolants import kernel_weights_and_changes, padded_points, vector
from lieaudit.ops.op import Op, Outputs, Rule, Transpose


def grid_sample(context: Context, node: ir.Node) -> Outputs:
    """Sample the directions of the image, and move the points along those of the grid."""
    image, grid = required(node, 0), required(node, 1)
    dims = context.dims(node.outputs[0])
    total: Tangent | None = None
    if (tangent := context.tangent(image)) is not None:
        sampled = context.op("GridSample", context.fold(tangent), context.repeat(grid), attributes=node.attributes)
        total = context.folded(sampled, dims)
    mode = node.attributes.get_string("mode", "linear")
    if (moved := context.tangent(grid)) is not None and mode != "nearest":
        if len(dims) != 4:
            raise UnsupportedOpError(
                f"GridSample {node.name!r} samples volumes on a grid that moves with the image",
                reason="NO_RULE",
                subject=node.name or node.op_type,
                hint="use --method finite_difference",
            )
        total = context.add(total, _moved(context, node, image, grid, moved))
    return total


def _moved(context: Context, node: ir.Node, image: ir.Value, grid: ir.Value, moved: Tangent) -> Tangent | None:
    """Return Σ over both axes of ∂y/∂g · dg."""
    points = _Points.of(context, node, image, grid)
    slopes = points.slopes(context, node, image)
    rows = context.stack(moved)
    dims = context.dims(node.outputs[0])
    last = moved.rank - 1 + context.lead
    total: Tangent | None = None
    for axis, slope in enumerate(slopes):
        along = context.slice(rows, [axis], [axis + 1], [last])
        along = context.unsqueeze(context.squeeze(along, [last]), [1 + context.lead])
        total = context.add(total, context.stacked(context.op("Mul", along, slope), dims))
    return total


@dataclass(frozen=True, slots=True)
class _Points:
    """Where a grid (N, H', W', 2) samples an image; everything has its shape, x before y.

    Attributes
    ----------
    sizes
        (W, H).
    corners
        Bounds of the grid −1 … 1 count from the centres of the outermost pixels (``align_corners``), else their edges.
    first, beyond
        The pixel at or before the point, as a whole number, and how far the point is behind it.
    speed
        Pixels that the point moves by for one unit of the grid: 0 where padding holds it, negative where it reflects.
    kernel
        Number of pixels along an axis: 2 for linear, 4 for cubic.
    """

    sizes: np.ndarray
    corners: bool
    first: ir.Value
    beyond: ir.Value
    speed: tuple[ir.Value, ir.Value]
    kernel: int

    @classmethod
    def of(cls, context: Context, node: ir.Node, image: ir.Value, grid: ir.Value) -> _Points:
        """Read a node."""
        height, width = context.dims(image)[2:]
        if not isinstance(height, int) or not isinstance(width, int):
            raise UnsupportedOpError(
                f"GridSample {node.name!r} samples an image whose size is not fixed",
                reason="NO_RULE",
                subject=node.name or node.op_type,
                hint="use --method finite_difference",
            )
        sizes = np.array([width, height], np.float64)
        corners = node.attributes.get_int("align_corners", 0) == 1
        kernel = 4 if "cubic" in node.attributes.get_string("mode", "linear") else 2
        scale = (sizes - 1) / 2 if corners else sizes / 2
        offset = scale if corners else scale - 0.5
        at = context.op("Add", context.op("Mul", grid, vector(context, grid, scale)), vector(context, grid, offset))
        x, y = (context.number(float(along), grid) for along in scale)
        padding = node.attributes.get_string("padding_mode", "zeros")
        if kernel == 2 and padding != "zeros":  # a cubic kernel pads each of its pixels, not the point
            at, turn = padded_points(context, at, padding, sizes, corners=corners)
            x, y = context.op("Mul", _axis(context, turn, 0), x), context.op("Mul", _axis(context, turn, 1), y)
        first = context.op("Floor", at)
        return cls(sizes, corners, first, context.op("Sub", at, first), (x, y), kernel)

    def slopes(self, context: Context, node: ir.Node, image: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return ∂y/∂g_x and ∂y/∂g_y, each of the shape of y."""
        weights, changes = kernel_weights_and_changes(context, self.beyond, self.kernel)
        x = [(_axis(context, w, 0), _axis(context, c, 0)) for w, c in zip(weights, changes, strict=True)]
        y = [(_axis(context, w, 1), _axis(context, c, 1)) for w, c in zip(weights, changes, strict=True)]
        terms: tuple[list[ir.Value], list[ir.Value]] = ([], [])
        for i, (weight_x, change_x) in enumerate(x):
            for j, (weight_y, change_y) in enumerate(y):
                pixel = self._pixel(context, node, image, i, j)
                terms[0].append(context.op("Mul", pixel, context.op("Mul", change_x, weight_y)))
                terms[1].append(context.op("Mul", pixel, context.op("Mul", weight_x, change_y)))
        made = [context.op("Mul", context.op("Sum", *row), self.speed[axis]) for axis, row in enumerate(terms)]
        return made[0], made[1]

    def _pixel(self, context: Context, node: ir.Node, image: ir.Value, i: int, j: int) -> ir.Value:
        """Return the i-th and j-th pixel along x and y that the kernel takes: (N, C, H', W')."""
        before = self.kernel // 2 - 1
        index = context.op("Add", self.first, vector(context, self.first, np.array([i - before, j - before])))
        if self.corners:
            scale, offset = 2 / np.maximum(self.sizes - 1, 1), np.array([-1.0, -1.0])
        else:
            scale, offset = 2 / self.sizes, 1 / self.sizes - 1
        scaled = context.op("Mul", index, vector(context, index, scale))
        grid = context.op("Add", scaled, vector(context, index, offset))
        padding = node.attributes.get_string("padding_mode", "zeros")
        corners = int(self.corners)
        return context.op("GridSample", image, grid, mode="nearest", padding_mode=padding, align_corners=corners)


def _axis(context: Context, value: ir.Value, axis: int) -> ir.Value:
    """Return the x or y component of (N, H', W', 2) as (N, 1, H', W')."""
    return context.unsqueeze(context.squeeze(context.slice(value, [axis], [axis + 1], [3]), [3]), [1])


OPS = (
    Op("AffineGrid", body=affine_grid, sized_by=(1,)),
    Op(
        "GridSample",
        tangent=Rule("sampling", grid_sample, operands=(0, 1), nearest=(1,)),
        linear=(0,),
        transpose=Transpose(transposed),
    ),
)
