"""Forward-mode differentiation of ONNX graphs: tangents carried beside values, one rule per op family."""

from lieaudit.graph.forward.prepare import inline_control_flow
from lieaudit.graph.forward.rewrite import Applied, Rewritten, rewrite
from lieaudit.graph.forward.shapes import measure_shapes
from lieaudit.ops import Rule, replaced_rule

__all__ = ["Applied", "Rewritten", "Rule", "inline_control_flow", "measure_shapes", "replaced_rule", "rewrite"]
