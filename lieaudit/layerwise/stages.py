"""Stages: the pieces of the graph that run as one session each.

A segment that commutes with the action contributes nothing, so no cut is needed before it: it joins the stage of the
segment ahead of it, where onnxruntime may fuse it (a batch normalisation into its convolution). Each stage holds at
most one segment that contributes, and one row per generator starts at its end.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.errors import LieauditError, ModelError, UnsupportedOpError
from lieaudit.graph.forward.shapes import MEASURED
from lieaudit.graph.nodes import reads
from lieaudit.layerwise.segments import SegmentPlan
from lieaudit.layouts.axes import BATCH
from lieaudit.layouts.layout import Layout, layout_of
from lieaudit.layouts.tracker import Tracker, measured_sizes
from lieaudit.ops import is_op
from lieaudit.symmetries import Generator, get_generator

BATCH_SIZE = "lieaudit_batch_size"
"""Name of the tensor that all shape arithmetic of a settled graph starts from."""

_IMAGE_SHAPE = "lieaudit_shape_of_image"
"""Name of the only Shape node of a settled graph, which gives the batch size."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One piece of the graph.

    Attributes
    ----------
    segments
        Indices of its segments.
    source
        Index of the one that contributes; None where all commute.
    inputs, outputs
        Tensors that depend on the image and enter, or leave for later stages (the graph's output included).
    sized
        Whether it reads tensors that depend on the batch size but not on the pixels.
    rows_in
        Sources whose rows enter, in order; `rows_of` of the inputs, united.
    """

    segments: tuple[int, ...]
    source: int | None
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    sized: bool
    rows_in: tuple[int, ...]

    @property
    def rows_out(self) -> tuple[int, ...]:
        """Sources whose rows leave."""
        return self.rows_in if self.source is None else (*self.rows_in, self.source)


class StageError(ModelError):
    """One piece of the graph cannot be cut out or does not run by itself; `tensors` are where it was cut."""

    def __init__(self, stage: Stage, problem: LieauditError) -> None:
        super().__init__(problem.message, reason=problem.reason, subject=problem.subject, hint=problem.hint)
        after = tuple(v.name or "" for v in stage.outputs if not v.is_graph_output())
        self.tensors = after or tuple(v.name or "" for v in stage.inputs if not v.is_graph_input())


@contextmanager
def stage_errors(stage: Stage) -> Iterator[None]:
    """Raise `StageError` for what goes wrong inside; an op without a rule is no matter of where the graph was cut."""
    try:
        yield
    except (UnsupportedOpError, StageError):
        raise
    except ModelError as problem:
        raise StageError(stage, problem) from problem


def plan_stages(
    segments: Sequence[SegmentPlan], commutes: Sequence[bool], tracker: Tracker, shape_tensors: set[ir.Value]
) -> tuple[Stage, ...]:
    """Put segments together into stages.

    Parameters
    ----------
    segments
        In order.
    commutes
        Whether each provably commutes with every generator of the pass.
    tracker
        Axes of the graph.
    shape_tensors
        Tensors that depend on the batch size and not on the pixels.
    """
    parts: list[list[int]] = []
    for index, own in enumerate(commutes):
        if not parts or (not own and any(not commutes[i] for i in parts[-1])):
            parts.append([])
        parts[-1].append(index)
    stages = []
    rows: dict[ir.Value, tuple[int, ...]] = {}
    for part in parts:
        nodes = [node for index in part for node in segments[index].nodes]
        inside = set(nodes)
        inputs = tuple(dict.fromkeys(v for i in part for v in segments[i].inputs if v.producer() not in inside))
        outputs = tuple(
            dict.fromkeys(
                v for node in nodes for v in node.outputs if v.is_graph_output() or _read_later(v, tracker, inside)
            )
        )
        source = next((i for i in part if not commutes[i]), None)
        entering = tuple(sorted({row for value in inputs for row in rows.get(value, ())}))
        stage = Stage(
            segments=tuple(part),
            source=source,
            inputs=inputs,
            outputs=outputs,
            sized=any(v in shape_tensors for node in nodes for v in reads(node)),
            rows_in=entering,
        )
        rows |= dict.fromkeys(outputs, stage.rows_out)
        stages.append(stage)
    return tuple(stages)


def _read_later(value: ir.Value, tracker: Tracker, inside: set[ir.Node]) -> bool:
    users = (user for user in tracker.readers(value) if user not in inside)
    return any(out in tracker.dependent for user in users for out in user.outputs)


def shape_tensors(model: ir.Model, tracker: Tracker) -> set[ir.Value]:
    """Return the tensors that depend on the image's shape but not on its pixels."""
    image = model.graph.inputs[0]
    found: set[ir.Value] = set()
    for node in model.graph:
        if any(v in found or v is image for v in reads(node)) and not any(
            value in tracker.dependent for value in node.outputs
        ):
            found.update(node.outputs)
    return found


def boundary_layouts(
    model: ir.Model, tracker: Tracker, stages: Sequence[Stage], *, spatial: bool
) -> dict[ir.Value, Layout]:
    """Return the layout of every tensor between stages; the graph's output is a vector unless it transforms."""
    layouts = {v: layout_of(tracker.axes.get(v)) for stage in stages for v in stage.outputs}
    output = model.graph.outputs[0]
    if not spatial:
        layouts[output] = Layout("vector", layouts[output].axes, "vector", layouts[output].einops)
    return layouts


def commuting(segments: Sequence[SegmentPlan], generators: Sequence[str | Generator]) -> list[bool]:
    """Say of every segment whether it provably commutes with all of the generators (all geometric, or all gains)."""
    gain = any(not get_generator(g).spatial for g in generators)
    return [s.gain if gain else s.geometric for s in segments]


def peak_bytes(stages: Sequence[Stage], *, generators: int, leading: int, rows_per_source: int) -> int:
    """Return the most that one image's values and rows take between and around the stages.

    Parameters
    ----------
    generators
        G: X h of a stage's outputs is held while it runs.
    leading
        Rows that every tensor has (times ``generators``).
    rows_per_source
        Rows of one source of one tensor.
    """
    last_use = {v: i for i, stage in enumerate(stages) for v in stage.inputs}
    held: dict[ir.Value, int] = {}
    peak = 0
    for index, stage in enumerate(stages):
        for value in stage.inputs:
            held.setdefault(value, 0)
        held |= dict.fromkeys(stage.outputs, len(stage.rows_out))
        live = sum(image_bytes(v) * (1 + leading * generators + n * rows_per_source) for v, n in held.items())
        acted = sum(image_bytes(v) for v in stage.outputs) * generators
        peak = max(peak, live + acted)
        held = {v: n for v, n in held.items() if last_use.get(v, -1) > index}
    return peak


def shape_for(value: ir.Value, images: int) -> tuple[int, ...]:
    """Return the shape of a tensor between stages for so many images."""
    sizes = measured_sizes(value)
    assert sizes is not None  # noqa: S101 - boundaries have known layouts
    return tuple(size // BATCH * images if size % BATCH == 0 else size for size in sizes)


def check_shape(value: ir.Value, array: npt.NDArray[np.float32], images: int) -> None:
    """Raise `ModelError` SHAPE_CHANGED where a tensor has another shape than was measured."""
    if array.shape != shape_for(value, images):
        raise ModelError(
            f"{value.name} has shape {array.shape} on these images, and {shape_for(value, images)} on others",
            reason="SHAPE_CHANGED",
            subject=value.name or "",
        )


def image_bytes(value: ir.Value) -> int:
    """Return the bytes of one image's part of a float32 tensor."""
    sizes = measured_sizes(value) or ()
    return 4 * math.prod(size // BATCH if size % BATCH == 0 else size for size in sizes)


def cut_out(model: ir.Model, stage: Stage) -> ir.Model:
    """Return the graph of one stage; where it needs the batch size, it takes it from one of its inputs."""
    inputs = [value.name or "" for value in stage.inputs]
    outputs = [value.name or "" for value in stage.outputs]
    try:
        graph = ir.convenience.extract(model.graph, [*inputs, *([BATCH_SIZE] if stage.sized else [])], outputs)
    except ValueError as problem:
        raise ModelError(
            f"the layers before {', '.join(outputs)} read more of the graph than their inputs: {problem}",
            reason="STAGE_UNBOUNDED",
            subject=outputs[0],
        ) from problem
    if stage.sized:
        size = graph.inputs[len(inputs)]
        graph.inputs.remove(size)
        sized = (
            (i, axis, size // BATCH)
            for i, value in enumerate(stage.inputs)
            for axis, size in enumerate(measured_sizes(value) or ())
            if size % BATCH == 0
        )
        at, axis, multiple = next(sized, (0, 0, 0))
        if multiple == 0:
            raise ModelError(
                f"no tensor that enters the layers before {', '.join(outputs)} tells the number of images",
                reason="STAGE_UNSIZED",
                subject=outputs[0],
            )
        made = _batch_size(graph, graph.inputs[at], axis, multiple, "stage")
        size.replace_all_uses_with(made)
    graph.meta[MEASURED] = True
    return ir.Model(graph, ir_version=model.ir_version)


def settle_shapes(model: ir.Model, pixel_sized: Container[ir.Value]) -> None:
    """Compute every Shape node from the image's batch size and the measured sizes, in place.

    Afterwards no shape arithmetic hangs on an intermediate tensor, so that stages can be cut apart; but for the shapes
    of ``pixel_sized`` tensors, which are another on every image.
    """
    graph = model.graph
    image = graph.inputs[0]
    # made before, where the shapes are settled again
    batch = next((value for node in graph for value in node.outputs if value.name == BATCH_SIZE), None)
    for node in [n for n in graph if is_op(n, "Shape") and n.name != _IMAGE_SHAPE]:
        source = node.inputs[0]
        if source is None or source.shape is None or source in pixel_sized:
            continue
        sizes = list(source.shape)
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else len(sizes)
        sizes = sizes[slice(start, end)]
        multiples = [_multiple(size) for size in sizes]
        if any(m is None for m in multiples):
            continue
        if all(isinstance(size, int) for size in sizes):
            made = _constant(graph, np.array(sizes, np.int64), f"{node.outputs[0].name}.settled")
        else:
            if batch is None:
                batch = _batch_size(graph, image, 0, 1, "image")
            first = node
            name = node.outputs[0].name
            vectors = [
                _constant(graph, np.array([m], np.int64), f"{name}.{i}.settled") for i, m in enumerate(multiples)
            ]
            dims = []
            for size, vector in zip(sizes, vectors, strict=True):
                if isinstance(size, int):
                    dims.append(vector)
                    continue
                product = ir.node("Mul", [batch, vector])
                graph.insert_before(first, product)
                dims.append(_typed(product, f"{vector.name}.batch", (1,)))
            concat = ir.node("Concat", dims, {"axis": 0})
            graph.insert_before(first, concat)
            made = _typed(concat, f"{node.outputs[0].name}.settled", (len(dims),))
        node.outputs[0].replace_all_uses_with(made)
        graph.remove(node, safe=True)


def _multiple(size: int | ir.SymbolicDim) -> int | None:
    if isinstance(size, int):
        return size
    text = str(size.value)
    if text == "N":
        return 1
    return int(text[:-1]) if text.endswith("N") and text[:-1].isdigit() else None


def _batch_size(graph: ir.Graph, source: ir.Value, axis: int, multiple: int, of: str) -> ir.Value:
    """Put the batch size, int64 (1,), at the start of the graph: size ``axis`` of a tensor over ``multiple``."""
    shape = ir.node("Shape", [source])
    at = _constant(graph, np.array([axis], np.int64), f"lieaudit_batch_axis_{of}")
    over = _constant(graph, np.array([multiple], np.int64), f"lieaudit_batch_multiple_{of}")
    rank = len(source.shape) if source.shape is not None else 0
    cut = ir.node("Gather", [_typed(shape, f"lieaudit_shape_of_{of}", (rank,)), at])
    size = ir.node("Div", [_typed(cut, f"lieaudit_rows_of_{of}", (1,)), over])
    graph.insert_before(graph[0], [shape, cut, size])
    value = _typed(size, f"lieaudit_batch_size_of_{of}", (1,))
    if of == "image":
        value.name = BATCH_SIZE
    return value


def _typed(node: ir.Node, name: str, shape: tuple[int, ...]) -> ir.Value:
    node.name = name
    value = node.outputs[0]
    value.name, value.type, value.shape = f"{name}:0", ir.TensorType(ir.DataType.INT64), ir.Shape(shape)
    return value


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(value)
    return value
