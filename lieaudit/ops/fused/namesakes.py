"""Ops of onnxruntime's domain that the standard has too, and that are the same where this says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from lieaudit.ops.body import Body, NotCovered
from lieaudit.ops.op import MICROSOFT, Op


def _trilu(b: Body) -> None:
    _same(b, since=14)


def _gather_nd(b: Body) -> None:
    _same(b, since=11)


def _grid_sample(b: Body) -> None:
    """Its modes have the names that the standard had before opset 20."""
    mode = b.attributes.get_string("mode", "bilinear")
    _same(b, since=16, mode=mode.removeprefix("bi") if b.opset >= 20 else mode)


def _pad(b: Body) -> None:
    """Its pads may be (1, 2 · rank)."""
    pads = b.array(1).reshape(-1).astype(np.int64)
    mode = b.attributes.get_string("mode", "constant")
    if b.opset >= 11:
        given = [b.input(2)] if b.has(2) else []
        b.result(b.op("Pad", b.input(0), b.const(pads), *given, mode=mode))
    else:
        number = float(b.array(2).reshape(-1)[0]) if b.has(2) else 0.0
        b.result(b.op("Pad", b.input(0), pads=pads.tolist(), value=number, mode=mode))


def _expand_dims(b: Body) -> None:
    axis = int(b.array(1).reshape(-1)[0])
    if axis < 0 and b.opset < 11:
        axis += b.rank(0) + 1
    b.result(b.unsqueeze(b.input(0), axis))


def quantiser(b: Body) -> None:
    """Of int8 and uint8; of a scale per channel since opset 13 (before, the standard's had one scale)."""
    single = b.value(1).shape is not None and all(size == 1 for size in b.value(1).shape or ())
    zero = b.value(2).dtype if b.has(2) else None
    if b.opset < (10 if single else 13) or (zero is not None and zero.bitwidth != 8):
        raise NotCovered("a form that the standard does not have at this opset")
    axis = b.attributes.get_int("axis", 1) if b.opset >= 13 else None
    b.result(b.op(b.node.op_type, *(b.input(i) for i in range(3) if b.has(i)), axis=axis))


def _same(b: Body, since: int, **others: Any) -> None:
    """Write the standard's op with the same inputs, and the same attributes but for `others`."""
    if b.opset < since:
        raise NotCovered(f"the standard has it since opset {since}")
    attributes: dict[str, Any] = {name: attribute.value for name, attribute in b.attributes.items()} | others
    inputs = [b.input(i) for i in range(len(b.node.inputs))]
    b.result(b.op(b.node.op_type, *inputs, **attributes))


OPS = (
    Op("Trilu", MICROSOFT, expansion=_trilu),
    Op("GatherND", MICROSOFT, expansion=_gather_nd),
    Op("GridSample", MICROSOFT, expansion=_grid_sample),
    Op("Pad", MICROSOFT, expansion=_pad, sized_by=(1,)),
    Op("ExpandDims", MICROSOFT, expansion=_expand_dims, sized_by=(1,)),
)
