"""Fused attention."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.layouts.axes import plain
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.elementwise_axes import Result
from lieaudit.ops.op import Kind, Op


def attention_axes(tracker: Tracker, node: ir.Node) -> Result:
    """Return the query's axes with the channels of the values."""
    query, sizes = tracker.of(node.inputs[0]), tracker.sizes(node.outputs[0])
    if query is None or sizes is None or len(query) != len(sizes):
        return [None]
    return [(*query[:-1], plain("channel", sizes[-1]))]


OPS = (Op("Attention", layout=attention_axes, kind=Kind.ATTENTION),)
