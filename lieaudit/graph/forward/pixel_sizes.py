"""Which tensors follow the pixels, and of which even the size does: of a mask, of what is not zero, of boxes kept.

Sizes are measured on noise (`measure_shapes`). The size of a tensor that follows the pixels is another one on the next
image, whatever two runs on noise say, so that nothing may be concluded from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from lieaudit.graph.nodes import reads, subgraphs
from lieaudit.ops import ALL, is_op, lookup


@dataclass(slots=True)
class Followers:
    """Tensors of one graph that follow the pixels of the image.

    Attributes
    ----------
    values
        Those whose values do.
    sizes
        Those of which the size does.
    """

    values: set[ir.Value] = field(default_factory=set)
    sizes: set[ir.Value] = field(default_factory=set)


def followers(model: ir.Model) -> Followers:
    """Return what follows the pixels: what the main graph makes of its inputs by more than their sizes."""
    found = Followers({value for value in model.graph.inputs if not value.is_initializer()})
    follow(model.graph, found)
    return found


def follow(graph: ir.Graph, found: Followers) -> None:
    """Add to what follows the pixels what the nodes of a graph, or of a loop's body, make of it."""
    for node in graph:
        read = reads(node)
        op = lookup(node)
        if op is not None and op.shape_only:
            follows = any(value in found.sizes for value in read)
        else:
            follows = any(value in found.values for value in read)
        if follows:
            found.values.update(node.outputs)
            found.sizes.update(_sized(node, read, found))


def inside(node: ir.Node, body: ir.Graph, outside: Followers) -> Followers:
    """Return what follows the pixels in the body of a Loop, given what does outside it."""
    found = Followers(set(outside.values), set(outside.sizes))
    carried = list(zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False))
    _carry(found, [(start, inner) for start, inner, _ in carried if start is not None])
    for _ in range(2 * len(carried) + 1):  # each pass taints at least one further state or its size, or none
        follow(body, found)
        _carry(found, [(after, inner) for _, inner, after in carried])
    return found


def decided_by_pixels(model: ir.Model) -> ir.Node | None:
    """Return the first node of which the pixels decide the course or the size; None where there is none.

    Its answer for a batch is no collection of its answers for the images: all of them decide together.
    """
    found = Followers({value for value in model.graph.inputs if not value.is_initializer()})
    return _decided(model.graph, found)


def _decided(graph: ir.Graph, found: Followers) -> ir.Node | None:
    follow(graph, found)
    for node in graph:
        op = lookup(node)
        sized_by = (
            op.sized_by if op is not None else (0, 1) if is_op(node, "Loop") else (0,) if is_op(node, "If") else ()
        )
        if any(value in found.values and i in sized_by for i, value in enumerate(node.inputs)):
            return node
        for body in subgraphs(node):
            within = (
                inside(node, body, found) if is_op(node, "Loop") else Followers(set(found.values), set(found.sizes))
            )
            if is_op(node, "Scan"):
                within.values.update(body.inputs)
            if is_op(node, "Loop") and body.outputs[0] in within.values:
                return node
            if (inner := _decided(body, within)) is not None:
                return inner
    return None


def _carry(found: Followers, pairs: Iterable[tuple[ir.Value, ir.Value]]) -> None:
    """Let what enters a round follow the pixels where what it is made of does."""
    for source, inner in pairs:
        for values in (found.values, found.sizes):
            if source in values:
                values.add(inner)


def _sized(node: ir.Node, read: list[ir.Value], found: Followers) -> list[ir.Value]:
    """Return the outputs of which the size follows the pixels."""
    if is_op(node, "Loop"):
        return [value for value in node.outputs if not _kept(node, value, found)]
    if subgraphs(node) or _open(node, read, found):
        return list(node.outputs)
    return []


def _open(node: ir.Node, read: list[ir.Value], found: Followers) -> bool:
    op = lookup(node)
    # of an op that is not known nothing is known
    sized_by, shaped_by = (op.sized_by, op.shaped_by) if op is not None else (ALL, ALL)
    if any(value in found.values and i in sized_by for i, value in enumerate(node.inputs)):
        return True
    if is_op(node, "Shape", "Size") or _single(node.outputs[0]):
        return False
    own = [value for i, value in enumerate(node.inputs) if i not in shaped_by]
    return any(value in found.sizes for value in read if value not in own)


def _kept(node: ir.Node, value: ir.Value, found: Followers) -> bool:
    """Whether the size of a Loop's output follows no pixels.

    No round's size may; a state must end with the size that it starts with, and what the rounds gather is as long as
    there are rounds, so that the pixels may not decide of these.
    """
    body, place = node.attributes["body"].as_graph(), list(node.outputs).index(value)
    within = inside(node, body, found)
    if body.outputs[place + 1] in within.sizes:
        return False
    start = node.inputs[place + 2] if place + 2 < len(node.inputs) else None
    if start is None:
        return body.outputs[0] not in within.values and found.values.isdisjoint(
            v for v in node.inputs[:2] if v is not None
        )
    return start.shape is not None and start.shape == value.shape


def _single(value: ir.Value) -> bool:
    """Whether a tensor is one number."""
    return value.shape is not None and len(value.shape) == 0
