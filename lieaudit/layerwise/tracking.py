"""Tracks the axes of every tensor symbolically from the image input through the graph.

Sizes come from `measure_shapes`; roles only ever come from the ops in between. What an op does to a role that is not
known here makes it ``unknown``, and a tensor with an unknown axis is never taken for a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from lieaudit.errors import ModelError
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.nodes import holders
from lieaudit.layouts.axes import Axes, image_axes, plain, size_of
from lieaudit.layouts.tracker import Tracker, measured_sizes
from lieaudit.ops import lookup


def track(model: ir.Model, *, integers: Mapping[str, npt.NDArray[Any]], declared: Mapping[str, Axes]) -> Tracker:
    """Return the axes of every tensor of a normalised graph.

    Parameters
    ----------
    model
        One input (N, C, H, W); shapes measured by `lieaudit.graph.forward.shapes.measure_shapes`.
    integers
        Small integer tensors by name (`probe_integers`).
    declared
        Axes that the user states, by tensor name; they replace what was derived.
    """
    found = followers(model)
    tracker = Tracker(dependent=found.values, pixel_sized=found.sizes, integers=integers, holders=holders(model.graph))
    image = model.graph.inputs[0]
    sizes = measured_sizes(image)
    if sizes is None or len(sizes) != 4:
        raise ModelError(
            f"input {image.name!r} is no batch of images of measured size",
            reason="UNKNOWN_SHAPE",
            subject=image.name or "",
            hint="export the model with an image input (N, C, H, W) whose sizes are stated",
        )
    tracker.axes[image] = image_axes(sizes)
    if image.name in declared:
        tracker.axes[image] = declared[image.name or ""]
    for node in model.graph:
        _step(tracker, node, declared)
    return tracker


def _step(tracker: Tracker, node: ir.Node, declared: Mapping[str, Axes]) -> None:
    op = lookup(node)
    depends = any(value in tracker.dependent for value in node.outputs)
    made: list[Axes | None] = []
    if depends and op is not None and op.layout is not None:
        made = op.layout(tracker, node)
    for index, value in enumerate(node.outputs):
        if value.name in declared:
            tracker.axes[value] = declared[value.name or ""]
            continue
        axes = made[index] if index < len(made) and value not in tracker.pixel_sized else None
        sizes = measured_sizes(value)
        if axes is not None and (sizes is None or tuple(map(size_of, axes)) == sizes):
            tracker.axes[value] = axes
        elif sizes is not None:
            tracker.axes[value] = tuple(plain("unknown" if depends else "free", size) for size in sizes)
