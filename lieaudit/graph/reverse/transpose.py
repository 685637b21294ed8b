"""Reverse mode: the tangents of a rewritten graph turned around.

The rewritten graph computes values y = f(x) and tangents J v, linear in v. Here its tangents are dropped and their
transpose put in: the graph computes y and Jᵀ u, each linear node by the rule of its op, in reverse order, on the values
that the forward graph computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.autodiff.adjoint import OPSET, Adjoint
from lieaudit.autodiff.context import TANGENT_NODES
from lieaudit.autodiff.extents import Extent, Symbolic
from lieaudit.autodiff.sizes import Dims
from lieaudit.errors import LieauditError, UnsupportedOpError
from lieaudit.graph.forward.memory import OVERHEAD, peak_bytes
from lieaudit.graph.forward.rewrite import DIRECTIONS, Applied, Rewritten
from lieaudit.graph.nodes import reads
from lieaudit.graph.reverse.measured import Axes, measured
from lieaudit.ops import lookup, name_of

HINT = "forward mode differentiates it: lieaudit.jvp"


@dataclass(frozen=True, slots=True)
class Transposed:
    """The transposed graph.

    Attributes
    ----------
    model
        Inputs: those of the original graph, then one cotangent per output. Outputs: those of the original graph, then
        one cotangent per active input.
    values_in, cotangents_in, values_out, cotangents_out
        Names; every cotangent has the shape that the tangent of its tensor has in the rewritten graph.
    applied
        The rule of every node that was differentiated.
    extents
        Sizes of the graph's tensors by name, with the symbols ``N`` and ``D``.
    """

    model: ir.Model
    values_in: tuple[str, ...]
    cotangents_in: tuple[str, ...]
    values_out: tuple[str, ...]
    cotangents_out: tuple[str, ...]
    applied: tuple[Applied, ...]
    extents: Mapping[str, Dims]

    def peak_bytes(self, images: int, cotangents: int) -> int:
        """Estimate the memory of activations for so many images and cotangents in one run."""
        return int(peak_bytes(self.model, self.extents, self.cotangents_in, images, cotangents) * OVERHEAD)


def transpose(rewritten: Rewritten, axes: Axes | None = None) -> Transposed:
    """Turn the tangents of a rewritten graph around; the rewritten graph is not changed.

    Parameters
    ----------
    rewritten
        Of opset 16 or newer.
    axes
        The symbols of the open axes of its inputs; default: as the shapes of its inputs name them.

    Raises
    ------
    UnsupportedOpError
        NO_TRANSPOSE, naming the op and the node: it has no rule, or was differentiated by a central difference;
        OPSET_TOO_OLD; DYNAMIC_SHAPE; TRANSPOSE_INVALID where the result does not pass the ONNX checker.
    """
    model = rewritten.model.clone()
    graph = model.graph
    opset = graph.opset_imports[""]
    if opset < OPSET:
        raise UnsupportedOpError(
            f"reverse mode needs opset {OPSET} or newer, the graph has {opset}",
            reason="OPSET_TOO_OLD",
            subject="opset_import",
            hint=f"export the model with opset {OPSET} or newer",
        )
    _refuse_inexact(rewritten)
    by_name = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    starts = [by_name[name] for name in rewritten.tangents_in]
    ends = [outputs[name] for name in rewritten.tangents_out]
    axes = open_axes(graph) if axes is None else axes
    linear = linear_values(graph, starts)
    a = Adjoint(graph, opset=opset, linear=linear, measured=measured(model, axes))
    cotangents_in = _inputs(a, ends, rewritten.tangents_out)
    a.move_after(None)
    _symbols(a, axes, dict(zip(rewritten.tangents_in, starts, strict=True)), ends)
    for node in list(graph):
        if node.op_type == "Shape" and node.inputs[0] in linear and not node.outputs[0].is_graph_output():
            _settle(a, node)
    a.move_after(graph[-1])
    found = _reverse(a, list(graph), dict(zip(ends, cotangents_in, strict=True)))
    cotangents_out = [_output(a, start, name, found) for start, name in zip(starts, rewritten.tangents_in, strict=True)]
    values = [value for value in graph.outputs if value.name in rewritten.values_out]
    graph.outputs[:] = [*values, *cotangents_out]
    finished = _finished(model, rewritten.tangents_in)
    return Transposed(
        finished,
        rewritten.values_in,
        tuple(value.name or "" for value in cotangents_in),
        rewritten.values_out,
        tuple(value.name or "" for value in cotangents_out),
        rewritten.applied,
        _extents(a, rewritten.extents),
    )


def linear_values(graph: ir.Graph, starts: list[ir.Value]) -> set[ir.Value]:
    """Return what depends on the tangents by more than their sizes."""
    linear = set(starts)
    for node in graph:
        op = lookup(node)
        if not (op is not None and op.shape_only) and any(value in linear for value in reads(node)):
            linear.update(node.outputs)
    return linear


def _refuse_inexact(rewritten: Rewritten) -> None:
    for applied in rewritten.applied:
        if not applied.exact:
            raise UnsupportedOpError(
                f"{applied.op} {applied.node!r} has no exact derivative ({applied.note}), so nothing can be transposed",
                reason="NO_TRANSPOSE",
                subject=applied.node or applied.op,
                hint=HINT,
            )


_MULTIPLE = re.compile(r"(?P<times>\d+)(?P<symbol>N)")


def open_axes(graph: ir.Graph) -> dict[tuple[str, int], Symbolic]:
    """Return the open axes of a graph's inputs, as their shapes name them."""
    found = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                multiple = _MULTIPLE.fullmatch(str(size.value))
                times, symbol = (int(multiple["times"]), multiple["symbol"]) if multiple else (1, str(size.value))
                found[value.name or "", axis] = Symbolic(((symbol, 0),), times)
    return found


def _inputs(a: Adjoint, ends: list[ir.Value], names: tuple[str, ...]) -> list[ir.Value]:
    made = []
    for value, name in zip(ends, names, strict=True):
        cotangent = ir.Value(name=f"{name.removesuffix('.tangent')}.cotangent", type=value.type, shape=value.shape)
        sizes = a.measured.get(value)
        if sizes is not None and all(isinstance(size, int) for size in sizes):
            cotangent.shape = ir.Shape(_dims(sizes))
        a.graph.inputs.append(cotangent)
        a.measured[value]
        made.append(cotangent)
    return made


def _symbols(a: Adjoint, axes: Axes, starts: Mapping[str, ir.Value], ends: list[ir.Value]) -> None:
    """Emit what every symbol stands for in a run: read from values, or from the cotangents for what tangents bring."""
    by_name = {value.name: value for value in a.graph.inputs}
    for (name, axis), size in axes.items():
        if name not in starts and name in by_name:
            _read(a, size, by_name[name], axis)
    for value in ends:
        cotangent = by_name[f"{(value.name or '').removesuffix('.tangent')}.cotangent"]
        if (shape := cotangent.shape) is not None and len(shape) and shape[0] == DIRECTIONS:
            _read(a, Symbolic(((DIRECTIONS, 0),)), cotangent, 0)


def _read(a: Adjoint, size: Symbolic, value: ir.Value, axis: int) -> None:
    """Emit what a symbol stands for, from an axis that is a multiple of it; nothing where it is known already."""
    ((symbol, offset), *more) = size.factors
    if more or offset or symbol in a.symbols:
        return
    length = a.sizes(value, axis, axis + 1)
    if size.over != 1:
        length = a.op("Mul", length, a.ints([size.over]))
    a.symbols[symbol] = length if size.times == 1 else a.op("Div", length, a.ints([size.times]))


def _settle(a: Adjoint, node: ir.Node) -> None:
    """Replace the shape of a tangent, which will not be computed, by what is known of it."""
    tangent = node.inputs[0]
    if tangent is None or not node.outputs[0].uses():
        return
    if a.measured.get(tangent) is None:
        return
    sizes = list(a.sizes_of(tangent))
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    node.outputs[0].replace_all_uses_with(a.shape(sizes[start:end]))


def _reverse(a: Adjoint, nodes: list[ir.Node], given: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, list[ir.Value]]:
    """Walk the linear nodes from the last to the first; return the cotangents that every tensor has got."""
    found: dict[ir.Value, list[ir.Value]] = {value: [cotangent] for value, cotangent in given.items()}
    behind = ""
    user: dict[ir.Node, str] = {}
    for node in nodes:
        if not (node.name or "").startswith((TANGENT_NODES, "cotangent/")):
            behind = f"{node.op_type} {node.name or node.outputs[0].name!r}"
        user[node] = behind
    for node in reversed(nodes):
        ys = [a.total(found[value]) if value in found else None for value in node.outputs]
        moving = [i for i, value in enumerate(node.inputs) if value is not None and value in a.linear]
        if not moving or all(y is None for y in ys):
            continue
        for i in moving:
            operand = node.inputs[i]
            if operand is None:
                continue
            made = _turned(a, node, i, ys, user[node])
            if (sizes := a.measured.get(operand)) is not None:
                a.extents[made] = _dims(sizes)
            found.setdefault(operand, []).append(made)
    return found


def _turned(a: Adjoint, node: ir.Node, i: int, ys: list[ir.Value | None], behind: str) -> ir.Value:
    op = lookup(node)
    rule = op.transpose if op is not None else None
    domain, name = name_of(node)
    called = f"{domain}::{name}" if domain else name
    linear = sum(value in a.linear for value in node.inputs if value is not None)
    bilinear = name in {"Mul", "MatMul", "Gemm", "Einsum", "Div", "Pow"} and linear > 1 and name != "Gemm"
    if rule is None or rule.apply is None or i not in rule.operands or bilinear:
        why = rule.without if rule is not None and rule.without else "it has no rule for it"
        raise UnsupportedOpError(
            f"{called} cannot be transposed in the tangent of {behind}: {why}",
            reason="NO_TRANSPOSE",
            subject=called,
            hint=HINT,
        )
    try:
        return rule.apply(a, node, i, ys)
    except LieauditError as problem:
        raise UnsupportedOpError(
            f"{called} cannot be transposed in the tangent of {behind}: {problem.message}",
            reason="NO_TRANSPOSE" if problem.reason != "DYNAMIC_SHAPE" else problem.reason,
            subject=problem.subject or called,
            hint=problem.hint or HINT,
        ) from problem


def _output(a: Adjoint, start: ir.Value, name: str, found: Mapping[ir.Value, list[ir.Value]]) -> ir.Value:
    """Name the cotangent of an active input; zeros where nothing depends on it."""
    parts = found.get(start)
    total = a.total(parts) if parts else a.zeros(a.sizes_of(start), start)
    node = ir.Node("", "Identity", [total], name=f"{a.serial()}/Identity")
    a.insert(node)
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{name.removesuffix('.tangent')}.cotangent", start.type, start.shape
    return made


def _finished(model: ir.Model, tangents_in: tuple[str, ...]) -> ir.Model:
    """Drop the tangents, and have the ONNX checker read the rest."""
    graph = model.graph
    passes.RemoveUnusedNodesPass()(model)
    for value in [v for v in graph.inputs if v.name in tangents_in]:
        if value.uses():
            left = next(iter(value.uses()))[0]
            raise UnsupportedOpError(
                f"{left.op_type} {left.name!r} still reads the tangent {value.name!r}",
                reason="NO_TRANSPOSE",
                subject=left.name or left.op_type,
                hint=HINT,
            )
        graph.inputs.remove(value)
    try:
        passes.CheckerPass()(model)
    except Exception as problem:
        raise UnsupportedOpError(
            f"the transposed graph is not valid ONNX: {str(problem).splitlines()[0][:300]}",
            reason="TRANSPOSE_INVALID",
            subject=graph.name or "graph",
            hint=HINT,
        ) from problem
    return model


def _extents(a: Adjoint, forward: Mapping[str, Dims]) -> dict[str, Dims]:
    """Return the sizes of all tensors by name."""
    found = dict(forward)
    for value, dims in a.extents.items():
        found[value.name or ""] = dims
    for value, sizes in a.measured.items():
        if sizes is not None and not value.is_initializer():
            found[value.name or ""] = _dims(sizes)
    return found


def _dims(sizes: tuple[Extent, ...]) -> Dims:
    return tuple(size if isinstance(size, int) else _called(size) for size in sizes)


def _called(size: Symbolic) -> str:
    """Return the name of a size as the estimate of memory reads it: ``D``, ``4N``, ``D*4N``."""
    names = [symbol for symbol, _ in size.factors]
    rest = "".join(name for name in names if name != "D")
    number = "" if size.times == 1 else str(size.times)
    if "D" in names:
        return f"D*{number}{rest}" if number or rest else "D"
    return f"{number}{rest}"
