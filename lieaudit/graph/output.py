"""Which output is audited, where its head is cut off, and how the symmetry acts on it."""

from __future__ import annotations

import math

import onnx_ir as ir

from lieaudit.errors import ModelError, SpecError
from lieaudit.graph.selection import refuse_selected
from lieaudit.metrics.head import Head
from lieaudit.spec import AuditSpec

_HEADS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_SHAPE_OPS = {"Identity", "Flatten", "Reshape", "Squeeze", "Cast"}
_FEATURE_NAMES = ("embed", "feature", "hidden", "pool", "prob")
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def choose(graph: ir.Graph, spec: AuditSpec, notes: list[str]) -> ir.Value:
    """Give the output the spec names, or the first one (the exporters' main output), and note that choice.

    Where the first is not a float and exactly one other is (a classifier's label before its probabilities), that one.

    Raises
    ------
    SpecError
        UNKNOWN_OUTPUT.
    ModelError
        OUTPUT_NOT_FLOAT.
    """
    names = [value.name or "" for value in graph.outputs]
    if spec.output is not None and spec.output not in names and (inner := _inner(graph, spec.output)) is not None:
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
    floats = [value for value in graph.outputs if value.dtype in _FLOATS]
    if spec.output is None and chosen not in floats and len(floats) == 1:
        chosen = floats[0]
        notes.append(f"{chosen.name!r}, the only float of {len(names)} outputs, is audited")
    elif spec.output is None and len(names) > 1:
        notes.append(f"the first of {len(names)} outputs, {names[0]!r}, is audited; choose another with --output")
    if chosen.dtype is not None and chosen.dtype not in _FLOATS:
        raise ModelError(
            f"output {chosen.name!r} is {chosen.dtype}, not a float",
            reason="OUTPUT_NOT_FLOAT",
            subject=chosen.name or "output",
            hint="choose another output with --output",
        )
    refuse_selected(chosen, chosen.name or "output")
    return chosen


def _inner(graph: ir.Graph, name: str) -> ir.Value | None:
    """Find a tensor inside the graph, which may be audited like an output."""
    return next((value for node in graph for value in node.outputs if value.name == name), None)


def cut_head(output: ir.Value, spec: AuditSpec, notes: list[str]) -> tuple[ir.Value, str | None]:
    """Bypass a final Softmax, LogSoftmax or Sigmoid; give the output of raw values and the function cut off.

    Shape ops after it stay. A Softmax whose axis is not the class axis of the output stays in the graph.
    """
    shape_ops = []
    value = output
    node = value.producer()
    while node is not None and node.op_type in _SHAPE_OPS and node.inputs[0] is not None:
        shape_ops.append(node)
        value = node.inputs[0]
        node = value.producer()
    if node is None or node.op_type not in _HEADS or node.domain not in {"", "ai.onnx"}:
        return output, None
    function = _HEADS[node.op_type]
    if spec.head not in {"auto", "spatial", "identity", function}:
        return output, None
    raw = node.inputs[0]
    assert raw is not None  # noqa: S101 - the checker has seen the graph
    if function == "softmax" and not _over_classes(node, raw, bool(shape_ops)):
        notes.append(f"the final {node.op_type} is not over the class axis and stays in the float32 graph")
        return output, None
    shown = "softmax of it, i.e. the probabilities," if node.op_type == "LogSoftmax" else "it"
    notes.append(f"the final {node.op_type} was cut off; {shown} is applied in float64")
    if not shape_ops:
        return raw, function
    shape_ops[-1].replace_input_with(0, raw)
    return output, function


def normalise(model: ir.Model, output_shape: tuple[int, ...], spec: AuditSpec, notes: list[str]) -> tuple[int, ...]:
    """Append what makes the output float32 (N, *K) with maps as NCHW and 1 × 1 maps as vectors; give K …, in place."""
    graph = model.graph
    z = graph.outputs[0]
    original = z.name or ""
    nodes: list[ir.Node] = []
    current = z
    if len(output_shape) == 3:
        producer = z.producer()
        perm = producer.attributes.get("perm") if producer is not None and producer.op_type == "Transpose" else None
        declared = spec.layouts.get(original)
        if declared == "NHWC" or (declared is None and perm is not None and list(perm.as_ints()) == [0, 2, 3, 1]):
            nodes.append(ir.node("Transpose", [current], {"perm": [0, 3, 1, 2]}, name="lieaudit_to_nchw"))
            current = nodes[-1].outputs[0]
            output_shape = (output_shape[2], *output_shape[:2])
            notes.append(f"output {original!r} is NHWC and was transposed to NCHW")
    if len(output_shape) > 1 and math.prod(output_shape[1:]) == 1:
        nodes.append(ir.node("Flatten", [current], {"axis": 1}, name="lieaudit_flatten"))
        current = nodes[-1].outputs[0]
        output_shape = output_shape[:1]
    if nodes:
        graph.extend(nodes)
        current.name = "lieaudit_output"
    current.type = ir.TensorType(ir.DataType.FLOAT)
    batch = graph.inputs[0].shape
    current.shape = ir.Shape([batch[0] if batch is not None else "N", *output_shape])
    graph.outputs[:] = [current]
    return output_shape


def choose_head(spec: AuditSpec, name: str, cut: str | None, shape: tuple[int, ...], notes: list[str]) -> Head:
    """Give the head for outputs (N, *shape), after docs/numerics.md, section 1.

    Raises
    ------
    SpecError
        HEAD_MISMATCH: ``spatial`` for an output that is no map, or ``softmax`` of a single value.
    """
    is_map = len(shape) == 3
    size = math.prod(shape)
    if spec.head == "spatial" and not is_map:
        raise _mismatch(f"output {name!r} has shape (N, {', '.join(map(str, shape))}), not (N, C, H, W)")
    if spec.head == "softmax" and (size < 2 or not shape):
        raise _mismatch(f"output {name!r} has {size} component; the softmax of it is constant")
    if spec.head not in {"auto", "spatial"}:
        function = cut if cut is not None else spec.head
        return Head(function, spatial=False)
    if is_map:
        return Head(cut or "identity", spatial=True)
    if cut is not None:
        return Head(cut, spatial=False)
    logits = len(shape) == 1 and size >= 2 and not any(part in name.lower() for part in _FEATURE_NAMES)
    chosen = Head("softmax" if logits else "identity", spatial=False)
    notes.append(f"head chosen by name and shape of the output: {chosen.name}")
    return chosen


def _over_classes(node: ir.Node, raw: ir.Value, followed_by_shape_ops: bool) -> bool:  # noqa: FBT001 - one private use
    """Whether a Softmax normalises exactly over axis 1 of what becomes the output."""
    opset = node.version or (node.graph.opset_imports.get("", 0) if node.graph is not None else 0)
    attribute = node.attributes.get("axis")
    shape = raw.shape
    if shape is None:
        return False
    rank = len(shape)
    axis = attribute.as_int() if attribute is not None else (1 if opset < 13 else -1)
    axis %= rank
    rest_is_one = all(d == 1 for i, d in enumerate(shape) if i not in {0, axis})
    if opset < 13:
        # flattens from the axis on
        return axis == 1 and (rank == 2 or rest_is_one)
    if followed_by_shape_ops:
        return axis >= 1 and (rank == 2 or rest_is_one)
    return axis == 1


def _mismatch(problem: str) -> SpecError:
    return SpecError(f"head: {problem}", reason="HEAD_MISMATCH", subject="head", hint="let --head auto choose")
