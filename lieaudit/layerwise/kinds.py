"""What kind of layer a segment is: the first entry of `KINDS` whose test its nodes pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lieaudit.layouts.axes import GRID, has_grid
from lieaudit.layouts.layout import layout_of
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops import Kind, is_op, lookup
from lieaudit.ops.commuting import varies_over_grid
from lieaudit.ops.convolution import is_pointwise


@dataclass(frozen=True, slots=True)
class View:
    """A segment as the tests see it."""

    nodes: Sequence[ir.Node]
    tracker: Tracker
    kinds: frozenset[Kind]

    def of(self, *kinds: Kind) -> list[ir.Node]:
        """Return the nodes of these kinds."""
        return [n for n in self.nodes if _kind(n) in kinds]

    def has(self, *names: str) -> bool:
        """Say whether a node is one of these ops of the default domain."""
        return any(is_op(n, *names) for n in self.nodes)

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
    """Look for the op, or for a product of two tensors that both depend on the image."""
    products = view.of(Kind.MATRIX_PRODUCT)
    several = any(len(_dependent(view, n.inputs)) > 1 and not is_op(n, "Gemm") for n in products)
    return Kind.ATTENTION in view.kinds or several


def _patch_embedding(view: View) -> bool:
    for node in view.of(Kind.CONVOLUTION):
        sizes = view.tracker.sizes(node.inputs[1])
        strides = view.tracker.ints(node, "strides") or [1]
        source = view.grid(node.inputs[0])
        if sizes is not None and list(sizes[2:]) == strides and strides[0] > 1 and _is_image(view, source):
            return True
    return any(
        is_op(n, "MatMul", "Gemm")
        and any(has_grid(axis) for axis in (view.tracker.of(n.inputs[0]) or ())[-1:])
        and view.grid(n.inputs[0]) != view.grid(n.outputs[0]) != ()
        for n in view.nodes
    )


def _is_image(view: View, grid: tuple[tuple[str, int], ...]) -> bool:
    image = next(iter(view.tracker.axes))
    return grid == grid_of(view.tracker, image)


def _positional(view: View) -> bool:
    return any(
        is_op(n, "Add")
        and layout_of(view.tracker.of(n.outputs[0])).spatial
        and len(_dependent(view, n.inputs)) == 1
        and any(varies_over_grid(view.tracker, v, n.outputs[0]) for v in n.inputs if not view.tracker.varies(v))
        for n in view.nodes
    )


def _downsampling(view: View) -> bool:
    strided = any(max(view.tracker.ints(n, "strides") or [1]) > 1 for n in view.of(Kind.CONVOLUTION))
    sliced = any(
        is_op(n, "Slice") and max(view.tracker.ints(n, "steps", 4) or [1]) > 1 and view.grid(n.inputs[0])
        for n in view.nodes
    )
    return strided or sliced or Kind.DOWNSAMPLING in view.kinds


def _pooling(view: View) -> bool:
    reduced = view.of(Kind.REDUCTION)
    return Kind.POOLING in view.kinds or any(view.grid(n.inputs[0]) != view.grid(n.outputs[0]) for n in reduced)


def _normalisation(view: View) -> bool:
    return Kind.NORMALISATION in view.kinds or (view.has("ReduceMean") and view.has("Sqrt", "Pow"))


def _mixing(view: View) -> bool:
    """Whether weights combine positions without being a convolution: token mixing, or flatten and multiply."""
    return any(_contracts_grid(view, n) for n in view.of(Kind.MATRIX_PRODUCT))


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
    ("upsampling", lambda v: Kind.UPSAMPLING in v.kinds),
    ("downsampling", _downsampling),
    ("convolution", lambda v: any(not is_pointwise(v.tracker, n) for n in v.of(Kind.CONVOLUTION))),
    ("pointwise linear", lambda v: bool(v.of(Kind.MATRIX_PRODUCT, Kind.CONVOLUTION))),
    ("nonlinearity", lambda v: Kind.NONLINEARITY in v.kinds),
    ("residual", lambda v: any(len(_dependent(v, n.inputs)) > 1 for n in v.of(Kind.SUM))),
    ("gating", lambda v: any(len(_dependent(v, n.inputs)) > 1 for n in v.of(Kind.PRODUCT))),
    ("affine", lambda v: bool(v.of(Kind.SUM, Kind.PRODUCT, Kind.AFFINE))),
    ("padding", lambda v: Kind.PADDING in v.kinds),
    ("rearrangement", lambda _v: True),
)
"""Order matters: a segment with a convolution and a nonlinearity is a convolution."""


def kind_of(nodes: Sequence[ir.Node], tracker: Tracker) -> str:
    """Give the kind of a segment."""
    view = View(nodes, tracker, frozenset(kind for node in nodes if (kind := _kind(node)) is not None))
    return next(kind for kind, test in KINDS if test(view))


def _kind(node: ir.Node) -> Kind | None:
    op = lookup(node)
    return op.kind if op is not None else None
