"""Ops of the default domain that the standard dropped before its first release, and onnxruntime still runs.

CoreML and WinML converters wrote them until 2019.
"""

from __future__ import annotations

import numpy as np

from lieaudit.ops.body import Body, NotCovered
from lieaudit.ops.op import Op


def _affine(b: Body) -> None:
    b.result(_shifted(b, b.scaled(b.input(0), _required(b, "alpha")), _required(b, "beta")))


def _scale(b: Body) -> None:
    b.result(b.op("Mul", b.input(0), b.number(b.attributes.get_float("scale", 1.0))))


def _scaled_tanh(b: Body) -> None:
    b.result(b.scaled(b.op("Tanh", b.scaled(b.input(0), _required(b, "beta"))), _required(b, "alpha")))


def _parametric_softplus(b: Body) -> None:
    b.result(b.scaled(b.op("Softplus", b.scaled(b.input(0), _required(b, "beta"))), _required(b, "alpha")))


def thresholded_relu(b: Body) -> None:
    """Write x where x > alpha, else 0, as before opset 10."""
    above = b.op("Greater", b.input(0), b.number(b.attributes.get_float("alpha", 1.0)))
    b.result(b.op("Where", above, b.input(0), b.number(0.0)))


def _image_scaler(b: Body) -> None:
    """Write scale · x + bias, with a bias per channel."""
    bias = b.const(np.array(b.attributes["bias"].as_floats(), b.dtype).reshape(-1, 1, 1))
    b.result(b.op("Add", b.op("Mul", b.input(0), b.number(b.attributes.get_float("scale", 1.0))), bias))


def _crop(b: Body) -> None:
    """Keep what is inside a border of left, top, right and bottom, or so many rows and columns from left and top."""
    left, top, right, bottom = b.attributes["border"].as_ints()
    size = b.attributes.get_ints("scale", [])
    far = 1 << 31
    ends = [top + size[0], left + size[1]] if size else [-bottom or far, -right or far]
    if b.opset >= 10:
        b.result(b.op("Slice", b.input(0), b.ints(top, left), b.ints(*ends), b.ints(2, 3)))
    else:
        b.result(b.op("Slice", b.input(0), starts=[top, left], ends=ends, axes=[2, 3]))


def _required(b: Body, name: str) -> float:
    if name not in b.attributes:
        raise NotCovered(f"{name} is missing")
    return b.attributes[name].as_float()


def _shifted(b: Body, value: str, by: float) -> str:
    return b.op("Add", value, b.number(by)) if by else value


OPS = (
    Op("Affine", expansion=_affine),
    Op("Scale", expansion=_scale),
    Op("ScaledTanh", expansion=_scaled_tanh),
    Op("ParametricSoftplus", expansion=_parametric_softplus),
    Op("ImageScaler", expansion=_image_scaler),
    Op("Crop", expansion=_crop),
)
