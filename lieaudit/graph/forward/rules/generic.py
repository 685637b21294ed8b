"""The last resort."""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.rules import Outputs, Rule


def generic(context: Context, node: ir.Node) -> Outputs:
    """Refuse, naming the op."""
    del context
    raise UnsupportedOpError(
        f"{node.domain or 'ai.onnx'}::{node.op_type} has no rule",
        reason="NO_RULE",
        subject=node.name or node.op_type,
        hint="use --method finite_difference",
    )


GENERIC = Rule("generic", generic, exact=False)
