"""The forward-mode rewrite: a graph that carries tangents beside values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.autodiff.context import RELATIVE_STEP, Context
from lieaudit.autodiff.rows import rows_or_zeros
from lieaudit.autodiff.sizes import Dims
from lieaudit.autodiff.tangent import Tangent
from lieaudit.errors import ModelError, UnsupportedOpError
from lieaudit.graph.forward.generic import GENERIC
from lieaudit.graph.forward.memory import OVERHEAD, peak_bytes
from lieaudit.graph.forward.prepare import prepare
from lieaudit.graph.forward.shapes import measure_shapes
from lieaudit.graph.names import called
from lieaudit.graph.nodes import reads
from lieaudit.ops import Rule, Use, lookup, name_of
from lieaudit.ops.op import QUANTISATION_RULE
from lieaudit.runtime.failures import cleaned

DIRECTIONS = "D"
"""Name of the symbolic number of directions in the rewritten graph."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE}


@dataclass(frozen=True, slots=True)
class Applied:
    """One node that depends on the active inputs, and the rule it got."""

    op: str
    """``domain::type``; the default domain is left out."""
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
        Names of the inputs; tangent input i belongs to active input i and has shape (D, *its shape).
    values_out, tangents_out
        Names of the outputs; every tangent has shape (D, *shape of its output).
    applied
        The rule of every node that was differentiated.
    extents
        Sizes of the graph's tensors by name, with the symbols ``N`` and ``D``.
    unrolled
        Whether the number of directions is fixed.
    """

    model: ir.Model
    values_in: tuple[str, ...]
    tangents_in: tuple[str, ...]
    values_out: tuple[str, ...]
    tangents_out: tuple[str, ...]
    applied: tuple[Applied, ...]
    extents: Mapping[str, Dims]
    unrolled: bool

    def peak_bytes(self, images: int, directions: int) -> int:
        """Estimate the memory of activations for so many images and directions in one run."""
        peak = peak_bytes(self.model, self.extents, self.tangents_in, images, directions)
        # the chains of an unrolled graph run one after the other, which the estimate does not know: margin enough
        return peak if self.unrolled else int(peak * OVERHEAD)


def rewrite(
    model: ir.Model,
    *,
    active: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    unroll: int | None = None,
    single: bool = False,
    difference_step: float = RELATIVE_STEP,
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
        Names of the inputs that get tangents; default: every floating-point input. A tensor inside the graph gets one
        that is added to what its operands bring: the derivative by it.
    unroll
        Number of directions, if it is to be fixed: the graph then holds one chain of nodes per direction. Costs more
        nodes, but on CPU onnxruntime keeps its blocked layout between convolutions (docs/forward-mode.md), so that
        convolutional networks run faster. Inputs and outputs are the same as without.
    single
        One direction, without an axis for it: every tangent has the shape of its value. ``unroll`` plays no part.
    difference_step
        Relative step of the central differences that stand for the ops without a rule.
    inputs, outputs
        Names of tensors that bound the part to differentiate (a segment); default: the inputs and outputs of the graph.

    Returns
    -------
    Rewritten
        With ``session.run([*values_out, *tangents_out], {**values, **tangents})``.

    Raises
    ------
    ModelError
        SEGMENT_UNBOUNDED where ``inputs`` do not cut ``outputs`` off from the rest; GRAPH_NOT_RUNNABLE.
    UnsupportedOpError
        Where a node cannot be differentiated by any rule; REWRITE_INVALID where the result does not pass the ONNX
        checker.
    """
    measure_shapes(model)
    model = _part(model, inputs, outputs)
    own_outputs = len(model.graph.outputs)
    inside = _kept_inside(model.graph, active or ())
    model = prepare(model, active)
    graph = model.graph
    # by their place: an output that a branch makes has the name it had in the branch
    graph.outputs[:] = list(graph.outputs)[:own_outputs]
    opset = graph.opset_imports[""]
    names = list(active) if active is not None else [v.name or "" for v in graph.inputs if v.dtype in _FLOATS]
    by_name = {value.name: value for value in graph.inputs}
    by_name |= {value.name: value for node in graph for value in node.outputs if value.name in inside}
    for name in names:
        if name not in by_name:
            raise ModelError(
                f"no input {name!r}", reason="NO_SUCH_INPUT", subject=name, hint=f"inputs: {sorted(map(str, by_name))}"
            )

    context = Context(graph, opset=opset, lead=1 if unroll is None and not single else 0)
    context.difference_step = difference_step
    values_in = tuple(value.name or "" for value in graph.inputs if not value.is_initializer())
    original = list(graph)
    tangents_in = _tangent_inputs(context, [by_name[name] for name in names], None if single else unroll)
    added = [{v: lane.pop(v) for v in list(lane) if v.name in inside} for lane in context.lanes]
    applied = []
    for node in original:
        context.move_after(node)
        if is_active(context, node):
            applied.append(differentiate(context, node))
        elif (rule := _quantises(node)) is not None and not _constant_inputs(node):
            # behind a quantised tensor nothing is active any more; the reader should still see why
            applied.append(_record(node, rule, jumps=True))
        for tangents, own in zip(context.lanes, added, strict=True):
            for value in node.outputs:
                if value in own and (tangent := context.add(tangents.get(value), own[value])) is not None:
                    tangents[value] = tangent
    values_out = tuple(value.name or "" for value in graph.outputs)
    tangents_out = [_tangent_output(context, value, single=single) for value in list(graph.outputs)]
    finished = _finished(model)
    extents = {
        value.name or "": extent
        for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]
        if (extent := context.extent(value)) is not None
    }
    return Rewritten(
        finished,
        values_in,
        tangents_in,
        values_out,
        tuple(tangents_out),
        tuple(applied),
        extents,
        unroll is not None or single,
    )


def _kept_inside(graph: ir.Graph, names: Sequence[str]) -> set[str | None]:
    """Make outputs of the named tensors inside a graph, in place, so that preparing it keeps them."""
    found = [v for node in graph for v in node.outputs if v.name in names and v.dtype in _FLOATS]
    graph.outputs.extend(v for v in found if not v.is_graph_output())
    return {value.name for value in found}


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
    return any(value in context.tangents for value in reads(node))


def choose(context: Context, node: ir.Node) -> tuple[Rule, Use, str]:
    """Return the rule for a node, how the node is used, and why its own rule does not hold, where it does not."""
    use = Use.of(node, context.opset, context.tangents)
    op = lookup(node)
    own = op.tangent if op is not None else None
    if own is None:
        return GENERIC, use, ""
    refusal = own.refuses(use)
    return (GENERIC, use, refusal) if refusal else (own, use, "")


def differentiate(context: Context, node: ir.Node) -> Applied:
    """Emit the tangents of one node's outputs."""
    rule, use, refusal = choose(context, node)
    if rule is GENERIC or rule.moves(use):
        try:
            _apply(context, node, rule)
        except UnsupportedOpError as problem:
            # a form that the rule does not take, such as axes that the graph computes
            if rule is GENERIC:
                raise _named(problem, node) from problem
            rule, refusal = GENERIC, problem.message
            try:
                _apply(context, node, rule)
            except UnsupportedOpError as second:
                raise _named(second, node) from second
    return _record(node, rule, jumps=rule.jumps(use), refusal=refusal)


def _named(problem: UnsupportedOpError, node: ir.Node) -> UnsupportedOpError:
    """Say at which node it is, where the problem is one of the tangents alone."""
    if node.op_type in problem.message:
        return problem
    return UnsupportedOpError(
        f"at {called(node)}: {problem.message}",
        reason=problem.reason,
        subject=node.name or node.op_type,
        hint=problem.hint,
    )


def _apply(context: Context, node: ir.Node, rule: Rule) -> None:
    if rule.apply is None:
        return
    for tangents in context.lanes:
        context.tangents = tangents
        result = rule.apply(context, node)
        made = [result] if isinstance(result, Tangent) else result or []
        for value, tangent in zip(node.outputs, made, strict=False):
            if tangent is not None:
                tangents[value] = tangent


def _record(node: ir.Node, rule: Rule, *, jumps: bool, refusal: str = "") -> Applied:
    domain, name = name_of(node)
    differentiable = rule.differentiable or not jumps
    note = "" if rule.exact and differentiable else rule.note
    return Applied(
        op=f"{domain}::{name}" if domain else name,
        node=node.name or "",
        rule=rule.name,
        exact=rule.exact,
        differentiable=differentiable,
        note=f"{note}, because {refusal}" if refusal else note,
    )


def _quantises(node: ir.Node) -> Rule | None:
    op = lookup(node)
    rule = op.tangent if op is not None else None
    return rule if rule is not None and rule.name == QUANTISATION_RULE else None


def _constant_inputs(node: ir.Node) -> bool:
    return all(value is None or value.is_initializer() for value in node.inputs)


def _tangent_inputs(context: Context, active: Sequence[ir.Value], unroll: int | None) -> tuple[str, ...]:
    """Add one input (D, ...) per active input and give every lane its tangents."""
    made = []
    for value in active:
        dims = context.dims(value)
        tangent = ir.Value(name=f"{value.name}.tangent", type=value.type)
        lead = [DIRECTIONS if unroll is None else unroll] if context.lead or unroll is not None else []
        tangent.shape = ir.Shape([*lead, *dims])
        context.graph.inputs.append(tangent)
        made.append(tangent)
    context.lanes = [{} for _ in range(unroll or 1)]
    for lane, tangents in enumerate(context.lanes):
        for value, tangent in zip(active, made, strict=True):
            index = context.const(np.array(lane, np.int64))
            rows = tangent if unroll is None else context.op("Gather", tangent, index, axis=0)
            tangents[value] = context.stacked(rows, context.dims(value))
    context.tangents = context.lanes[0]
    if context.lead:
        sizes = context.op("Shape", made[0], dtype=ir.DataType.INT64)
        context.count = context.slice(sizes, [0], [1], [0])
    return tuple(tangent.name or "" for tangent in made)


def _tangent_output(context: Context, value: ir.Value, *, single: bool) -> str:
    """Add the output (D, ...) of one output, or one of its shape, and give its name."""
    if value.dtype not in _FLOATS:
        raise UnsupportedOpError(
            f"output {value.name!r} is not floating point",
            reason="OUTPUT_NOT_FLOAT",
            subject=value.name or "",
            hint="choose another output",
        )
    lanes = []
    for tangents in context.lanes:
        context.tangents = tangents
        lanes.append(rows_or_zeros(context, value))
    rows: list[int | str]
    if context.lead or single:
        tangent = context.op("Identity", lanes[0], dtype=value.dtype)
        rows = [] if single else [DIRECTIONS]
    else:
        tangent = context.op("Concat", *(context.unsqueeze(lane, [0]) for lane in lanes), axis=0)
        rows = [len(lanes)]
    if tangent.is_graph_output():
        # a constant apart, two outputs have one tangent; each output needs a name of its own
        source = lanes[0] if context.lead or single else tangent
        copy = ir.Node("", "Identity", [source], name=f"{context.serial()}/Identity")
        context.insert(copy)
        tangent = copy.outputs[0]
        tangent.type = source.type
    tangent.name = f"{value.name}.tangent"
    tangent.shape = ir.Shape([*rows, *context.dims(value)])
    context.graph.outputs.append(tangent)
    return tangent.name


def _finished(model: ir.Model) -> ir.Model:
    """Drop what nothing reads, and have the ONNX checker read the rest."""
    passes.RemoveUnusedNodesPass()(model)
    try:
        passes.CheckerPass()(model)
    except Exception as problem:
        raise UnsupportedOpError(
            f"forward mode's graph is not valid ONNX: {cleaned(str(problem))}",
            reason="REWRITE_INVALID",
            subject=model.graph.name or "graph",
            hint="report this model; use --method finite_difference meanwhile",
        ) from problem
    return model
