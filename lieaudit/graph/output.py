"""Which output is audited, and its shape as the audit takes it."""

from __future__ import annotations

import math

import onnx_ir as ir

from lieaudit.errors import SpecError
from lieaudit.graph.selection import refuse_selected
from lieaudit.graph.tail import check_real, is_quantised
from lieaudit.ops import FLOATS
from lieaudit.spec import AuditSpec


def choose(graph: ir.Graph, spec: AuditSpec, notes: list[str]) -> ir.Value:
    """Return the output the spec names, or the first one (the exporters' main output), and note that choice.

    Where the first is not a float and exactly one other is (a classifier's label before its probabilities), that one.

    Raises
    ------
    SpecError
        UNKNOWN_OUTPUT.
    ModelError
        OUTPUT_NOT_FLOAT.
    """
    names = [value.name or "" for value in graph.outputs]
    if spec.output is not None and spec.output not in names and (inner := inner_tensor(graph, spec.output)) is not None:
        graph.outputs.append(inner)
        names.append(spec.output)
    if spec.output is not None and spec.output not in names:
        raise SpecError(
            f"the graph has no output {spec.output!r}",
            reason="UNKNOWN_OUTPUT",
            subject="output",
            hint=f"it has {', '.join(map(repr, names))}",
        )
    chosen = graph.outputs[names.index(spec.output)] if spec.output is not None else graph.outputs[0]
    floats = [value for value in graph.outputs if value.dtype in FLOATS]
    if spec.output is None and chosen not in floats and len(floats) == 1 and not is_quantised(chosen):
        chosen = floats[0]
        notes.append(f"{chosen.name!r}, the only float of {len(names)} outputs, is audited")
    elif spec.output is None and len(names) > 1:
        notes.append(f"the first of {len(names)} outputs, {names[0]!r}, is audited; choose another with --output")
    check_real(chosen, graph.outputs)
    refuse_selected(chosen, chosen.name or "output")
    return chosen


def inner_tensor(graph: ir.Graph, name: str) -> ir.Value | None:
    """Find a tensor inside the graph, which may be audited like an output."""
    return next((value for node in graph for value in node.outputs if value.name == name), None)


def normalise(model: ir.Model, output_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Make the output float32 (N, *K), with maps of one pixel as vectors, in place; give K …."""
    graph = model.graph
    current = graph.outputs[0]
    size = math.prod(output_shape)
    if len(output_shape) > 1 and size in {output_shape[0], output_shape[-1]}:
        node = ir.node("Flatten", [current], {"axis": 1}, name="lieaudit_flatten")
        graph.append(node)
        current = node.outputs[0]
        current.name = "lieaudit_output"
        output_shape = (size,)
    current.type = ir.TensorType(ir.DataType.FLOAT)
    batch = graph.inputs[0].shape
    current.shape = ir.Shape([batch[0] if batch is not None else "N", *output_shape])
    graph.outputs[:] = [current]
    return output_shape
