"""The last resort: a central difference of one op, inside the graph.

Not exact, hence reported; but the error stays local: only this op's Jacobian is approximate,
dy ≈ (f(x + h dx) − f(x − h dx)) / 2h at h = 2⁻⁹ max|x| / max|dx|. Truncation grows as h², rounding as 1/h, and both are
below 1e-4 of the op's scale for a smooth op in float32.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import RELATIVE_STEP, Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.forward.graphs import with_inputs
from lieaudit.graph.names import called
from lieaudit.graph.nodes import reads
from lieaudit.ops import lookup
from lieaudit.ops.op import ALL, Outputs, Rule

_TINY = 1e-30
_BATCH = re.compile(r"\d*N")
"""A size that follows the batch."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE}
_COMPLEX = {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}


def generic(context: Context, node: ir.Node) -> Outputs:
    """Return the central difference of a node along every direction."""
    moving = [value for value in reads(node) if context.tangent(value) is not None]
    for value in node.outputs:
        if isinstance(value.type, ir.SequenceType | ir.OptionalType):
            raise UnsupportedOpError(
                f"{called(node)} makes a sequence, of which the length or a place that is read is no constant",
                reason="NO_RULE",
                subject=node.name or node.op_type,
                hint="use --method finite_difference",
            )
    _refuse_sizes(context, node)
    wanted = [i for i, value in enumerate(node.outputs) if value.dtype in _FLOATS and value.shape is not None]
    unseen = [v for i, v in enumerate(node.outputs) if i not in wanted and _moves_unseen(v)]
    if unseen:
        raise UnsupportedOpError(
            f"output {unseen[0].name!r} of {node.op_type} is read, and is no tensor of float32 or float64",
            reason="NO_RULE",
            subject=node.name or node.op_type,
            hint="use --method finite_difference",
        )
    if not wanted:
        return None
    if any(value.dtype not in _FLOATS for value in moving):
        raise UnsupportedOpError(
            f"{node.domain or 'ai.onnx'}::{node.op_type} moves with an input that is not float32 or float64",
            reason="NO_RULE",
            subject=node.name or node.op_type,
            hint="use --method finite_difference",
        )
    rows = {value: context.stack(tangent) for value in moving if (tangent := context.tangent(value)) is not None}
    if context.lead:
        made = list(_scan(context, node, rows, wanted))
    else:
        emitted: list[ir.Node] = []
        made = _difference(node, rows, wanted, emitted, context.serial(), context.difference_step)
        for inner in emitted:
            context.insert(inner)
    tangents: list[Tangent | None] = [None] * len(node.outputs)
    for i, value in zip(wanted, made, strict=True):
        tangents[i] = context.stacked(value, context.dims(node.outputs[i]))
    return tangents


def _refuse_sizes(context: Context, node: ir.Node) -> None:
    """Raise where the size of the output follows the image smoothly: two outputs of other sizes have no difference."""
    op = lookup(node)
    open_sizes = {str(size) for v in node.outputs for size in v.shape or () if not isinstance(size, int)}
    if op is None or all(_BATCH.fullmatch(size) for size in open_sizes):
        return
    for i, value in enumerate(node.inputs):
        if i > 0 and i in op.sized_by and context.tangent(value) is not None:
            raise UnsupportedOpError(
                f"the size of what {called(node)} makes follows the image",
                reason="NO_RULE",
                subject=node.name or node.op_type,
                hint="use --method finite_difference",
            )


def _moves_unseen(value: ir.Value) -> bool:
    """Say whether an output is read and may have a derivative that a difference of tensors does not give."""
    if not (value.uses() or value.is_graph_output()):
        return False
    if not isinstance(value.type, ir.TensorType):
        return True
    return value.dtype is None or value.dtype.is_floating_point() or value.dtype in _COMPLEX


def _difference(
    node: ir.Node,
    directions: dict[ir.Value, ir.Value],
    wanted: list[int],
    emitted: list[ir.Node],
    prefix: str,
    relative_step: float,
) -> list[ir.Value]:
    """Emit the central difference of a node along one direction; give the tangents of the wanted outputs."""

    def op(op_type: str, *inputs: ir.Value, dtype: ir.DataType | None = None, **attributes: int) -> ir.Value:
        made = ir.node(op_type, list(inputs), attributes or None, name=f"{prefix}/{op_type}_{len(emitted)}")
        out = made.outputs[0]
        out.name, out.type = f"{made.name}:0", ir.TensorType(dtype or inputs[0].dtype or ir.DataType.FLOAT)
        emitted.append(made)
        return out

    def number(value: float) -> ir.Value:
        tensor = ir.tensor(np.array(value, np.float32))
        made = ir.node("Constant", [], {"value": tensor}, name=f"{prefix}/Constant_{len(emitted)}")
        made.outputs[0].name, made.outputs[0].type = f"{made.name}:0", ir.TensorType(ir.DataType.FLOAT)
        emitted.append(made)
        return made.outputs[0]

    def largest(value: ir.Value) -> ir.Value:
        """Return the largest magnitude, as a float32 scalar: a scale that neither overflows nor vanishes."""
        top = op("ReduceMax", op("Abs", value), keepdims=0)
        return top if value.dtype == ir.DataType.FLOAT else op("Cast", top, dtype=ir.DataType.FLOAT, to=1)

    # h is the smallest step any moving input asks for; an input that is zero everywhere has the scale 1.
    tiny, steps = number(_TINY), []
    for value, row in directions.items():
        scale = largest(value)
        empty = op("Less", scale, tiny, dtype=ir.DataType.BOOL)
        scale = op("Where", empty, number(1.0), scale, dtype=ir.DataType.FLOAT)
        steps.append(op("Div", scale, op("Max", largest(row), tiny)))
    step = op("Mul", steps[0] if len(steps) == 1 else op("Min", *steps), number(relative_step))

    moved: list[dict[ir.Value, ir.Value]] = [{}, {}]
    for value, row in directions.items():
        h = step if value.dtype == ir.DataType.FLOAT else op("Cast", step, dtype=value.dtype, to=int(value.dtype or 1))
        shift = op("Mul", row, h)
        moved[0][value], moved[1][value] = op("Add", value, shift), op("Sub", value, shift)
    ahead, behind = (with_inputs(node, mapping, f"{prefix}/{side}") for side, mapping in enumerate(moved))
    emitted += [ahead, behind]
    results = []
    for i in wanted:
        difference = op("Sub", ahead.outputs[i], behind.outputs[i])
        dtype = node.outputs[i].dtype
        twice = op("Add", step, step)
        twice = twice if dtype == ir.DataType.FLOAT else op("Cast", twice, dtype=dtype, to=int(dtype or 1))
        results.append(op("Div", difference, twice))
    return results


def _scan(context: Context, node: ir.Node, rows: dict[ir.Value, ir.Value], wanted: list[int]) -> tuple[ir.Value, ...]:
    """Take the difference along one direction after the other: an unknown op has no axis for directions."""
    prefix = context.serial()
    entries = {}
    for i, value in enumerate(rows):
        entry = ir.Value(name=f"{prefix}/direction_{i}", type=value.type, shape=value.shape)
        entries[value] = entry
    emitted: list[ir.Node] = []
    results = _difference(node, entries, wanted, emitted, f"{prefix}/body", context.difference_step)
    body = ir.Graph(list(entries.values()), results, nodes=emitted, name=f"{prefix}/body")
    scan = ir.Node(
        "",
        "Scan",
        list(rows.values()),
        [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", len(rows))],
        num_outputs=len(wanted),
        name=f"{prefix}/Scan",
    )
    for k, i in enumerate(wanted):
        scan.outputs[k].name, scan.outputs[k].type = f"{scan.name}:{k}", node.outputs[i].type
    context.insert(scan)
    return tuple(scan.outputs)


GENERIC = Rule(
    "generic",
    generic,
    operands=ALL,
    outputs=ALL,
    exact=False,
    note=f"central difference of this op alone, step 2^{int(np.log2(RELATIVE_STEP))} of its input's scale",
)
