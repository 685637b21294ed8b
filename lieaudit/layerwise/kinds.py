"""What kind of layer a segment is: the first entry of `KINDS` whose test its nodes pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lieaudit.layerwise.atoms import GRID, has_grid
from lieaudit.layerwise.axes import Tracker
from lieaudit.layerwise.axis_rules import is_pointwise
from lieaudit.layerwise.commute import varies_over_grid
from lieaudit.layerwise.layouts import layout_of

_NORMALISATIONS = {
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LpNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
}
_NONLINEARITIES = {
    "Abs", "BiasGelu", "Celu", "Clip", "Elu", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Max", "Min", "Mish", "PRelu", "QuickGelu", "Relu", "Selu", "Sigmoid", "Sin", "Softmax", "Softplus", "Softsign",
    "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_POOLS = {"AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"}
_REDUCTIONS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceLogSumExp"}
_CONVOLUTIONS = {"Conv", "ConvInteger", "FusedConv"}


@dataclass(frozen=True, slots=True)
class View:
    """A segment as the tests see it."""

    nodes: Sequence[ir.Node]
    tracker: Tracker
    ops: frozenset[str]

    def convolutions(self) -> list[ir.Node]:
        """Give the convolutions."""
        return [n for n in self.nodes if n.op_type in _CONVOLUTIONS]

    def grid(self, value: ir.Value | None) -> tuple[tuple[str, int], ...]:
        """Give the grid of a tensor; empty for vectors and unknown layouts."""
        return grid_of(self.tracker, value)


def grid_of(tracker: Tracker, value: ir.Value | None) -> tuple[tuple[str, int], ...]:
    """Give (role, size) of the coordinates of a tensor's grid."""
    if value is None or not tracker.varies(value):
        return ()
    axes = tracker.of(value) or ()
    atoms = [
        a for axis in axes for atom in axis for a in ((x for p in atom.parts for x in p) if atom.parts else (atom,))
    ]
    return tuple(sorted({(a.role, a.total) for a in atoms if a.role in GRID}))


def _dependent(view: View, values: Sequence[ir.Value | None]) -> list[ir.Value]:
    return [v for v in values if v is not None and view.tracker.varies(v)]


def _head(view: View) -> bool:
    """Only vectors in and out."""
    return all(
        layout_of(view.tracker.of(value)).kind == "vector"
        for node in view.nodes
        for value in (*_dependent(view, node.inputs), *node.outputs)
    )


def _attention(view: View) -> bool:
    if view.ops & {"Attention", "MultiHeadAttention"}:
        return True
    products = sum(
        n.op_type in {"MatMul", "Einsum", "FusedMatMul"} and len(_dependent(view, n.inputs)) > 1 for n in view.nodes
    )
    return (products >= 2 and "Softmax" in view.ops) or products >= 1


def _patch_embedding(view: View) -> bool:
    for node in view.convolutions():
        sizes = view.tracker.sizes(node.inputs[1])
        strides = view.tracker.ints(node, "strides") or [1]
        source = view.grid(node.inputs[0])
        if sizes is not None and list(sizes[2:]) == strides and strides[0] > 1 and _is_image(view, source):
            return True
    return any(
        n.op_type in {"MatMul", "Gemm"}
        and any(has_grid(axis) for axis in (view.tracker.of(n.inputs[0]) or ())[-1:])
        and view.grid(n.inputs[0]) != view.grid(n.outputs[0]) != ()
        for n in view.nodes
    )


def _is_image(view: View, grid: tuple[tuple[str, int], ...]) -> bool:
    image = next(iter(view.tracker.axes))
    return grid == grid_of(view.tracker, image)


def _positional(view: View) -> bool:
    return any(
        n.op_type == "Add"
        and layout_of(view.tracker.of(n.outputs[0])).spatial
        and len(_dependent(view, n.inputs)) == 1
        and any(varies_over_grid(view.tracker, v, n.outputs[0]) for v in n.inputs if not view.tracker.varies(v))
        for n in view.nodes
    )


def _downsampling(view: View) -> bool:
    strided = any(max(view.tracker.ints(n, "strides") or [1]) > 1 for n in view.convolutions())
    sliced = any(
        n.op_type == "Slice" and max(view.tracker.ints(n, "steps", 4) or [1]) > 1 and view.grid(n.inputs[0])
        for n in view.nodes
    )
    return strided or sliced or "SpaceToDepth" in view.ops


def _pooling(view: View) -> bool:
    return bool(view.ops & _POOLS) or any(
        n.op_type in _REDUCTIONS and view.grid(n.inputs[0]) != view.grid(n.outputs[0]) for n in view.nodes
    )


def _normalisation(view: View) -> bool:
    return bool(view.ops & _NORMALISATIONS) or ("ReduceMean" in view.ops and bool(view.ops & {"Sqrt", "Pow"}))


def _mixing(view: View) -> bool:
    """Whether weights combine positions without being a convolution: token mixing, or flatten and multiply."""
    return any(n.op_type in {"MatMul", "Gemm", "Einsum"} and _contracts_grid(view, n) for n in view.nodes)


def _contracts_grid(view: View, node: ir.Node) -> bool:
    axes = [view.tracker.of(v) for v in node.inputs[:2]]
    first = axes[0][-1] if axes[0] else ()
    second = axes[1][-2] if axes[1] and len(axes[1]) > 1 else ()
    return has_grid(first if view.tracker.varies(node.inputs[0]) else second)


Test = Callable[[View], bool]

KINDS: tuple[tuple[str, Test], ...] = (
    ("head", _head),
    ("attention", _attention),
    ("patch embedding", _patch_embedding),
    ("position mixing", _mixing),
    ("positional embedding", _positional),
    ("normalisation", _normalisation),
    ("pooling", _pooling),
    ("upsampling", lambda v: bool(v.ops & {"Resize", "Upsample", "ConvTranspose", "DepthToSpace"})),
    ("downsampling", _downsampling),
    ("convolution", lambda v: any(not is_pointwise(v.tracker, n) for n in v.convolutions())),
    ("pointwise linear", lambda v: bool(v.ops & ({"MatMul", "Gemm", "Einsum", "FusedMatMul"} | _CONVOLUTIONS))),
    ("nonlinearity", lambda v: bool(v.ops & _NONLINEARITIES)),
    ("residual", lambda v: bool(v.ops & {"Add", "Sum"}) and any(len(_dependent(v, n.inputs)) > 1 for n in v.nodes)),
    ("gating", lambda v: "Mul" in v.ops and any(len(_dependent(v, n.inputs)) > 1 for n in v.nodes)),
    ("affine", lambda v: bool(v.ops & {"Add", "Sub", "Mul", "Div"})),
    ("padding", lambda v: "Pad" in v.ops),
    ("rearrangement", lambda _v: True),
)
"""Order matters: a segment with a convolution and a nonlinearity is a convolution."""


def kind_of(nodes: Sequence[ir.Node], tracker: Tracker) -> str:
    """Give the kind of a segment."""
    view = View(nodes, tracker, frozenset(node.op_type for node in nodes))
    return next(kind for kind, test in KINDS if test(view))
