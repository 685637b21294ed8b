"""Where an image input has its channels, and how many: read off its sizes, what consumes it, and the images."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from lieaudit.errors import ModelError
from lieaudit.ops import is_op, lookup

FEW = 4
"""Most channels of a picture: an axis of so few is theirs; a longer one only where the graph or the data say so."""

_TO_NCHW = [0, 3, 1, 2]
_AXES = {"NCHW": 1, "NHWC": 3}


def layout_of(value: ir.Value, image_shape: tuple[int, int, int] | None) -> str:
    """Return NCHW or NHWC for an input of rank 4.

    Parameters
    ----------
    value
        The input.
    image_shape
        (C, H, W) of the images, where they are arrays.

    Raises
    ------
    ModelError
        BAD_CHANNELS: more than `FEW` along both axes, and nothing tells which are the channels.
    """
    assert value.shape is not None  # noqa: S101 - rank 4
    first, last = value.shape[1], value.shape[3]
    could_be_first = not isinstance(first, int) or first <= FEW
    could_be_last = not isinstance(last, int) or last <= FEW
    if could_be_last and isinstance(last, int) and (not could_be_first or not isinstance(first, int)):
        return "NHWC"
    if could_be_first != could_be_last:
        return "NCHW"
    told = _told(value)
    if told is not None or could_be_first:
        return told or "NCHW"
    sizes = {"NCHW": first, "NHWC": last}
    fitting = [layout for layout, size in sizes.items() if image_shape is not None and size == image_shape[0]]
    if len(fitting) == 1:
        return fitting[0]
    raise ModelError(
        f"input {value.name!r} {value.shape} could have its channels first or last",
        reason="BAD_CHANNELS",
        subject=value.name or "input",
        hint="say --input-layout NCHW or NHWC",
    )


def channels_of(value: ir.Value, layout: str, image_shape: tuple[int, int, int] | None) -> int:
    """Return the number of channels of an input of rank 4: declared, or the first convolution's, or the images'.

    Raises
    ------
    ModelError
        BAD_CHANNELS: nothing says it, or the convolution that reads the image takes another number.
    """
    assert value.shape is not None  # noqa: S101 - rank 4
    declared = value.shape[_AXES[layout]]
    taken = _convolved(value) if layout == "NCHW" else None
    other = f"say --input-layout {'NHWC' if layout == 'NCHW' else 'NCHW'} if its axes were read wrongly"
    if isinstance(declared, int):
        if taken not in {None, declared}:
            raise ModelError(
                f"input {value.name!r} {value.shape} has {declared} channels in {layout}, "
                f"and the convolution that reads it takes {taken}",
                reason="BAD_CHANNELS",
                subject=value.name or "input",
                hint=other,
            )
        return declared
    if taken is not None:
        return taken
    if image_shape is not None:
        return image_shape[0]
    raise ModelError(
        f"input {value.name!r} {value.shape} leaves the number of channels open, and nothing says it",
        reason="BAD_CHANNELS",
        subject=value.name or "input",
        hint=f"give the images as an array, or {other}",
    )


def _told(value: ir.Value) -> str | None:
    for node in _readers(value):
        if is_op(node, "Conv"):
            return "NCHW"
        perm = node.attributes.get("perm")
        if is_op(node, "Transpose") and perm is not None and list(perm.as_ints()) == _TO_NCHW:
            return "NHWC"
    return None


def _convolved(value: ir.Value) -> int | None:
    for node in _readers(value):
        weight = node.inputs[1] if is_op(node, "Conv") and len(node.inputs) > 1 else None
        if weight is not None and weight.const_value is not None:
            return int(weight.const_value.shape.numpy()[1]) * node.attributes.get_int("group", 1)
    return None


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Return the ops that read an image, past those that take it pixel by pixel."""
    waiting, seen = [value], {value}
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            op = lookup(node)
            if op is not None and op.elementwise:
                fresh = [output for output in node.outputs[:1] if output not in seen]
                seen.update(fresh)
                waiting += fresh
            else:
                yield node
