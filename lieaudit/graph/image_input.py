"""Which input takes the image, in which layout and size; and making it float32 (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from lieaudit.errors import ModelError, SpecError
from lieaudit.graph.image_layout import FEW, channels_of, layout_of
from lieaudit.graph.names import PREFIX
from lieaudit.graph.pixels import INTEGERS

if TYPE_CHECKING:
    from lieaudit.data import Dataset
    from lieaudit.report import ReportTensor
    from lieaudit.spec import AuditSpec

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
INPUT = f"{PREFIX}image"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The graph input that takes the image; ``layout`` is NCHW or NHWC."""

    value: ir.Value
    layout: str
    channels: int


def choose(graph: ir.Graph, spec: AuditSpec, data: Dataset | None = None) -> ImageInput:
    """Find the image input: the one the spec names, or the only float of rank 4, or else the only integer of rank 4.

    Inputs that no node reads, or that have a value (`lieaudit.graph.further`), are no candidates.

    Raises
    ------
    SpecError
        UNKNOWN_INPUT: the spec names an input the graph does not have.
    ModelError
        NO_IMAGE_INPUT, AMBIGUOUS_INPUT or BAD_CHANNELS.
    """
    for value in graph.inputs:
        _open_sizes(value)
    candidates = _candidates(graph, spec, data)
    if len(candidates) != 1 or not _is_image(candidates[0]):
        raise _no_image(graph, candidates, spec)
    value = candidates[0]
    if value.shape is None:
        value.shape = ir.Shape([None] * 4)
    image_shape = data.image_shape if data is not None else None
    layout = spec.input_layout if spec.input_layout != "auto" else layout_of(value, image_shape)
    return ImageInput(value, layout, channels_of(value, layout, image_shape))


def size_of(chosen: ImageInput, spec: AuditSpec, data: Dataset | None) -> tuple[int, int]:
    """Return (H, W): the graph's where it fixes them, else those of the images, else ``spec.size``.

    Raises
    ------
    SpecError
        SIZE_MISMATCH: ``spec.size`` contradicts the graph or the images.
    ModelError
        UNKNOWN_SIZE: the graph leaves them open and nothing says them.
    """
    value = chosen.value
    assert value.shape is not None  # noqa: S101 - `choose` gave it one
    declared = [value.shape[axis] for axis in ((2, 3) if chosen.layout == "NCHW" else (1, 2))]
    given = data.size_after(spec.preprocessing) if data is not None else None
    if spec.size:
        fixed = any(
            isinstance(wanted, int) and wanted != asked for wanted, asked in zip(declared, spec.size, strict=True)
        )
        if fixed or (given is not None and given != spec.size):
            what = (
                f"input {value.name!r} takes {_times(declared)}" if fixed else f"the images are {_times(given or ())}"
            )
            raise SpecError(
                f"size: {_times(spec.size)} is asked for, and {what}",
                reason="SIZE_MISMATCH",
                subject="size",
                hint="leave --size out",
            )
    found = given or spec.size
    sizes = [size if isinstance(size, int) else (found[i] if found else 0) for i, size in enumerate(declared)]
    if 0 in sizes:
        several = "" if data is None else ", and the images are of several sizes"
        raise ModelError(
            f"input {value.name!r} leaves height and width open{several}",
            reason="UNKNOWN_SIZE",
            subject=value.name or "input",
            hint="say --size HxW, for example --size 224x224"
            if data is None
            else "bring them to one size with --preprocess …,resize=224,crop=224, or say --size HxW",
        )
    return sizes[0], sizes[1]


def at_size(problem: ModelError, declared: ReportTensor, size: tuple[int, int]) -> ModelError:
    """Say of a graph that leaves the size open and does not run at this one that this may be why."""
    open_sizes = not all(part.isdigit() for part in declared.shape[1:])
    if problem.reason not in {"RUN_FAILED", "MODEL_REFUSED"} or not open_sizes:
        return problem
    return ModelError(
        f"input {declared.name!r} leaves height and width open, and at {_times(size)} {problem.message}",
        reason=problem.reason,
        subject=declared.name,
        hint="bring the images to the size that the model was made for with --preprocess …,resize=S,crop=S",
    )


def normalise(model: ir.Model, chosen: ImageInput, size: tuple[int, int], notes: list[str]) -> None:
    """Put a float32 (N, C, H, W) input in the place of the chosen one, in place."""
    graph, value = model.graph, chosen.value
    assert value.shape is not None  # noqa: S101 - `choose` gave it one
    batch = value.shape[0]
    shape = ir.Shape([batch if isinstance(batch, int) else "N", chosen.channels, *size])
    if chosen.channels > FEW:
        notes.append(
            f"the images have {chosen.channels} channels: brightness scales all of them, and preprocessing acts on "
            "each as given"
        )
    if chosen.layout == "NCHW":
        value.shape = shape
        return
    image = ir.Value(name=INPUT, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    transpose = ir.node("Transpose", [image], {"perm": [0, 2, 3, 1]}, name=f"{PREFIX}to_nhwc")
    notes.append("the model takes NHWC; images are transposed inside the audited graph")
    value.replace_all_uses_with(transpose.outputs[0])
    graph.inputs[graph.inputs.index(value)] = image
    first = next(iter(graph), None)
    if first is None:
        graph.append(transpose)
    else:
        graph.insert_before(first, transpose)


def _candidates(graph: ir.Graph, spec: AuditSpec, data: Dataset | None) -> list[ir.Value]:
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
        return named
    images = [value for value in graph.inputs if _is_image(value)]
    images = [value for value in images if value.uses() or value.is_graph_output()] or images
    fed = [v for v in images if v.name in spec.feeds or (data is not None and data.array(v.name or "") is not None)]
    free = [value for value in images if value not in fed] or images
    # masks are integers too: they are no rivals of a float image; nor is what declares no shape one of what does
    kinds: tuple[Callable[[ir.Value], bool], ...] = (
        lambda v: v.dtype in _FLOATS and v.shape is not None,
        lambda v: v.shape is not None,
        lambda v: v.dtype in _FLOATS,
    )
    for is_kind in kinds:
        if found := [value for value in free if is_kind(value)]:
            return found
    return free


def _no_image(graph: ir.Graph, candidates: list[ir.Value], spec: AuditSpec) -> ModelError:
    if spec.input is not None:
        return ModelError(
            f"input {shown(candidates[0])} takes no image: images are floats or integers with 4 axes",
            reason="NO_IMAGE_INPUT",
            subject="input",
            hint="name another one with --input",
        )
    several = len(candidates) > 1
    described = "; ".join(map(shown, candidates or graph.inputs)) or "none"
    return ModelError(
        f"several inputs could take the images: {described}"
        if several
        else f"no input takes images, (N, C, H, W) or (N, H, W, C): {described}",
        reason="AMBIGUOUS_INPUT" if several else "NO_IMAGE_INPUT",
        subject="input",
        hint="name the one of the images with --input, and give the others a value with --feed NAME=VALUE"
        if several
        else "export the model with an image input",
    )


def shown(value: ir.Value) -> str:
    """Return an input as messages show it: name, dtype and shape."""
    kind = value.dtype.numpy().name if value.dtype is not None else str(value.type)
    shape = "of unknown shape" if value.shape is None else f"({', '.join(str(size) for size in value.shape)})"
    return f"{value.name!r} {kind} {shape}"


def _is_image(value: ir.Value) -> bool:
    return value.dtype in _FLOATS | INTEGERS and (value.shape is None or len(value.shape) == 4)


def _open_sizes(value: ir.Value) -> None:
    """Take sizes of 0 and below, which some exporters write where a size is open, for what they mean, in place."""
    if value.shape is not None and any(isinstance(size, int) and size < 1 for size in value.shape):
        value.shape = ir.Shape([None if isinstance(size, int) and size < 1 else size for size in value.shape])


def _times(size: Sequence[object]) -> str:
    return "×".join(map(str, size))
