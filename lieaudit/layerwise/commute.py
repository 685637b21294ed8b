"""Which ops provably commute with the symmetry's action, so that their contribution is exactly zero.

The proofs of single ops stand in their entries (`lieaudit.ops`); here is what holds of all: layouts must be known, and
an op that never sees a grid commutes, because both of its sides are zero.
"""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.layouts.tracker import Tracker
from lieaudit.ops import lookup
from lieaudit.ops.commuting import dependent, layout


class Prover:
    """Decides for single nodes; a segment commutes if all of its nodes do.

    Parameters
    ----------
    tracker
        Axes of the graph.
    output
        The graph's output.
    spatial
        Whether the geometric generators act on it as on a map. Where they do not, the op that makes it takes a grid to
        a vector, and carries all that is left. A gain acts on no output.
    """

    def __init__(self, tracker: Tracker, output: ir.Value, *, spatial: bool) -> None:
        self._tracker = tracker
        self._output, self._spatial = output, spatial

    def geometric(self, node: ir.Node) -> bool:
        """Whether the node commutes with every geometric generator."""
        op = lookup(node)
        proof = op.geometric if op is not None else None
        if not self._spatial and self._ends_grid(node):
            return False
        return self._known(node) and (self._vectors(node) or (proof is not None and proof(self._tracker, node)))

    def gain(self, node: ir.Node) -> bool:
        """Whether the node commutes with a gain of every grid tensor."""
        op = lookup(node)
        proof = op.homogeneous if op is not None else None
        if self._ends_grid(node):
            return False
        return self._known(node) and (self._vectors(node) or (proof is not None and proof(self._tracker, node)))

    def _known(self, node: ir.Node) -> bool:
        used = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        return all(layout(self._tracker, v).known for v in (*dependent(self._tracker, node), *used))

    def _ends_grid(self, node: ir.Node) -> bool:
        return self._output in node.outputs and layout(self._tracker, self._output).spatial

    def _vectors(self, node: ir.Node) -> bool:
        return not any(layout(self._tracker, v).spatial for v in (*dependent(self._tracker, node), *node.outputs))
