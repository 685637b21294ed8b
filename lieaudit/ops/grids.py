"""AffineGrid as one matrix product: the grid is linear in theta (Jaderberg et al. 2015, equation 1)."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from lieaudit.ops.body import Body


def affine_grid(node: ir.Node, opset: int) -> onnx.ModelProto | None:
    """Return (N, *size, d) = points (P, d + 1) · thetaᵀ (N, d + 1, d) as a graph; None where the size is not fixed."""
    shape = node.outputs[0].shape
    sizes = [size for size in list(shape or ())[1:-1] if isinstance(size, int)]
    if shape is None or len(sizes) != len(shape) - 2:
        return None
    body = Body(node, opset)
    axes = [_positions(size, corners=body.flag("align_corners")) for size in sizes]
    grids = np.meshgrid(*axes, indexing="ij")
    # the first coordinate runs along the last axis
    points = np.stack([*(grid.reshape(-1) for grid in grids[::-1]), np.ones(grids[0].size)], axis=1)
    turned = body.op("Transpose", body.input(0), perm=[0, 2, 1])
    moved = body.op("MatMul", body.const(points.astype(body.dtype)), turned)
    body.result(body.op("Reshape", moved, body.ints(-1, *sizes, len(sizes))))
    return body.model()


def _positions(size: int, *, corners: bool) -> np.ndarray:
    """Return where the pixels of an axis are between −1 and 1, its edges or, with ``align_corners``, their centres."""
    if corners:
        return np.linspace(-1.0, 1.0, size) if size > 1 else np.array([-1.0])
    return (2 * np.arange(size) + 1) / size - 1
