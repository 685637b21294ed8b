"""Several outputs, and slices of them, as one: flattened, joined, and only those elements that a part is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lieaudit.errors import SpecError
from lieaudit.graph.names import PREFIX
from lieaudit.graph.output import inner_tensor
from lieaudit.graph.selection import refuse_selected
from lieaudit.graph.tail import check_real, measured_shapes
from lieaudit.parts.binding import BoundParts, bind, outputs_of
from lieaudit.parts.representations import Frame
from lieaudit.report import ReportTensor

if TYPE_CHECKING:
    from lieaudit.parts.text import PartText
    from lieaudit.spec import AuditSpec

_JOIN = PREFIX + "join"
_KEEP = PREFIX + "keep"
_SCALE = PREFIX + "scale"


def choose(model: ir.Model, parts: Sequence[PartText]) -> list[ir.Value]:
    """Return the outputs or inner tensors that parts are slices of, and leave only what they need, in place.

    Raises
    ------
    SpecError
        UNKNOWN_OUTPUT: the graph has none of that name.
    ModelError
        OUTPUT_NOT_FLOAT, OUTPUT_SELECTED.
    """
    graph = model.graph
    known = {value.name or "": value for value in graph.outputs}
    found = []
    for name in outputs_of(parts):
        value = known.get(name) or inner_tensor(graph, name)
        if value is None:
            raise SpecError(
                f"parts: the graph has no output {name!r}",
                reason="UNKNOWN_OUTPUT",
                subject="parts",
                hint=f"it has {', '.join(map(repr, known))}",
            )
        check_real(value, graph.outputs)
        refuse_selected(value, name)
        found.append(value)
    graph.outputs[:] = found
    common_passes.RemoveUnusedNodesPass()(model)
    return found


def described(tensors: Sequence[ReportTensor]) -> ReportTensor:
    """Return what the report says of them as one: the tensor itself where there is one, else their names."""
    if len(tensors) == 1:
        return tensors[0]
    return ReportTensor(", ".join(tensor.name for tensor in tensors), ("N",), tensors[0].dtype, "parts")


def join(model: ir.Model, values: Sequence[ir.Value], image: ir.Value) -> ir.Value:
    """Flatten outputs behind the batch axis and join them, in place; the graph's one output is returned."""
    graph = model.graph
    single = image.shape is not None and image.shape[0] == 1
    rows = []
    for at, value in enumerate(values):
        flat = value
        if value.dtype not in {None, ir.DataType.FLOAT}:
            flat = _append(graph, "Cast", [flat], f"{_JOIN}.cast.{at}", to=ir.DataType.FLOAT.value)
        if single:  # an output of one image need not keep its batch axis
            target = _constant(graph, f"{_JOIN}.shape.{at}", np.array([1, -1], np.int64))
            flat = _append(graph, "Reshape", [flat, target], f"{_JOIN}.flat.{at}")
        else:
            flat = _append(graph, "Flatten", [flat], f"{_JOIN}.flat.{at}", axis=1)
        rows.append(flat)
    joined = _append(graph, "Concat", rows, _JOIN, axis=1)
    graph.outputs[:] = [joined]
    return joined


def keep(
    model: ir.Model,
    parts: Sequence[PartText],
    channels: int,
    size: tuple[int, int],
    spec: AuditSpec,
    further: Mapping[str, npt.NDArray[Any]],
) -> BoundParts:
    """Fit parts to the sizes that the joined outputs have, and keep what they are made of, in place.

    Parameters
    ----------
    model
        With the joined outputs as its only one, and its batch axis settled.
    channels, size
        C and (H, W) of its image.
    spec
        Conventions, and the anchors that parts name.
    further
        Values of its other inputs, one row per image.

    Raises
    ------
    SpecError
        INVALID_PART: a part does not fit its output.
    """
    frame = Frame(size, spec.interpolation, spec.padding, spec.convention)
    anchors = {name: feed.array() for name, feed in spec.anchors.items()}
    flats = [node for node in model.graph if (node.name or "").startswith(f"{_JOIN}.flat.")]
    sources = [_before_cast(node) for node in flats]
    shapes = measured_shapes(model, sources, (channels, *size), further)
    own = [shape[1:] if shape and shape[0] == 1 else shape for shape in shapes]
    bound = bind(parts, dict(zip(outputs_of(parts), own, strict=True)), frame, anchors)
    if len(bound.kept) < sum(bound.sizes) or np.any(np.diff(bound.kept) != 1):
        places = _constant(model.graph, f"{_KEEP}.places", bound.kept.astype(np.int64))
        kept = _append(model.graph, "Gather", [model.graph.outputs[0], places], _KEEP, axis=1)
        _replace_output(model, kept, len(bound.kept))
    return bound


def scaled(model: ir.Model, bound: BoundParts, rows: npt.NDArray[np.float64]) -> BoundParts:
    """Bring all parts to a size of about 1, in place, and return parts that know their scale.

    Powers of two change no bit of a float but its exponent. Methods judge their errors by the norm of the whole raw
    vector: scores near 0.01 beside pixels near 600 would drown in what those are off by.
    """
    factors = np.ones(rows.shape[1], np.float32)
    for reading in bound.readings:
        size = float(np.sqrt(np.mean(rows[:, reading.places] ** 2)))
        exponent = int(np.clip(np.round(np.log2(size)), -60, 60)) if size > 0 else 0
        factors[reading.places] = 2.0**-exponent
    if np.all(factors == 1):
        return bound
    factor = _constant(model.graph, f"{_SCALE}.factors", factors[None])
    _replace_output(model, _append(model.graph, "Mul", [model.graph.outputs[0], factor], _SCALE), len(factors))
    return bound.scaled(factors.astype(np.float64))


def _before_cast(node: ir.Node) -> ir.Value:
    """Return the output that a node flattens, before it was cast."""
    source = node.inputs[0]
    assert source is not None  # noqa: S101 - `join` made it
    maker = source.producer()
    if maker is not None and (maker.name or "").startswith(f"{_JOIN}.cast.") and maker.inputs[0] is not None:
        return maker.inputs[0]
    return source


def _replace_output(model: ir.Model, value: ir.Value, size: int) -> None:
    batch = model.graph.inputs[0].shape
    value.type = ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape([batch[0] if batch is not None else "N", size])
    model.graph.outputs[:] = [value]


def _append(graph: ir.Graph, op: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Value:
    node = ir.node(op, inputs, attributes, name=name)
    node.outputs[0].name = f"{name}.out"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return node.outputs[0]


def _constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array))
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.INT64 if array.dtype == np.int64 else ir.DataType.FLOAT)
    graph.register_initializer(value)
    return value
