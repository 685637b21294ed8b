"""What a graph ends in: a head that is taken off and applied in float64, and a quantiser that is taken off.

Between such a node and the output may lie ops that move elements (Reshape, Transpose …) or change them by nothing that
matters (Cast between floats, a Clip to about [0, 1]). The softmax's axis is followed through them, by sizes that are
measured where the graph does not state them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.errors import LieauditError, ModelError
from lieaudit.graph.endings import Ending, constant, ending_of
from lieaudit.graph.names import PREFIX
from lieaudit.ops import FLOATS, is_op, lookup, rearranges
from lieaudit.runtime.session import Session

_HARMLESS = 1e-4
"""A Clip of probabilities to [ε, 1 − ε] with ε up to this only keeps a logarithm finite."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What was taken off the end of a graph.

    Attributes
    ----------
    function
        ``softmax``, ``sigmoid``, or empty where no head was found.
    axis
        What the softmax normalises over, an axis of the output (N, *K); 0 where there is none.
    logarithm
        The graph shows the logarithm of the function (LogSoftmax).
    scale, zero_point
        Of a quantiser at the end, real = scale · (integer − zero point); scale 0 where there is none.
    op
        What the head was made by, as the report names it.
    """

    function: str = ""
    axis: int = 0
    logarithm: bool = False
    scale: float = 0.0
    zero_point: int = 0
    op: str = ""


def is_quantised(output: ir.Value) -> bool:
    """Say whether an output of integers holds real values whose scale the graph states."""
    node = _behind_moves(output)
    return node is not None and _own_scale(node) is not None


def peel(
    model: ir.Model,
    output: ir.Value,
    head: str,
    notes: list[str],
    further: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Tail:
    """Take a final head and a final quantiser off the graph, in place; give what was taken.

    Parameters
    ----------
    model
        With the image input already normalised, and ``output`` its only output.
    head
        What the spec asks for: a head of another function stays in the graph.
    further
        Values of the graph's other inputs by name, one row per image.
    """
    integers = output.dtype is not None and output.dtype not in FLOATS
    output, scale, zero_point = _dequantised(model, output)
    chain, node = _chain(output)
    quantisers = [link for link in chain if _is_quantiser(link)]
    if quantisers and not scale:
        scale, zero_point = _scale(quantisers[0], 1) or (0.0, 0)
    ending = ending_of(node) if node is not None else None
    if ending is not None and head not in {"auto", "spatial", "identity", ending.function}:
        ending = None
    axis = (
        _final_axis(model, ending, chain, further or {}) if ending is not None and ending.function == "softmax" else 0
    )
    if ending is not None and ending.function == "softmax" and not axis:
        notes.append(f"the final {ending.op} is over several axes and stays in the float32 graph")
        ending = None
    if ending is None:
        chain = [link for link in chain if not is_op(link, "Cast", "Clip")]
        if not integers or not any(link.op_type == "QuantizeLinear" for link in quantisers):
            # rounded floats are what such a graph gives: secants of it see the rounding
            chain = [link for link in chain if link not in quantisers]
    if any(link.op_type == "QuantizeLinear" for link in chain):
        notes.append("the final QuantizeLinear was taken off: the values before their rounding are audited")
    for link in chain:
        if not _moves(link):
            _bypass(link.outputs[0], link.inputs[0])
    if ending is None:
        return Tail(scale=scale, zero_point=zero_point) if integers else Tail()
    shown = "softmax of it, i.e. the probabilities," if ending.logarithm else "it"
    notes.append(f"the final {ending.op} was cut off; {shown} is applied in float64")
    _bypass(ending.output, ending.raw)
    return Tail(ending.function, axis, ending.logarithm, scale, zero_point, ending.op)


def _bypass(value: ir.Value, source: ir.Value | None) -> None:
    assert source is not None  # noqa: S101 - the checker has seen the graph
    node = value.producer()
    if source.is_graph_input() and value.is_graph_output() and node is not None and node.graph is not None:
        # an input that is an output is more than what follows would take
        kept = ir.node("Identity", [source], name=f"{PREFIX}image_itself")
        kept.outputs[0].type, kept.outputs[0].shape = source.type, source.shape
        node.graph.insert_after(node, kept)
        source = kept.outputs[0]
    value.replace_all_uses_with(source, replace_graph_outputs=True)


def _behind_moves(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and (_moves(node) or is_op(node, "Identity")):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node


def _scale(node: ir.Node, at: int) -> tuple[float, int] | None:
    """Return a node's constant scale and zero point for a whole tensor."""
    scale = constant(node.inputs[at]) if at < len(node.inputs) else None
    if scale is None or scale.size != 1:
        return None
    zero = constant(node.inputs[at + 1]) if at + 1 < len(node.inputs) else None
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]) if zero is not None else 0


def _own_scale(node: ir.Node) -> tuple[float, int] | None:
    """Return the scale and zero point of the integers that a node makes, where it makes any that the graph states."""
    op = lookup(node)
    return _scale(node, op.scale) if op is not None and op.scale is not None else None


def _moves(node: ir.Node) -> bool:
    """Say whether a node moves the elements of its operand, each once, and changes none."""
    op = lookup(node)
    return op is not None and op.copies and rearranges(node) and not is_op(node, "Identity")


def _is_quantiser(node: ir.Node) -> bool:
    op = lookup(node)
    return op is not None and op.name in {"QuantizeLinear", "DequantizeLinear"}


def _dequantised(model: ir.Model, output: ir.Value) -> tuple[ir.Value, float, int]:
    """Put real values behind an output of integers that an integer kernel made; others stay as they are."""
    node = _behind_moves(output)
    op = lookup(node) if node is not None and not _is_quantiser(node) else None
    at = op.scale if op is not None else None
    found = _scale(node, at) if node is not None and at is not None else None
    if node is None or at is None or found is None:
        return output, 0.0, 0
    zero = node.inputs[at + 1] if at + 1 < len(node.inputs) else None
    made = ir.node("DequantizeLinear", [output, node.inputs[at], zero], name="lieaudit_dequantise")
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(made)
    model.graph.outputs[:] = [made.outputs[0]]
    return made.outputs[0], *found


def _chain(output: ir.Value) -> tuple[list[ir.Node], ir.Node | None]:
    """Return the nodes at the end that only move values or hardly change them, last first, and the node before."""
    chain: list[ir.Node] = []
    node = output.producer()
    while node is not None and _passes(node):
        chain.append(node)
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return chain, node


def _passes(node: ir.Node) -> bool:
    if _is_quantiser(node):
        return _rounds(node)
    if is_op(node, "Clip"):
        return _bound(node, "min", 1, 0.0) <= _HARMLESS and _bound(node, "max", 2, 1.0) >= 1.0 - _HARMLESS
    if is_op(node, "Cast"):
        source = node.inputs[0]
        return source is not None and source.dtype in FLOATS and ir.DataType(node.attributes["to"].as_int()) in FLOATS
    return rearranges(node) and not is_op(node, "CastLike")


def _bound(node: ir.Node, name: str, at: int, default: float) -> float:
    """Return a bound of a Clip: an attribute in old opsets, an input in new ones; infinite where it is computed."""
    if name in node.attributes:
        return node.attributes[name].as_float()
    if at >= len(node.inputs) or node.inputs[at] is None:
        return default
    array = constant(node.inputs[at])
    return float(array.reshape(-1)[0]) if array is not None else math.inf if name == "min" else -math.inf


def _rounds(node: ir.Node) -> bool:
    """Say whether a node is a QuantizeLinear of a whole tensor, or the DequantizeLinear behind integers made so."""
    own = _scale(node, 1)
    if node.op_type == "QuantizeLinear" or own is None:
        return own is not None
    source = node.inputs[0]
    before = _behind_moves(source) if source is not None else None
    return before is not None and _own_scale(before) == own


def _final_axis(
    model: ir.Model, ending: Ending, chain: Sequence[ir.Node], further: Mapping[str, npt.NDArray[Any]]
) -> int:
    """Follow the axis of a softmax to the output; 0 where it is none there."""
    moves = [link for link in reversed(chain) if _moves(link)]
    rank = len(ending.raw.shape) if ending.raw.shape is not None else None
    if rank is not None and not moves and (rank == 2 or not ending.flattens):
        axis = ending.axis % rank
        return axis if axis >= 1 else 0
    shapes = _measured(model, [ending.raw, *(link.outputs[0] for link in moves)], further)
    if shapes is None:
        return 0
    shape = shapes[0]
    axis = ending.axis % len(shape)
    if ending.flattens:
        wide = [at for at in range(axis, len(shape)) if shape[at] != 1]
        if len(wide) != 1:
            return 0
        axis = wide[0]
    for link, after in zip(moves, shapes[1:], strict=True):
        found = _moved(link, axis, shape, after)
        if found is None:
            return 0
        axis, shape = found, after
    return axis


def _moved(node: ir.Node, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """Return where an axis is after a move; None where it was split or joined with others."""
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        order = list(perm.as_ints()) if perm is not None else list(reversed(range(len(before))))
        return order.index(axis)
    ahead = math.prod(before[:axis])
    return next((at for at, size in enumerate(after) if size == before[axis] and math.prod(after[:at]) == ahead), None)


def measured_shapes(
    model: ir.Model,
    values: Sequence[ir.Value],
    image: tuple[int, ...],
    further: Mapping[str, npt.NDArray[Any]],
) -> list[tuple[int, ...]]:
    """Return the shapes that tensors have in a run on one image (C, H, W) of noise, the batch axis counted.

    Raises
    ------
    LieauditError
        What the session raises.
    """
    return _ran(model, values, (1, *image), further)


def _measured(
    model: ir.Model, values: Sequence[ir.Value], further: Mapping[str, npt.NDArray[Any]]
) -> list[tuple[int, ...]] | None:
    """Return the shapes that tensors have in a run on noise; None where the graph does not run."""
    image = model.graph.inputs[0]
    assert image.shape is not None  # noqa: S101 - the image input was normalised
    try:
        return _ran(model, values, [size if isinstance(size, int) else 2 for size in image.shape], further)
    except LieauditError:
        return None


def _ran(
    model: ir.Model, values: Sequence[ir.Value], shape: Sequence[int], further: Mapping[str, npt.NDArray[Any]]
) -> list[tuple[int, ...]]:
    kept = list(model.graph.outputs)
    model.graph.outputs[:] = list(dict.fromkeys(values))
    try:
        # the graph is copied before it runs: nothing of this stays
        with Session(model.clone()) as session:
            pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            rows = {name: array[np.arange(shape[0]) % len(array)] for name, array in further.items()}
            found = session.run(
                {model.graph.inputs[0].name or "": pixels, **rows}, [value.name or "" for value in values]
            )
    finally:
        model.graph.outputs[:] = kept
    return [array.shape for array in found]


def check_real(output: ir.Value, others: Iterable[ir.Value] = ()) -> None:
    """Raise `ModelError` OUTPUT_NOT_FLOAT where an output holds neither floats nor integers of a stated scale.

    Its hint names those of ``others`` that hold floats.
    """
    if output.dtype is not None and output.dtype not in FLOATS and not is_quantised(output):
        floats = [f"--output {value.name}" for value in others if value.dtype in FLOATS]
        raise ModelError(
            f"output {output.name!r} is {output.dtype}, not a float",
            reason="OUTPUT_NOT_FLOAT",
            subject=output.name or "output",
            hint=f"audit another output: {' or '.join(floats)}"
            if floats
            else "no output is a float; --output also names a tensor inside the graph, such as what this is made of",
        )
