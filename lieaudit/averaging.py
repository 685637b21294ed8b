"""Mending a classifier without training: the ONNX graph whose logits are averaged over shifts of the image.

Averaging a function over a group makes it invariant (the Reynolds operator); over a few small shifts it removes part of
what sampling at fixed places adds. The graph holds one copy of the network per shift, with shared weights.
"""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lieaudit.errors import ModelError, SpecError
from lieaudit.graph import image_input, output
from lieaudit.graph.load import load_model
from lieaudit.graph.read import read_model
from lieaudit.ops import lookup
from lieaudit.runtime.session import Session
from lieaudit.spec import AuditSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from lieaudit.graph.load import AuditableModel

MOST_COPIES = 64
_DOMAIN = "lieaudit"
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Shifts:
    """The orbit of shifts by 0 … ``down`` − 1 pixels down and 0 … ``across`` − 1 across."""

    down: int
    across: int

    @classmethod
    def parse(cls, text: str) -> Shifts:
        """Read ``shifts:2x2``. Raises `SpecError` INVALID_SPEC."""
        found = re.fullmatch(r"shifts:(\d+)x(\d+)", text)
        down, across = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 2 <= down * across <= MOST_COPIES:
            raise SpecError(
                f"average: {text!r} is not shifts:HxW with 2 to {MOST_COPIES} shifts in all",
                reason="INVALID_SPEC",
                subject="average",
                hint="shifts:2x2 averages over moves of 0 and 1 pixel both ways",
            )
        return cls(down, across)

    def __len__(self) -> int:
        return self.down * self.across

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(itertools.product(range(self.down), range(self.across)))


def average(
    model: str | Path | bytes | onnx.ModelProto, shifts: Shifts, spec: AuditSpec | None = None
) -> onnx.ModelProto:
    """Return the model whose logits are the mean over the shifted images; inputs and outputs keep names and shapes.

    An image shifts by whole pixels; what enters is the image reflected about its edge pixel. A final Softmax stays
    behind the mean, so that probabilities stay probabilities.

    Parameters
    ----------
    model
        An ONNX classifier: a path, bytes or a ModelProto.
    shifts
        The orbit.
    spec
        ``input``, ``output``, ``input_layout``, ``head`` where the graph leaves a choice.

    Raises
    ------
    ModelError
        AVERAGE_NOT_APPLICABLE: the output is no vector of class scores (a map or points move with the image, and a mean
        over shifts would blur them); or what `load_model` raises.
    """
    spec = spec or AuditSpec()
    _check_applicable(load_model(model, spec))
    averaged = read_model(model).model
    common_passes.RemoveInitializersFromInputsPass()(averaged)
    common_passes.InlinePass()(averaged)
    graph = averaged.graph
    chosen = image_input.choose(graph, spec)
    logits = _logits(output.choose(graph, spec, []))
    if logits.dtype is not None and not logits.dtype.is_floating_point():
        raise ModelError(
            f"output {logits.name!r} holds {logits.dtype}, whose mean would be rounded",
            reason="AVERAGE_NOT_APPLICABLE",
            subject=logits.name or "output",
            hint="average the model in floats, and quantise what comes out",
        )
    network, operands = _as_function(averaged, chosen.value, logits)
    axes = (2, 3) if chosen.layout == "NCHW" else (1, 2)
    first = next(iter(graph))
    total: ir.Value | None = None
    for shift in shifts:
        nodes = _shift(chosen.value, axes, shift, graph)
        moved = nodes[-1].outputs[0] if nodes else chosen.value
        nodes.append(ir.node(network.name, [moved, *operands], domain=network.domain))
        if total is not None:
            nodes.append(ir.node("Add", [total, nodes[-1].outputs[0]]))
        total = nodes[-1].outputs[0]
        graph.insert_before(first, nodes)
    mean = ir.node("Mul", [total, _number(graph, 1 / len(shifts), logits)])
    graph.insert_before(first, [mean])
    _take_the_place(mean.outputs[0], logits)
    common_passes.InlinePass()(averaged)
    for tidy in (
        common_passes.RemoveUnusedNodesPass(),
        common_passes.TopologicalSortPass(),
        common_passes.NameFixPass(),
        common_passes.CheckerPass(),
    ):
        tidy(averaged)
    return ir.to_proto(averaged)


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How many times as long a model takes as another: the median over rounds, and its range without the extremes."""

    median: float
    low: float
    high: float


def slowdown(
    repaired: onnx.ModelProto,
    original: str | Path | bytes | onnx.ModelProto,
    spec: AuditSpec | None = None,
    *,
    rounds: int = 15,
) -> Slowdown:
    """Time both models on one image, in turn, on one thread, by its CPU time: what else the machine does is not in it.

    ``spec`` is that of `average`. Raises `ModelError` as `load_model` does.
    """
    loaded = [load_model(model, spec) for model in (original, repaired)]
    with Session(loaded[0].model, threads=1) as first, Session(loaded[1].model, threads=1) as second:
        feeds = [
            {m.input_name: np.zeros((1, m.channels, m.height, m.width), np.float32), **m.further.rows([0])}
            for m in loaded
        ]
        times = np.empty((rounds + 2, 2))
        for row in times:
            for i, session in enumerate((first, second)):
                started = time.thread_time()
                session.run(feeds[i])
                row[i] = time.thread_time() - started
    ratios = np.sort(times[2:, 1] / times[2:, 0])  # the first two rounds warm up
    cut = rounds // 5
    return Slowdown(float(np.median(ratios)), float(ratios[cut]), float(ratios[-1 - cut]))


def _check_applicable(loaded: AuditableModel) -> None:
    if loaded.head.spatial or len(loaded.output_shape) != 1 or loaded.head.function == "identity":
        raise ModelError(
            f"output {loaded.info.output.name!r} is no vector of class scores, and a mean over shifts would blur it",
            reason="AVERAGE_NOT_APPLICABLE",
            subject=loaded.info.output.name,
            hint="averaging is for classifiers; say --head softmax or --head sigmoid where this is one",
        )


def _logits(value: ir.Value) -> ir.Value:
    """Return what a final Softmax, LogSoftmax or Sigmoid reads, or the value itself."""
    node = value.producer()
    op = lookup(node) if node is not None else None
    while node is not None and op is not None and op.view and node.inputs[0] is not None:
        node = node.inputs[0].producer()
        op = lookup(node) if node is not None else None
    if node is not None and op is not None and op.head and node.inputs[0] is not None:
        return node.inputs[0]
    return value


def _as_function(model: ir.Model, image: ir.Value, logits: ir.Value) -> tuple[ir.Function, list[ir.Value]]:
    """Make the network up to the logits a function of the image and of its operands, in the model; return both.

    Weights are operands, so that every call shares them.
    """
    graph = model.graph
    inputs = [v.name or "" for v in graph.inputs]
    part = ir.convenience.extract(graph, inputs, [logits.name or ""])
    used = [v for v in part.inputs if v.uses() and v.name != image.name]
    weights = list(part.initializers.values())
    for value in weights:
        part.initializers.pop(value.name or "")
        value.const_value = None
    moving = [v for v in part.inputs if v.name == image.name]
    part.inputs[:] = [*moving, *used, *weights]
    function = ir.Function(_DOMAIN, "network", graph=part, attributes=[])
    model.functions[function.identifier()] = function
    model.opset_imports[_DOMAIN] = 1
    known = {v.name: v for v in [*graph.inputs, *graph.initializers.values()]}
    return function, [known[v.name] for v in (*used, *weights)]


def _shift(image: ir.Value, axes: tuple[int, int], shift: tuple[int, int], graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes that move the image by whole pixels, what enters reflected about the edge pixel."""
    if shift == (0, 0):
        return []
    opset = graph.opset_imports.get("", 1)
    pads = [0] * 8
    for axis, by in zip(axes, shift, strict=True):
        pads[axis] = by
    starts, ends = [0, 0], [-by or _FAR for by in shift]
    if opset < 11:  # Pad took its pads as an attribute, Slice its places up to opset 9
        pad = ir.node("Pad", [image], {"mode": "reflect", "pads": pads})
    else:
        pad = ir.node("Pad", [image, _ints(graph, pads)], {"mode": "reflect"})
    if opset < 10:
        cut = ir.node("Slice", [pad.outputs[0]], {"starts": starts, "ends": ends, "axes": list(axes)})
    else:
        cut = ir.node("Slice", [pad.outputs[0], *(_ints(graph, x) for x in (starts, ends, list(axes)))])
    return [pad, cut]


def _take_the_place(mean: ir.Value, logits: ir.Value) -> None:
    """Let everything that reads the logits read their mean, under the same name."""
    ir.convenience.replace_all_uses_with(logits, mean, replace_graph_outputs=True)
    if mean.is_graph_output():
        mean.name, logits.name = logits.name, f"{logits.name}.unshifted"
        mean.shape, mean.type = logits.shape, logits.type


def _ints(graph: ir.Graph, values: list[int]) -> ir.Value:
    return _initializer(graph, np.array(values, np.int64))


def _number(graph: ir.Graph, value: float, like: ir.Value) -> ir.Value:
    dtype = like.dtype.numpy() if like.dtype is not None else np.dtype(np.float32)
    return _initializer(graph, np.array(value, dtype))


def _initializer(graph: ir.Graph, array: npt.NDArray[Any]) -> ir.Value:
    serial = next(i for i in itertools.count() if f"average_{i}" not in graph.initializers)
    value = ir.Value(name=f"average_{serial}", const_value=ir.Tensor(array, name=f"average_{serial}"))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value
