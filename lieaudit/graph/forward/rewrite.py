"""The forward-mode rewrite: a graph that carries tangents beside values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.errors import ModelError, UnsupportedOpError
from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.prepare import prepare
from lieaudit.graph.forward.rules import RULES, Rule
from lieaudit.graph.forward.rules import families as _families  # noqa: F401 - fills the table
from lieaudit.graph.forward.rules.generic import GENERIC
from lieaudit.graph.forward.shapes import measure_shapes
from lieaudit.graph.forward.tangent import Tangent

DIRECTIONS = "D"
"""Name of the symbolic number of directions in the rewritten graph."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE}


@dataclass(frozen=True, slots=True)
class Applied:
    """One node that depends on the active inputs, and the rule it got."""

    op: str
    """``domain::type``; the default domain is written ``ai.onnx``."""
    node: str
    rule: str
    exact: bool
    differentiable: bool
    note: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The rewritten graph.

    Attributes
    ----------
    model
        Inputs: the inputs of the original graph, then one tangent per active input. Outputs: the outputs of the
        original graph, then one tangent per output.
    values_in, tangents_in
        Names of the inputs; tangent input i belongs to active input i and has shape (D, \\*its shape).
    values_out, tangents_out
        Names of the outputs; every tangent has shape (D, \\*shape of its output).
    applied
        The rule of every node that was differentiated.
    """

    model: ir.Model
    values_in: tuple[str, ...]
    tangents_in: tuple[str, ...]
    values_out: tuple[str, ...]
    tangents_out: tuple[str, ...]
    applied: tuple[Applied, ...]


def rewrite(
    model: ir.Model,
    *,
    active: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Rewritten:
    """Differentiate a graph, or a part of it, in forward mode.

    For y = f(x) the rewritten graph computes y and dy[d] = Df(x)[dx[d]] for any number D of directions at once; the
    values are computed once. D leads, because values broadcast over leading axes without a copy. The original model is
    not changed.

    Parameters
    ----------
    model
        Any graph onnxruntime can run. Its shapes are measured (`measure_shapes`) if they have not been.
    active
        Names of the inputs that get tangents; default: every floating-point input.
    inputs, outputs
        Names of tensors that bound the part to differentiate (a segment); default: the inputs and outputs of the graph.

    Returns
    -------
    Rewritten
        With ``session.run([*values_out, *tangents_out], {**values, **tangents})``.

    Raises
    ------
    ModelError
        SEGMENT_UNBOUNDED where ``inputs`` do not cut ``outputs`` off from the rest; GRAPH_NOT_RUNNABLE;
        REWRITE_INVALID where the result does not pass the ONNX checker.
    UnsupportedOpError
        Where a node cannot be differentiated by any rule.
    """
    measure_shapes(model)
    model = prepare(_part(model, inputs, outputs))
    graph = model.graph
    opset = graph.opset_imports[""]
    names = list(active) if active is not None else [v.name or "" for v in graph.inputs if v.dtype in _FLOATS]
    by_name = {value.name: value for value in graph.inputs}
    for name in names:
        if name not in by_name:
            raise ModelError(
                f"no input {name!r}", reason="NO_SUCH_INPUT", subject=name, hint=f"inputs: {sorted(map(str, by_name))}"
            )

    context = Context(graph, opset=opset, lead=1)
    values_in = tuple(value.name or "" for value in graph.inputs if not value.is_initializer())
    tangents_in = []
    original = list(graph)
    for name in names:
        value = by_name[name]
        tangent = ir.Value(name=f"{name}.tangent", type=value.type)
        tangent.shape = ir.Shape([DIRECTIONS, *context.dims(value)])
        graph.inputs.append(tangent)
        tangents_in.append(tangent)
        context.tangents[value] = context.stacked(tangent, context.dims(value))
    sizes = context.op("Shape", tangents_in[0], dtype=ir.DataType.INT64)
    context.count = context.slice(sizes, [0], [1], [0])

    applied = []
    for node in original:
        context.move_after(node)
        if is_active(context, node):
            applied.append(differentiate(context, node))

    values_out = tuple(value.name or "" for value in graph.outputs)
    tangents_out = []
    for value in list(graph.outputs):
        rows = _output_rows(context, value)
        tangent = context.op("Identity", rows, dtype=value.dtype)
        tangent.name = f"{value.name}.tangent"
        tangent.shape = ir.Shape([DIRECTIONS, *context.dims(value)])
        graph.outputs.append(tangent)
        tangents_out.append(tangent.name)
    return Rewritten(
        _finished(model),
        values_in,
        tuple(value.name or "" for value in tangents_in),
        values_out,
        tuple(tangents_out),
        tuple(applied),
    )


def _part(model: ir.Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> ir.Model:
    if inputs is None and outputs is None:
        return model.clone()
    source = model.graph
    first = list(inputs) if inputs is not None else [v.name or "" for v in source.inputs]
    last = list(outputs) if outputs is not None else [v.name or "" for v in source.outputs]
    try:
        graph = ir.convenience.extract(source, first, last)
    except ValueError as problem:
        raise ModelError(
            f"the part {first} → {last} cannot be cut out: {problem}",
            reason="SEGMENT_UNBOUNDED",
            subject=", ".join(last),
            hint="name every tensor that enters the part",
        ) from problem
    return ir.Model(graph, ir_version=model.ir_version, functions=[f.clone() for f in model.functions.values()])


def is_active(context: Context, node: ir.Node) -> bool:
    """Say whether a node, or a subgraph in it, reads a value that carries a tangent."""
    if any(value in context.tangents for value in node.inputs if value is not None):
        return True
    return any(
        value in context.tangents
        for graph in subgraphs(node)
        for inner in ir.traversal.RecursiveGraphIterator(graph)
        for value in inner.inputs
        if value is not None
    )


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Give the graphs among a node's attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def choose(context: Context, node: ir.Node) -> Rule:
    """Give the rule for a node: its own, or the generic one."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    own = RULES.get((domain, node.op_type))
    return own if own is not None and own.accepts(context, node) else GENERIC


def differentiate(context: Context, node: ir.Node) -> Applied:
    """Emit the tangents of one node's outputs."""
    rule = choose(context, node)
    result = rule.apply(context, node)
    tangents = [result] if isinstance(result, Tangent) else list(result or [])
    for value, tangent in zip(node.outputs, tangents, strict=False):
        if tangent is not None:
            context.tangents[value] = tangent
    op = f"{node.domain or 'ai.onnx'}::{node.op_type}"
    return Applied(op, node.name or "", rule.name, rule.exact, rule.differentiable, rule.note)


def _output_rows(context: Context, value: ir.Value) -> ir.Value:
    tangent = context.tangent(value)
    if tangent is not None:
        return context.stack(tangent)
    assert context.count is not None  # noqa: S101 - set before any rule runs
    if value.dtype not in _FLOATS:
        raise UnsupportedOpError(
            f"output {value.name!r} is not floating point",
            reason="OUTPUT_NOT_FLOAT",
            subject=value.name or "",
            hint="choose another output",
        )
    sizes = context.op("Shape", value, dtype=ir.DataType.INT64)
    shape = context.op("Concat", context.count, sizes, axis=0)
    return context.op("Expand", context.number(0, value), shape)


def _finished(model: ir.Model) -> ir.Model:
    """Drop what nothing reads, and have the ONNX checker read the rest."""
    passes.RemoveUnusedNodesPass()(model)
    try:
        passes.CheckerPass()(model)
    except Exception as problem:  # noqa: BLE001 - the checker's errors and the C API's share no base
        raise ModelError(
            f"the rewritten graph is not valid ONNX: {str(problem).splitlines()[0][:300]}",
            reason="REWRITE_INVALID",
            subject=model.graph.name or "graph",
            hint="report this model; use --method finite_difference meanwhile",
        ) from problem
    return model
