"""Fused attention."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.layouts.axes import plain
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import MICROSOFT, Kind, Op


def _attention(tracker: Tracker, node: ir.Node) -> Result:
    query, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if query is None or sizes is None or len(query) != len(sizes):
        return [None]
    return [(*query[:-1], plain("channel", sizes[-1]))]


OPS = (
    Op("Attention", layout=_attention, kind=Kind.ATTENTION),
    *(Op(name, MICROSOFT, layout=_attention, kind=Kind.ATTENTION) for name in ("Attention", "MultiHeadAttention")),
)
