"""Derivatives of ONNX graphs as ONNX graphs: J v in forward mode, Jᵀ u in reverse mode.

The graph may be of anything, and what is made of it runs wherever ONNX runs: it holds ops of the standard only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit import __version__
from lieaudit.autodiff.extents import Symbolic
from lieaudit.errors import LieauditError, ModelError, SpecError, UnsupportedOpError
from lieaudit.graph import versions
from lieaudit.graph.forward.coverage import caveats
from lieaudit.graph.forward.rewrite import Applied, rewrite
from lieaudit.graph.names import SAMPLES, called, set_apart
from lieaudit.graph.read import read_model
from lieaudit.graph.reverse.measured import measured
from lieaudit.graph.reverse.opset import raised
from lieaudit.graph.reverse.transpose import transpose

WARNINGS = "lieaudit.warnings"
"""Key in ``metadata_props``: ops whose derivative is not exact, or says nothing about finite steps, a line each."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE}

Source = str | Path | bytes | onnx.ModelProto


def jvp(
    model: Source,
    *,
    active: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    directions: int | str | None = None,
) -> onnx.ModelProto:
    """Return the graph that computes y = f(x) and its derivative along given directions, dy = J dx (forward mode).

    Parameters
    ----------
    model
        A path, bytes or a ModelProto; any graph that onnxruntime runs.
    active
        Inputs, initializers or tensors inside the graph to differentiate by; default: every input of float32 or
        float64.
    inputs, outputs
        Names of tensors that bound the part of the graph to differentiate; default: its inputs, and its outputs of
        float32 or float64.
    directions
        None: one direction, ``X.tangent`` has X's shape. An int or a name: an axis of that size, or of that symbol,
        leads every tangent, one row per direction; the values are computed once for all of them.

    Returns
    -------
    onnx.ModelProto
        Inputs: those of the graph, then ``X.tangent`` for every active X. Outputs: those of the graph, then
        ``Y.tangent`` for every output Y. ``metadata_props["lieaudit.warnings"]`` names ops whose derivative is a
        central difference, or zero almost everywhere.

    Raises
    ------
    ModelError
        NO_SUCH_INPUT, NO_SUCH_OUTPUT, INPUT_NOT_FLOAT, OUTPUT_NOT_FLOAT, NAME_TAKEN, GRAPH_NOT_RUNNABLE,
        SEGMENT_UNBOUNDED, and what reading a model raises.
    UnsupportedOpError
        NO_RULE or UNKNOWN_OP, naming the op.
    SpecError
        DIRECTIONS_INVALID.
    """
    if directions is not None and (isinstance(directions, bool) or directions in {0, ""} or _negative(directions)):
        raise SpecError(
            f"directions = {directions!r} is neither a positive number nor a name",
            reason="DIRECTIONS_INVALID",
            subject="directions",
            hint="leave it out for one direction",
        )
    with _own_hints():
        return _jvp(_Graph(model, active, inputs, outputs, ".tangent"), directions)


def _jvp(graph: _Graph, directions: int | str | None) -> onnx.ModelProto:
    made = rewrite(
        graph.model, active=graph.active, inputs=graph.inputs, outputs=graph.outputs, single=directions is None
    )
    return graph.finished(made.model, made.applied, ".tangent", directions)


def vjp(model: Source, *, wrt: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> onnx.ModelProto:
    """Return the graph that computes y = f(x) and pulls cotangents back, Jᵀ u (reverse mode).

    With u = 1 on a scalar output that is its gradient. The tangent graph of `jvp` is linear in its tangents; every op
    in it is turned around by a rule of its own ("linearise and transpose", Radul et al., POPL 2023).

    Parameters
    ----------
    model
        As of `jvp`. Graphs of an opset before 16 are raised to it.
    wrt
        Inputs, initializers or tensors inside the graph to differentiate by; default: every input of float32 or
        float64.
    outputs
        Tensors whose cotangents are given; default: the outputs of float32 or float64.

    Returns
    -------
    onnx.ModelProto
        Inputs: those of the graph, then ``Y.cotangent`` for every output Y, of its shape. Outputs: those of the graph,
        then ``X.cotangent`` for every X in ``wrt``, of its shape: Σ over the outputs of (∂Y/∂X)ᵀ Y.cotangent.

    Raises
    ------
    ModelError, UnsupportedOpError
        As `jvp`; and NO_TRANSPOSE, naming the op, where it has no rule; OPSET_TOO_OLD; DYNAMIC_SHAPE.
    """
    with _own_hints():
        graph = _Graph(model, wrt, None, outputs, ".cotangent", reverse=True)
        forward = rewrite(graph.model, active=graph.active, outputs=graph.outputs, single=True)
        made = transpose(forward, graph.axes(forward.model.graph))
        return graph.finished(made.model, made.applied, ".cotangent", None)


@contextmanager
def _own_hints() -> Iterator[None]:
    """Return errors of an audit's steps the hint that helps here: another method is none."""
    try:
        yield
    except LieauditError as problem:
        if "--method" in problem.hint:
            unknown = problem.reason in {"GRAPH_NOT_RUNNABLE", "DYNAMIC_SHAPE", "UNKNOWN_SHAPE"}
            problem.hint = _FIXED if unknown else "leave it out of the part that is differentiated"
        raise


_FIXED = "give the open sizes numbers or common names, as onnxruntime.tools.make_dynamic_shape_fixed does"


def _negative(directions: int | str) -> bool:
    return isinstance(directions, int) and directions < 0


class _Graph:
    """A user's graph while it is differentiated: what it is called, and what its open sizes are called."""

    def __init__(
        self,
        source: Source,
        active: Sequence[str] | None,
        inputs: Sequence[str] | None,
        outputs: Sequence[str] | None,
        suffix: str,
        *,
        reverse: bool = False,
    ) -> None:
        read = read_model(source)
        model = read.model
        if model.functions:
            model = passes.InlinePass()(model).model
        versions.settle(model)
        _refuse_unknown(model)
        own = {value: value.name or "" for value in _bounds(model.graph)}
        for name in {*(active or ()), *(outputs or ()), *(inputs or ())}:
            own.update(dict.fromkeys(_named(model.graph, name), name))
        set_apart(model)
        self.called = {value.name or "": name for value, name in own.items()}
        """The user's names, by those that tensors have meanwhile."""
        if reverse:
            model = raised(model)
        self.model = model
        graph = model.graph
        active, inputs, outputs = (self._meanwhile(names) for names in (active, inputs, outputs))
        for names, what in ((active, "to differentiate by"), (outputs, "to differentiate")):
            if names is not None and not names:
                raise SpecError(
                    f"no tensor {what} is named",
                    reason="NOTHING_NAMED",
                    subject=what,
                    hint="leave it out for all that the graph has",
                )
        self.inputs = inputs
        self.held = _freed(graph, active or ())
        self.inside = {v.name or "": v for node in graph for v in node.outputs if v.name in (active or ())}
        self.shapes = {value.name: value.shape.copy() for value in _bounds(graph) if value.shape is not None}
        self.active = _active(graph, active, inputs)
        self.outputs = _outputs(graph, outputs)
        taken = {self.called.get(value.name or "") for value in _bounds(graph)}
        for name in [self.called.get(n, n) for n in [*(self.active or ()), *(self.outputs or ())]]:
            if f"{name}{suffix}" in taken:
                raise ModelError(
                    f"the graph has a tensor {name + suffix!r} already",
                    reason="NAME_TAKEN",
                    subject=f"{name}{suffix}",
                    hint="rename that input or output first",
                )

    def _meanwhile(self, names: Sequence[str] | None) -> list[str] | None:
        """Return what tensors that the user names are called meanwhile."""
        known = {user: name for name, user in self.called.items()}
        return None if names is None else list(dict.fromkeys(known.get(name, name) for name in names))

    def axes(self, graph: ir.Graph) -> dict[tuple[str, int], Symbolic]:
        """Return the open axes of a rewritten graph's inputs under the names that the user gave them."""
        found: dict[tuple[str, int], Symbolic] = {}
        inside = []
        for value in graph.inputs:
            stem = (value.name or "").removesuffix(".tangent")
            if stem != value.name and stem in self.inside:
                inside.append((value.name or "", self.inside[stem]))
                continue
            own = self.shapes.get(stem)
            for axis, size in enumerate(value.shape or ()):
                if not isinstance(size, int):
                    named: int | ir.SymbolicDim = size if own is None or isinstance(own[axis], int) else own[axis]
                    symbol = None if isinstance(named, int) else named.value
                    anonymous = "N" if axis == 0 else f"{stem}.{axis}"
                    found[value.name or "", axis] = Symbolic(((str(symbol or anonymous), 0),))
        if inside:
            sizes = measured(self.model, found)
            for name, tensor in inside:
                for axis, extent in enumerate(sizes.get(tensor) or ()):
                    if isinstance(extent, Symbolic):
                        found[name, axis] = extent
        return found

    def finished(
        self, made: ir.Model, applied: Sequence[Applied], suffix: str, directions: int | str | None
    ) -> onnx.ModelProto:
        """Return the result the user's names of sizes, the initializers that were inputs, and the warnings."""
        graph = made.graph
        bounds = set(_bounds(graph))
        for value in (v for node in graph for v in node.outputs):
            if value not in bounds and value.shape is not None and any(not isinstance(s, int) for s in value.shape):
                value.shape = None  # both runs that measured it took all symbols for one
        lead = [] if directions is None else [directions]
        for value in bounds:
            name = value.name or ""
            stem = name.removesuffix(suffix)
            value.name = self.called.get(name) or (self.called[stem] + suffix if stem in self.called else name)
            own = self.shapes.get(name.removesuffix(suffix))
            if own is not None and name.endswith(suffix) and name not in self.shapes:
                value.shape = ir.Shape([*lead, *own])
            elif own is not None:
                value.shape = own
        made.producer_name, made.producer_version = "lieaudit", __version__
        warnings = [f"{skipped.what}: {skipped.why}" for skipped in caveats(applied)]
        if warnings:
            made.metadata_props[WARNINGS] = "\n".join(warnings)
        proto = ir.to_proto(made)
        held = {self.called.get(name, name): array for name, array in self.held.items()}
        for info in [i for i in proto.graph.input if i.name in held]:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(held[info.name], info.name))
            proto.graph.input.remove(info)
        return proto


_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}


def _refuse_unknown(model: ir.Model) -> None:
    """Refuse ops of a domain that onnxruntime does not know: not even their values could be computed."""
    for node in model.graph.all_nodes():
        if node.domain not in _KNOWN_DOMAINS:
            raise UnsupportedOpError(
                f"{called(node)} is of domain {node.domain!r}, which onnxruntime does not know",
                reason="UNKNOWN_OP",
                subject=f"{node.domain}::{node.op_type}",
                hint="export the model without it, in ops of the ONNX standard",
            )


def _bounds(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.outputs]


def _named(graph: ir.Graph, name: str) -> list[ir.Value]:
    inside = [value for node in graph for value in node.outputs]
    return [value for value in [*graph.initializers.values(), *inside] if value.name == name]


def _freed(graph: ir.Graph, names: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Make inputs of the initializers among these names, in place, so that nothing is folded into them."""
    held = {}
    for name in names:
        value = graph.initializers.get(name)
        if value is None or value.const_value is None:
            continue
        array = value.const_value.numpy()
        held[name] = array
        graph.initializers.pop(name)
        value.const_value = None
        value.shape, value.type = ir.Shape(array.shape), value.type or ir.TensorType(ir.Tensor(array).dtype)
        if array.ndim:
            value.meta[SAMPLES] = array
        if value not in list(graph.inputs):
            graph.inputs.append(value)
    return held


def _active(graph: ir.Graph, names: Sequence[str] | None, inputs: Sequence[str] | None) -> list[str] | None:
    given = {value.name: value for value in graph.inputs if not value.is_initializer()}
    if names is None:
        floats = [name for name, value in given.items() if value.dtype in _FLOATS]
        if not floats and inputs is None:
            kinds = ", ".join(f"{name} ({value.dtype})" for name, value in given.items())
            raise ModelError(
                f"no input of the graph is float32 or float64: {kinds}",
                reason="INPUT_NOT_FLOAT",
                subject=", ".join(str(name) for name in given),
                hint="name an initializer to differentiate by, or a tensor behind the inputs",
            )
        return [str(name) for name in floats] if inputs is None else None
    if inputs is not None:
        return list(names)
    inside = {value.name for node in graph for value in node.outputs}
    for name in names:
        if name in inside:
            continue
        if name not in given:
            raise ModelError(
                f"the graph has no input, initializer or tensor {name!r}",
                reason="NO_SUCH_INPUT",
                subject=name,
                hint=f"inputs: {', '.join(sorted(map(str, given)))}",
            )
        if given[name].dtype not in _FLOATS:
            raise ModelError(
                f"{name!r} holds {given[name].dtype}, which has no derivative",
                reason="INPUT_NOT_FLOAT",
                subject=name,
                hint="differentiate by an input of float32 or float64; a float16 model is first converted to float32",
            )
    return list(names)


def _outputs(graph: ir.Graph, names: Sequence[str] | None) -> list[str] | None:
    tensors = {value.name: value for node in graph for value in node.outputs}
    if names is None:
        # an output that is an input has no derivative worth a graph, and its tangent's name is taken
        floats = [str(v.name) for v in graph.outputs if v.dtype in _FLOATS and not v.is_graph_input()]
        if not floats:
            kinds = ", ".join(f"{value.name} ({value.dtype})" for value in graph.outputs)
            raise ModelError(
                f"no output of the graph is float32 or float64: {kinds}",
                reason="OUTPUT_NOT_FLOAT",
                subject=", ".join(str(value.name) for value in graph.outputs),
                hint="name a tensor before the step",
            )
        return None if len(floats) == len(graph.outputs) else floats
    for name in names:
        if name not in tensors:
            raise ModelError(
                f"the graph makes no tensor {name!r}",
                reason="NO_SUCH_OUTPUT",
                subject=name,
                hint=f"outputs: {', '.join(str(value.name) for value in graph.outputs)}",
            )
    return list(names)
