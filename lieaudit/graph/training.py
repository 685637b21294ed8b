"""Graphs that are no function of one image: exported in training mode, or with random ops."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.errors import ModelError
from lieaudit.graph.forward.prepare import inline_control_flow
from lieaudit.graph.names import called
from lieaudit.ops import is_random

_NAMED = 3


def refuse_random(model: ir.Model) -> None:
    """Raise where the graph draws numbers, or an image's answer depends on its batch.

    The graph decides, not two runs of it: onnxruntime may repeat a mask.

    Raises
    ------
    ModelError
        NONDETERMINISTIC, naming the nodes.
    """
    if not _random(model):
        return
    # which branches are taken, and what a constant is, shows once they are followed
    settled = model.clone()
    inline_control_flow(settled)
    passes.RemoveUnusedNodesPass()(settled)
    found = _random(settled)
    if not found:
        return
    shown = [f"{called(node)} {why}" for node, why in found]
    more = f", and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    raise ModelError(
        f"the output is no function of one image: {', '.join(shown[:_NAMED])}{more}",
        reason="NONDETERMINISTIC",
        subject=found[0][0].name or found[0][0].op_type,
        hint="export the model in evaluation mode (model.eval() in torch), without random ops",
    )


def _random(model: ir.Model) -> list[tuple[ir.Node, str]]:
    opset = model.opset_imports.get("", 0)
    return [(node, why) for node in model.graph.all_nodes() if (why := is_random(node, opset))]
