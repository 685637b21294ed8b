"""Inputs of a graph beside the image: which need a value, where it comes from, and how it reaches the graph.

A value that is the same for all images becomes a constant of the audited graph. One that differs stays an input, fed
with the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.errors import ModelError, SpecError
from lieaudit.feeds import Further, described
from lieaudit.graph.image_input import shown
from lieaudit.graph.names import SAMPLES

if TYPE_CHECKING:
    from lieaudit.data import Dataset
    from lieaudit.report import ReportFeed
    from lieaudit.spec import AuditSpec

Array = npt.NDArray[Any]
_SAMPLES = 8
"""Images whose values stand for all where only the graph's shapes are asked for."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What was fed.

    Attributes
    ----------
    per_image
        The inputs that stay inputs, and their values, (N, …) each.
    feeds
        What the report says of every value.
    given
        Every value as the graph takes it, by the input's name, and whether it holds one row per image.
    """

    per_image: Mapping[ir.Value, Array]
    feeds: tuple[ReportFeed, ...]
    given: Mapping[str, tuple[Array, bool]]

    def settled(self, graph: ir.Graph) -> Further:
        """Drop the inputs that the audited output does not read, in place, and return the values of the others."""
        read = {value: array for value, array in self.per_image.items() if value.uses()}
        graph.inputs[:] = [value for value in graph.inputs if value in read or value not in self.per_image]
        for value, array in read.items():
            value.meta[SAMPLES] = array[:_SAMPLES]
        # a float16 input was fed float16 values and takes them as float32 by now
        values = {v.name or "": array.astype(v.dtype.numpy()) for v, array in read.items() if v.dtype is not None}
        return Further(values, self.feeds, self.given)


def bind(graph: ir.Graph, image: ir.Value, spec: AuditSpec, data: Dataset | None, notes: list[str]) -> Bound:
    """Return every input but the image its value, or drop it where nothing reads it, in place.

    Values come from ``spec.feeds`` and from arrays of the data, in this order.

    Raises
    ------
    SpecError
        UNKNOWN_INPUT: a value for an input that the graph does not have, or for the image.
    ModelError
        EXTRA_INPUTS: an input without a value.
    SpecError, DataError
        FEED_MISMATCH: a value that does not fit its input's shape or type.
    """
    _check_names(graph, image, spec)
    per_image: dict[ir.Value, Array] = {}
    said: list[ReportFeed] = []
    given: dict[str, tuple[Array, bool]] = {}
    for value in [v for v in graph.inputs if v is not image]:
        if not value.uses() and not value.is_graph_output():
            notes.append(f"nothing that is audited reads input {value.name!r}; it got no value")
            continue
        array, source = _given(value, image, graph, spec, data)
        count = min(data.count, spec.max_images or data.count) if data is not None else None
        fitted, differs = _fitted(value, image, array, data.count if data is not None else None)
        given[value.name or ""] = fitted, differs
        said.append(described(value.name or "", fitted, source, per_image=differs))
        if differs and not (fitted[:count] == fitted[:1]).all():
            per_image[value] = fitted
        else:
            _put(graph, value, fitted[:1] if differs else fitted)
    graph.inputs[:] = [image, *per_image]
    return Bound(per_image, tuple(said), given)


def _check_names(graph: ir.Graph, image: ir.Value, spec: AuditSpec) -> None:
    names = [value.name or "" for value in graph.inputs if value is not image]
    for name in spec.feeds:
        if name == image.name:
            raise SpecError(
                f"feeds.{name}: input {name!r} takes the images",
                reason="UNKNOWN_INPUT",
                subject=f"feeds.{name}",
                hint="leave it out, or say with --input which input takes the images",
            )
        if name not in names:
            others = ", ".join(map(repr, names)) or "none"
            raise SpecError(
                f"feeds.{name}: the graph has no input {name!r} beside the image",
                reason="UNKNOWN_INPUT",
                subject=f"feeds.{name}",
                hint=f"its further inputs: {others}",
            )


def _given(
    value: ir.Value, image: ir.Value, graph: ir.Graph, spec: AuditSpec, data: Dataset | None
) -> tuple[Array, str]:
    """Return the value of an input, and where it is from."""
    name = value.name or ""
    if name in spec.feeds:
        return spec.feeds[name].array(), "spec"
    array = data.array(name) if data is not None else None
    if array is not None:
        return array, "data"
    others = "" if len(graph.outputs) == 1 else ", or --output NAME for an output that does not need it"
    raise ModelError(
        f"the graph takes input {shown(value)} beside the image {image.name!r}, and no value is given for it",
        reason="EXTRA_INPUTS",
        subject=name,
        hint=f"give --feed {name}=VALUE or --feed {name}=FILE.npy, or an array {name!r} in the .npz{others}",
    )


def _fitted(value: ir.Value, image: ir.Value, array: Array, count: int | None) -> tuple[Array, bool]:
    """Return a value as its input takes it, and whether its first axis holds one for each of ``count`` images."""
    array = _typed(value, array)
    if value.shape is None:
        return array, False
    sizes = list(value.shape)
    if sizes and _has_batch(value, image):
        if array.ndim == len(sizes) and count is not None and len(array) == count and _fits(sizes[1:], array.shape[1:]):
            return array, True
        if _fits(sizes[1:], array.shape):
            return array[None], False
        if array.shape[:1] == (1,) and _fits(sizes[1:], array.shape[1:]):
            return array, False
    elif _fits(sizes, array.shape):
        return array, False
    elif array.ndim == 0 and all(size == 1 for size in sizes):
        return array.reshape((1,) * len(sizes)), False
    per_image = f", and there are {count} images" if count is not None else ""
    raise SpecError(
        f"feeds.{value.name}: a value of shape {array.shape} does not fit input {shown(value)}{per_image}",
        reason="FEED_MISMATCH",
        subject=f"feeds.{value.name}",
        hint="give one value for all images, or an array whose first axis is the number of images",
    )


def _has_batch(value: ir.Value, image: ir.Value) -> bool:
    """Say whether the first axis is the image's batch axis: the same symbol, both nameless, or the same fixed size."""
    assert value.shape is not None  # noqa: S101 - asked before
    mine, theirs = value.shape[0], image.shape[0] if image.shape is not None else None
    if isinstance(mine, int) or isinstance(theirs, int):
        return mine == theirs
    return mine.value == (theirs.value if theirs is not None else None)


def _fits(sizes: Sequence[int | ir.SymbolicDim], shape: Sequence[int]) -> bool:
    return len(sizes) == len(shape) and all(
        not isinstance(size, int) or size == found for size, found in zip(sizes, shape, strict=True)
    )


def _typed(value: ir.Value, array: Array) -> Array:
    """Return the array as the input's type; floats may be rounded, nothing else may change."""
    if not isinstance(value.type, ir.TensorType) or value.dtype is None or value.dtype == ir.DataType.STRING:
        raise ModelError(
            f"input {value.name!r} takes {value.type}, for which no value can be given",
            reason="EXTRA_INPUTS",
            subject=value.name or "",
            hint="export the model without it",
        )
    wanted = value.dtype.numpy()
    if array.dtype.kind in "biuf":
        with np.errstate(all="ignore"):
            made = array.astype(wanted)
            back = made.astype(array.dtype)
        rounded = array.dtype.kind == "f" and value.dtype.is_floating_point()
        if (back == array).all() or (rounded and np.isfinite(made[np.isfinite(array)].astype(np.float64)).all()):
            return made
    raise SpecError(
        f"feeds.{value.name}: its value is {array.dtype}, and input {shown(value)} does not hold it without change",
        reason="FEED_MISMATCH",
        subject=f"feeds.{value.name}",
        hint=f"give {np.dtype(wanted).name} values",
    )


def _put(graph: ir.Graph, value: ir.Value, array: Array) -> None:
    """Make the input a constant."""
    name = value.name or ""
    graph.inputs.remove(value)
    constant = ir.Value(name=name, const_value=ir.tensor(np.asarray(array, order="C"), dtype=value.dtype, name=name))
    constant.type, constant.shape = value.type, ir.Shape(array.shape)
    value.replace_all_uses_with(constant, replace_graph_outputs=True)
    value.name = None
    graph.register_initializer(constant)
