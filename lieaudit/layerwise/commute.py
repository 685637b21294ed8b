"""Which ops provably commute with the symmetry's action, so that their contribution is exactly zero.

Geometric generators act on a grid tensor by X h = v · ∇h and on vectors and prefix tokens by 0; an op commutes if it is
linear and acts alike at every pixel, or never sees a pixel. The gain (``brightness``) acts on every grid tensor by
X h = h; an op commutes if it is positively homogeneous.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lieaudit.layerwise.atoms import GRID, Axis, has_grid
from lieaudit.layerwise.axes import Tracker
from lieaudit.layerwise.axis_rules import is_pointwise
from lieaudit.layerwise.layouts import Layout, layout_of

_REARRANGE = {"Cast", "Dropout", "Flatten", "Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_HOMOGENEOUS = {
    "Abs", "AveragePool", "Concat", "DepthToSpace", "LeakyRelu", "LpPool", "MaxPool", "PRelu", "ReduceL1", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Resize", "Slice", "SpaceToDepth", "Split", "Upsample",
    "Add", "Sub", "Sum", "Mean", "Max", "Min",
}  # fmt: skip


def varies_over_grid(tracker: Tracker, constant: ir.Value | None, output: ir.Value) -> bool:
    """Say whether a constant differs between the pixels of the tensor it is combined with."""
    if constant is None:
        return False
    axes, sizes = tracker.of(output), tracker.sizes(constant)
    if axes is None or sizes is None:
        return True
    at = [i - (len(axes) - len(sizes)) for i, axis in enumerate(axes) if has_grid(axis) and i >= len(axes) - len(sizes)]
    if all(sizes[i] == 1 for i in at):
        return False
    array = tracker.constant(constant)
    return array is None or any(np.any(array != np.take(array, [0], axis=i)) for i in at if sizes[i] > 1)


class Prover:
    """Decides for single nodes; a segment commutes if all of its nodes do."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._tests: dict[str, Callable[[ir.Node], bool]] = {
            **dict.fromkeys(_REARRANGE, lambda _node: True),
            **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), self._constant_over_grid),
            **dict.fromkeys(("Mul", "Div"), self._product),
            **dict.fromkeys(("MatMul", "Gemm"), self._matmul),
            **dict.fromkeys(("Slice", "Split", "Gather"), self._subset),
            **dict.fromkeys(("ReduceMean", "ReduceSum"), self._reduction),
            "BatchNormalization": self._batch_norm,
            "Concat": self._concat,
            "Conv": self._convolution,
            "Pad": self._same_sizes,
        }

    def geometric(self, node: ir.Node) -> bool:
        """Whether the node commutes with every geometric generator."""
        if not self._known(node):
            return False
        if self._vectors(node):
            return True
        test = self._tests.get(node.op_type)
        return test is not None and test(node) and self._same_grid(node)

    def gain(self, node: ir.Node) -> bool:  # noqa: PLR0911 - one return per family of ops
        """Whether the node commutes with a gain of every grid tensor."""
        if not self._known(node):
            return False
        if self._vectors(node):
            return True
        op = node.op_type
        inputs = self._dependent(node)
        spatial = all(self._layout(v).spatial for v in (*inputs, *node.outputs))
        if op in {"Mul", "Div"}:
            return self.geometric(node)
        if op in _REARRANGE | {"Gather", "Pad"} or (op in {"Slice", "Split", "Concat"} and self.geometric(node)):
            return self.geometric(node) and (op != "Concat" or self._prefixed(node) or not self._constants(node))
        if not spatial:
            return False
        if op in {"Conv", "ConvTranspose", "Gemm"}:
            has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
            return not has_bias and self._only_weights(node) and (op != "Gemm" or self.geometric(node))
        if op == "MatMul":
            return self.geometric(node)
        return op in _HOMOGENEOUS and not self._float_constants(node)

    # ---- what the tests ask ----------------------------------------------------------------------------------------

    def _dependent(self, node: ir.Node) -> list[ir.Value]:
        return [v for v in node.inputs if v is not None and self._tracker.varies(v)]

    def _constants(self, node: ir.Node) -> list[ir.Value]:
        return [v for v in node.inputs if v is not None and not self._tracker.varies(v)]

    def _float_constants(self, node: ir.Node) -> bool:
        return node.op_type in {"Add", "Sub", "Sum", "Mean", "Max", "Min", "Concat"} and bool(self._constants(node))

    def _layout(self, value: ir.Value) -> Layout:
        return layout_of(self._tracker.of(value))

    def _known(self, node: ir.Node) -> bool:
        used = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        return all(self._layout(v).known for v in (*self._dependent(node), *used))

    def _vectors(self, node: ir.Node) -> bool:
        return not any(self._layout(v).spatial for v in (*self._dependent(node), *node.outputs))

    def _grid(self, value: ir.Value) -> set[tuple[str, int]]:
        atoms = [a for axis in self._tracker.of(value) or () for atom in axis for a in _inner(atom.parts, (atom,))]
        return {(a.role, a.total) for a in atoms if a.role in GRID}

    def _same_grid(self, node: ir.Node) -> bool:
        """Every grid tensor of the node has one and the same grid."""
        grids = [self._grid(v) for v in (*self._dependent(node), *node.outputs)]
        return len({frozenset(g) for g in grids if g}) <= 1

    def _constant_over_grid(self, node: ir.Node) -> bool:
        return not any(varies_over_grid(self._tracker, v, node.outputs[0]) for v in self._constants(node))

    def _only_weights(self, node: ir.Node) -> bool:
        return not any(self._tracker.varies(v) for v in node.inputs[1:])

    def _axis_has_grid(self, value: ir.Value | None, at: int) -> bool:
        axes = self._tracker.of(value) or ()
        return not -len(axes) <= at < len(axes) or has_grid(axes[at])

    def _prefixed(self, node: ir.Node) -> bool:
        """Whether a Concat puts constant prefix tokens before or after a grid."""
        at = node.attributes["axis"].as_int()
        return self._axis_has_grid(node.outputs[0], at)

    # ---- one test per op, geometric generators ---------------------------------------------------------------------

    def _product(self, node: ir.Node) -> bool:
        spatial = [v for v in self._dependent(node) if self._layout(v).spatial]
        numerator = node.op_type != "Div" or (node.inputs[0] is not None and node.inputs[0] in spatial)
        return len(spatial) == 1 and numerator and self._constant_over_grid(node)

    def _convolution(self, node: ir.Node) -> bool:
        return (
            is_pointwise(self._tracker, node)
            and self._only_weights(node)
            and not self._axis_has_grid(node.inputs[0], 1)
        )

    def _matmul(self, node: ir.Node) -> bool:
        first, second = node.inputs[:2]
        if self._tracker.varies(first) and self._tracker.varies(second):
            return False
        if not self._tracker.varies(second):
            transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
            weights = self._tracker.sizes(second) or (0, 0, 0)
            # a stack of weight matrices may differ from pixel to pixel
            stacked = node.op_type == "MatMul" and any(size != 1 for size in weights[:-2])
            return not stacked and not self._axis_has_grid(first, 0 if transposed else -1)
        return len(self._tracker.sizes(first) or ()) == 2 and not self._axis_has_grid(second, -2)

    def _same_sizes(self, node: ir.Node) -> bool:
        """Whether a Pad adds nothing, as exporters write it."""
        return self._tracker.sizes(node.inputs[0]) == self._tracker.sizes(node.outputs[0])

    def _batch_norm(self, node: ir.Node) -> bool:
        return not self._axis_has_grid(node.inputs[0], 1)

    def _concat(self, node: ir.Node) -> bool:
        at = node.attributes["axis"].as_int()
        if self._prefixed(node):
            axes = self._tracker.of(node.outputs[0]) or ()
            at %= len(axes)
            return any(atom.role == "tokens" for atom in axes[at])
        return self._constant_over_grid(node)

    def _subset(self, node: ir.Node) -> bool:
        """Slice, Split or Gather: of channels, or of prefix tokens, or of a whole grid out of tokens."""
        if not self._only_weights(node):
            return False
        before = self._tracker.of(node.inputs[0]) or ()
        whole = {(atom.role, atom.total) for axis in before for atom in axis if atom.role in GRID}
        for value in node.outputs:
            after = {
                (a.role, a.total, a.crop) for axis in self._tracker.of(value) or () for a in axis if a.role in GRID
            }
            if any(crop is not None for _, _, crop in after) or ({(r, t) for r, t, _ in after} != whole and whole):
                return False
        return True

    def _reduction(self, node: ir.Node) -> bool:
        axes = self._tracker.of(node.inputs[0]) or ()
        at = self._tracker.ints(node, "axes", 1)
        gone = at or list(range(len(axes)))
        return not any(has_grid(axes[i]) for i in gone)


def _inner(parts: tuple[Axis, ...], otherwise: Axis) -> Axis:
    return tuple(atom for part in parts for atom in part) if parts else otherwise
