"""Forward-mode differentiation of ONNX graphs: tangents carried beside values, one rule per op family."""

from lieaudit.graph.forward.rewrite import Applied, Rewritten, rewrite
from lieaudit.graph.forward.rules import Rule, replaced_rule
from lieaudit.graph.forward.shapes import measure_shapes

__all__ = ["Applied", "Rewritten", "Rule", "measure_shapes", "replaced_rule", "rewrite"]
