"""Proofs that an op commutes with a symmetry's action, from attributes, constants and axes; shared by the families.

Geometric generators act on a grid tensor by X h = v · ∇h and on vectors and prefix tokens by 0; an op commutes if it is
linear and acts alike at every pixel, or never sees a pixel. The gain (``brightness``) acts on every grid tensor by
X h = h; an op commutes if it is positively homogeneous.
"""

from __future__ import annotations

import onnx_ir as ir

from lieaudit.graph.nodes import has_input, reads
from lieaudit.layouts.algebra import differs_over_grid
from lieaudit.layouts.axes import GRID, Axis, has_grid
from lieaudit.layouts.layout import Layout, layout_of
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.op import FLOATS, Proof

# ---- what the proofs ask ------------------------------------------------------------------------------------------


def dependent(tracker: Tracker, node: ir.Node) -> list[ir.Value]:
    """Return what depends on the pixels among the operands, and among what branches and bodies read."""
    return [v for v in reads(node) if tracker.varies(v)]


def constants(tracker: Tracker, node: ir.Node) -> list[ir.Value]:
    """Return the operands that do not depend on the pixels."""
    return [v for v in node.inputs if v is not None and not tracker.varies(v)]


def layout(tracker: Tracker, value: ir.Value) -> Layout:
    """Return the layout of a tensor."""
    return layout_of(tracker.of(value))


def only_first(tracker: Tracker, node: ir.Node) -> bool:
    """Say whether no operand but the first depends on the pixels."""
    return not any(tracker.varies(v) for v in node.inputs[1:])


def axis_has_grid(tracker: Tracker, value: ir.Value | None, at: int) -> bool:
    """Say whether any position in the image lies on an axis, or it is not known."""
    axes = tracker.of(value) or ()
    return not -len(axes) <= at < len(axes) or has_grid(axes[at])


def varies_over_grid(tracker: Tracker, constant: ir.Value | None, output: ir.Value) -> bool:
    """Say whether a constant differs between the pixels of the tensor it is combined with."""
    if constant is None:
        return False
    axes, sizes = tracker.of(output), tracker.sizes(constant)
    if axes is None or sizes is None:
        return True
    return differs_over_grid(axes, sizes, lambda: tracker.constant(constant))


def grid(tracker: Tracker, value: ir.Value) -> frozenset[tuple[str, int]]:
    """Return (role, size) of the coordinates of a tensor, those among its tokens included."""
    atoms = [a for axis in tracker.of(value) or () for atom in axis for a in _inner(atom.parts, (atom,))]
    return frozenset((a.role, a.total) for a in atoms if a.role in GRID)


def _inner(parts: tuple[Axis, ...], otherwise: Axis) -> Axis:
    return tuple(atom for part in parts for atom in part) if parts else otherwise


def same_grid(tracker: Tracker, node: ir.Node) -> bool:
    """Say whether every grid tensor of the node has one and the same grid."""
    grids = {grid(tracker, v) for v in (*dependent(tracker, node), *node.outputs)}
    return len(grids - {frozenset()}) <= 1


# ---- proofs -------------------------------------------------------------------------------------------------------


def always(_tracker: Tracker, _node: ir.Node) -> bool:
    """Say that every form of the op commutes."""
    return True


def on_one_grid(proof: Proof) -> Proof:
    """Return a proof that also asks for one grid throughout."""
    return lambda tracker, node: proof(tracker, node) and same_grid(tracker, node)


def between_floats(_tracker: Tracker, node: ir.Node) -> bool:
    """Prove a cast: rounding apart, the identity between floating-point types, and nothing of the kind to others."""
    x = node.inputs[0]
    return x is not None and x.dtype in FLOATS and node.outputs[0].dtype in FLOATS


def at_inference(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a Dropout that drops nothing."""
    if not has_input(node, 2):
        return True
    array = tracker.constant(node.inputs[2])
    return array is not None and not bool(array.reshape(-1)[0])


def constant_over_grid(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a sum: what does not depend on the pixels is the same at every pixel."""
    return not any(varies_over_grid(tracker, v, node.outputs[0]) for v in constants(tracker, node))


def product(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a product or quotient of one grid tensor by factors that are the same at every pixel."""
    spatial = [v for v in dependent(tracker, node) if layout(tracker, v).spatial]
    numerator = node.op_type != "Div" or node.inputs[0] in spatial
    return len(spatial) == 1 and numerator and constant_over_grid(tracker, node)


def subset(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a Slice, Split or Gather: of channels, or of prefix tokens, or of a whole grid out of tokens."""
    if not only_first(tracker, node):
        return False
    before = tracker.of(node.inputs[0]) or ()
    whole = {(atom.role, atom.total) for axis in before for atom in axis if atom.role in GRID}
    for value in node.outputs:
        after = {(a.role, a.total, a.crop) for axis in tracker.of(value) or () for a in axis if a.role in GRID}
        if any(crop is not None for _, _, crop in after) or ({(r, t) for r, t, _ in after} != whole and whole):
            return False
    return True


def spatial(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a positively homogeneous op of one operand: grids in and out, so that the gain acts on all of it."""
    return only_first(tracker, node) and all(
        layout(tracker, v).spatial for v in (*dependent(tracker, node), *node.outputs)
    )


def spatial_operands(tracker: Tracker, node: ir.Node) -> bool:
    """Prove a positively homogeneous op of several operands: all of them grids."""
    return not constants(tracker, node) and all(layout(tracker, v).spatial for v in (*node.outputs, *node.inputs) if v)
