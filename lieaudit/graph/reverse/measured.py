"""Sizes of every tensor of a graph as functions of its inputs' symbols, told from a few runs.

`measure_shapes` knows one symbol, the batch. A linear graph has more: directions, and what else its inputs leave open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from lieaudit.autodiff.adjoint import Extents
from lieaudit.autodiff.extents import Symbol, Symbolic, told
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.forward.shapes import not_runnable, probe
from lieaudit.graph.names import SAMPLES
from lieaudit.runtime.serialised import serialised

Axes = Mapping[tuple[str, int], Symbolic]
"""The sizes of the open axes of inputs: (name, axis) → a symbol, or a multiple of one."""


def measured(model: ir.Model, axes: Axes) -> dict[ir.Value, Extents | None]:
    """Return the sizes of the tensors of a graph; None where they follow the pixels, or cannot be told.

    Parameters
    ----------
    axes
        The inputs' open axes.
    """
    symbols = sorted({symbol for size in axes.values() for symbol, _ in size.factors})
    base = {symbol: 2 + 3 * i for i, symbol in enumerate(symbols)}
    runs: list[dict[Symbol, int]] = [base]
    runs += [{**base, symbol: base[symbol] + 1} for symbol in symbols]
    if len(symbols) > 1:
        runs.append({symbol: size + 1 for symbol, size in base.items()})
    looked, names = probe(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    try:
        with serialised(looked) as source:
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        found = [session.run(list(names.values()), _inputs(model.graph, axes, run)) for run in runs]
    except Exception as problem:
        raise not_runnable(model, problem) from problem
    places = {name: k for k, name in enumerate(names)}
    open_sizes = followers(model).sizes
    sizes: dict[ir.Value, Extents | None] = {}
    for value in [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]:
        place = places.get(value.name or "")
        if place is not None:
            sizes[value] = None if value in open_sizes else _told([run[place] for run in found], runs)
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            sizes[value] = tuple(int(size) for size in value.const_value.shape.numpy())
    return sizes


def _told(shapes: list[np.ndarray[Any, Any]], runs: list[dict[Symbol, int]]) -> Extents | None:
    sizes = [told([int(shape[axis]) for shape in shapes], runs) for axis in range(len(shapes[0]))]
    return None if None in sizes else tuple(size for size in sizes if size is not None)


def _inputs(graph: ir.Graph, axes: Axes, run: Mapping[Symbol, int]) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    feeds = {}
    for value in graph.inputs:
        name = value.name or ""
        sizes = [
            size if isinstance(size, int) else axes[name, axis].at(run) for axis, size in enumerate(value.shape or ())
        ]
        samples = value.meta.get(SAMPLES)
        draw = random.standard_normal(sizes) if samples is None else samples[np.arange(sizes[0]) % len(samples)]
        feeds[name] = draw.astype(value.dtype.numpy() if value.dtype is not None else np.float32)
    return feeds
