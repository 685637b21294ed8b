"""Shapes and dtypes of every tensor of a graph, measured by running it at two batch sizes.

Static shape inference loses track behind Reshape, Range and custom ops; a rule needs the rank of every tensor and must
know which tensors have equal shapes. So the graph is run twice on onnxruntime with a Shape node behind each tensor (the
tensors themselves are not kept), at batch sizes 2 and 3: what stays is a fixed size, what grows in proportion is a
multiple of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from lieaudit.errors import ModelError
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.inference import infer_shapes
from lieaudit.graph.names import SAMPLES
from lieaudit.ops import lookup
from lieaudit.runtime.failures import Stop, origins
from lieaudit.runtime.serialised import serialised

MEASURED = "lieaudit.shapes"
"""Key in ``Graph.meta`` of a graph whose shapes were measured."""

_BATCHES = (2, 3)
_ONNXRUNTIME_TYPES = {
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(double)": ir.DataType.DOUBLE,
    "tensor(float16)": ir.DataType.FLOAT16,
    "tensor(bfloat16)": ir.DataType.BFLOAT16,
    "tensor(int64)": ir.DataType.INT64,
    "tensor(int32)": ir.DataType.INT32,
    "tensor(int16)": ir.DataType.INT16,
    "tensor(int8)": ir.DataType.INT8,
    "tensor(uint64)": ir.DataType.UINT64,
    "tensor(uint32)": ir.DataType.UINT32,
    "tensor(uint16)": ir.DataType.UINT16,
    "tensor(uint8)": ir.DataType.UINT8,
    "tensor(bool)": ir.DataType.BOOL,
    "tensor(string)": ir.DataType.STRING,
}


def measure_shapes(
    model: ir.Model,
    *,
    feeds: Mapping[str, np.ndarray[Any, Any]] | None = None,
    options: onnxruntime.SessionOptions | None = None,
) -> None:
    """Set shape and dtype of every tensor of the main graph, in place.

    Sizes that follow the batch become the symbols ``N``, ``4N`` …; other sizes that differ between the runs become
    a symbol of both. Does nothing to a graph that was measured before.

    Parameters
    ----------
    model
        Any graph onnxruntime can run. Symbolic sizes of its inputs are taken to be the batch.
    feeds
        Inputs of one run at a fixed size, instead of the two batch sizes.
    options
        Session options, for models with custom ops.

    Raises
    ------
    ModelError
        GRAPH_NOT_RUNNABLE where onnxruntime cannot load or run it.
    """
    graph = model.graph
    if graph.meta.get(MEASURED):
        return
    if any(value.shape is None for value in followers(model).sizes):
        infer_shapes(model)  # what the graph alone decides of them
    looked, names = probe(model)
    options = options or onnxruntime.SessionOptions()
    level, options.graph_optimization_level = (
        options.graph_optimization_level,
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    )
    severity, options.log_severity_level = options.log_severity_level, 3
    # each Shape as soon as its tensor is there, so that the tensor is freed when its other readers have run
    order, options.execution_order = options.execution_order, onnxruntime.ExecutionOrder.PRIORITY_BASED
    try:
        with serialised(looked) as source:
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        fixed = feeds is not None or not any(_symbols(value) for value in graph.inputs)
        runs = [
            session.run(list(names.values()), dict(feeds) if feeds is not None else _inputs(graph, batch))
            for batch in (_BATCHES[:1] if fixed else _BATCHES)
        ]
    except Exception as problem:
        raise not_runnable(model, problem) from problem
    finally:
        options.graph_optimization_level = level
        options.log_severity_level = severity
        options.execution_order = order
    types = {output.name: output.type for output in session.get_outputs()}
    values = {value.name: value for node in graph for value in node.outputs}
    values.update({value.name: value for value in graph.inputs})
    known = {value: value.shape for value in values.values()}
    for index, name in enumerate(names):
        value = values[name]
        value.shape = ir.Shape([_size(*(int(run[index][axis]) for run in runs)) for axis in range(len(runs[0][index]))])
        if name in types and types[name] in _ONNXRUNTIME_TYPES:
            value.type = ir.TensorType(_ONNXRUNTIME_TYPES[types[name]])
    for value in followers(model).sizes:
        if value.shape is not None:
            value.shape = _inferred(value, value.shape, known.get(value))
    graph.meta[MEASURED] = True


def not_runnable(model: ir.Model, problem: Exception) -> ModelError:
    """Say which of the graph's nodes onnxruntime stops at, where it tells."""
    stop = Stop.of(problem, origins(model))
    return ModelError(
        f"onnxruntime does not run {stop.where or 'the graph'}: {stop.why}",
        reason="GRAPH_NOT_RUNNABLE",
        subject=stop.subject or model.graph.name or "graph",
        hint="check that the model runs at batch sizes 2 and 3, or use --method finite_difference",
    )


def _inferred(value: ir.Value, measured: ir.Shape, known: ir.Shape | None) -> ir.Shape:
    """Keep of the sizes of a tensor that follows the pixels those that the graph alone decides; the others are open.

    onnxruntime would fold a Shape of it to what was measured on noise, and a rule would count on it.
    """
    holds = known if known is not None and len(known) == len(measured) else [None] * len(measured)
    return ir.Shape([size if size == holds[axis] else f"{value.name}.{axis}" for axis, size in enumerate(measured)])


def _size(*sizes: int) -> int | str:
    first = sizes[0]
    if all(size == first for size in sizes):
        return first
    if first % _BATCHES[0] == 0 and sizes[1] * _BATCHES[0] == first * _BATCHES[1]:
        multiple = first // _BATCHES[0]
        return "N" if multiple == 1 else f"{multiple}N"
    return "_".join(map(str, sizes))


def _symbols(value: ir.Value) -> bool:
    return value.shape is None or any(not isinstance(size, int) for size in value.shape)


def _inputs(graph: ir.Graph, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    feeds = {}
    for value in graph.inputs:
        if value.shape is None or value.dtype is None:
            raise ValueError(f"input {value.name!r} has no declared shape")
        sizes = [_at_batch(size, batch) for size in value.shape]
        samples = value.meta.get(SAMPLES)
        draw = random.standard_normal(sizes) if samples is None else samples[np.arange(sizes[0]) % len(samples)]
        feeds[value.name or ""] = draw.astype(value.dtype.numpy())
    return feeds


def _at_batch(size: int | ir.SymbolicDim, batch: int) -> int:
    """Return a size at a batch size: ``16N`` is 16 times it, any other symbol the batch itself."""
    if isinstance(size, int):
        return size
    multiple = str(size.value).removesuffix("N")
    return int(multiple) * batch if multiple.isdigit() else batch


def probe(model: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """Return a copy with a Shape node behind every tensor, and the names tensor → shape output."""
    copy = model.clone()
    graph = copy.graph
    names: dict[str, str] = {}
    outputs: list[ir.Value] = []
    tensors = [value for value in graph.inputs if not value.is_initializer()]
    for node in list(graph):
        tensors += [value for value in node.outputs if value.name and _is_tensor(value)]
    for index, value in enumerate(tensors):
        node = ir.Node("", "Shape", [value], name=f"shape/{index}")
        shape = node.outputs[0]
        shape.name, shape.type = f"shape/{index}:0", ir.TensorType(ir.DataType.INT64)
        graph.append(node)
        names[value.name or ""] = shape.name
        outputs.append(shape)
        if value.dtype is None and not value.is_graph_input():
            outputs.append(value)  # only for its type; never fetched
    graph.outputs[:] = outputs
    for value in graph.outputs:
        value.shape = None
    return copy, names


def _is_tensor(value: ir.Value) -> bool:
    producer = value.producer()
    op = lookup(producer) if producer is not None else None
    if value.type is None and op is not None and op.makes:
        return False
    return value.type is None or isinstance(value.type, ir.TensorType)
