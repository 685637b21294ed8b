"""Which input takes the image, in which layout; and making it float32 (N, C, H, W)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from lieaudit.errors import ModelError, SpecError
from lieaudit.graph.pixels import INTEGERS
from lieaudit.spec import AuditSpec

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_MAX_CHANNELS = 4
_ASSUMED_SIZE = 224
INPUT = "lieaudit_image"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The graph input that takes the image; ``layout`` is NCHW or NHWC."""

    value: ir.Value
    layout: str
    channels: int


def choose(graph: ir.Graph, spec: AuditSpec) -> ImageInput:
    """Find the image input: the one the spec names, or the only float of rank 4, or else the only integer of rank 4.

    Raises
    ------
    SpecError
        UNKNOWN_INPUT: the spec names an input the graph does not have.
    ModelError
        NO_IMAGE_INPUT, AMBIGUOUS_INPUT, EXTRA_INPUTS or BAD_CHANNELS.
    """
    if spec.input is not None:
        named = [value for value in graph.inputs if value.name == spec.input]
        if not named:
            known = ", ".join(repr(v.name) for v in graph.inputs)
            raise SpecError(
                f"the graph has no input {spec.input!r}",
                reason="UNKNOWN_INPUT",
                subject="input",
                hint=f"it has {known}",
            )
        candidates = named
    else:
        images = [value for value in graph.inputs if _is_image(value)]
        # masks are integers too: they are no rivals of a float image
        candidates = [value for value in images if value.dtype in _FLOATS] or images
    if len(candidates) != 1 or not _is_image(candidates[0]):
        described = ", ".join(f"{v.name!r} {v.dtype} {v.shape}" for v in graph.inputs) or "none"
        several = len(candidates) > 1
        raise ModelError(
            f"{'several inputs could take' if several else 'no input takes'} an image (rank 4): {described}",
            reason="AMBIGUOUS_INPUT" if several else "NO_IMAGE_INPUT",
            subject="input",
            hint="name it with --input"
            if several
            else "export the model with one image input (N, C, H, W) or (N, H, W, C)",
        )
    value = candidates[0]
    others = [v.name for v in graph.inputs if v is not value]
    if others:
        raise ModelError(
            f"the graph has further inputs without a value: {', '.join(map(repr, others))}",
            reason="EXTRA_INPUTS",
            subject=str(others[0]),
            hint="export the model with them fixed",
        )
    layout = spec.input_layout if spec.input_layout != "auto" else _layout(value)
    channels = _channels(value, layout)
    return ImageInput(value, layout, channels)


def normalise(
    model: ir.Model, chosen: ImageInput, image_size: tuple[int, int] | None, notes: list[str]
) -> tuple[int, int]:
    """Put a float32 (N, C, H, W) input in front of the chosen one, in place; give (H, W)."""
    graph, value = model.graph, chosen.value
    assert value.shape is not None  # noqa: S101 - `choose` took only rank 4
    axes = (2, 3) if chosen.layout == "NCHW" else (1, 2)
    size = []
    for place, axis in enumerate(axes):
        dimension = value.shape[axis]
        if isinstance(dimension, int) and dimension > 0:
            size.append(dimension)
        else:
            size.append(image_size[place] if image_size else _ASSUMED_SIZE)
    if image_size is None and any(not isinstance(value.shape[axis], int) for axis in axes):
        notes.append(f"the input size is symbolic; {size[0]} × {size[1]} was assumed")
    height, width = size
    batch = value.shape[0]
    shape = ir.Shape([batch if isinstance(batch, int) and batch > 0 else "N", chosen.channels, height, width])
    if chosen.layout == "NCHW":
        value.shape = shape
        return height, width
    image = ir.Value(name=INPUT, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    transpose = ir.node("Transpose", [image], {"perm": [0, 2, 3, 1]}, name="lieaudit_to_nhwc")
    notes.append("the model takes NHWC; images are transposed inside the audited graph")
    value.replace_all_uses_with(transpose.outputs[0])
    graph.inputs[:] = [image]
    first = next(iter(graph), None)
    if first is None:
        graph.append(transpose)
    else:
        graph.insert_before(first, transpose)
    return height, width


def _is_image(value: ir.Value) -> bool:
    return value.dtype in _FLOATS | INTEGERS and value.shape is not None and len(value.shape) == 4


def _layout(value: ir.Value) -> str:
    """Read the layout off the sizes; where both would do, off what consumes the input."""
    assert value.shape is not None  # noqa: S101 - rank 4
    first, last = value.shape[1], value.shape[3]
    could_be_first = not isinstance(first, int) or 1 <= first <= _MAX_CHANNELS
    could_be_last = not isinstance(last, int) or 1 <= last <= _MAX_CHANNELS
    if could_be_last and isinstance(last, int) and (not could_be_first or not isinstance(first, int)):
        return "NHWC"
    if could_be_first and could_be_last:
        for use in value.uses():
            perm = use.node.attributes.get("perm")
            if use.node.op_type == "Transpose" and perm is not None and list(perm.as_ints()) == [0, 3, 1, 2]:
                return "NHWC"
    return "NCHW"


def _channels(value: ir.Value, layout: str) -> int:
    assert value.shape is not None  # noqa: S101 - rank 4
    channels = value.shape[1 if layout == "NCHW" else 3]
    if not isinstance(channels, int):
        # a symbolic channel axis: the first convolution's weight knows
        for use in value.uses():
            weight = use.node.inputs[1] if use.node.op_type == "Conv" and len(use.node.inputs) > 1 else None
            if weight is not None and weight.const_value is not None:
                group = use.node.attributes.get("group")
                channels = int(weight.const_value.shape.numpy()[1]) * (group.as_int() if group is not None else 1)
    if not isinstance(channels, int) or not 1 <= channels <= _MAX_CHANNELS:
        raise ModelError(
            f"input {value.name!r} {value.shape} has {channels} channels in {layout}; images have 1 to {_MAX_CHANNELS}",
            reason="BAD_CHANNELS",
            subject=value.name or "input",
            hint="say --input-layout NHWC or NCHW if the axes were read wrongly",
        )
    return channels
