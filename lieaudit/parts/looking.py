"""What a graph as it was given shows: all its outputs on some of the user's images, its metadata, what selects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from lieaudit.runtime.providers import find_provider

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lieaudit.graph.load import AuditableModel
    from lieaudit.images import Images
    from lieaudit.parts.placing import Array
    from lieaudit.report import ReportTensor
    from lieaudit.spec import AuditSpec

LOOKED_AT = 4
"""Images whose outputs are looked at."""

MOVES = re.compile(r"box|landmark|keypoint|kpt|pose|mesh|detection|\bdets?\b|\bloc\b", re.IGNORECASE)
"""Names of outputs that hold what moves with the picture."""

LANDMARKS = {1404: 3, 1434: 3, 936: 2, 956: 2, 195: 5, 165: 5, 63: 3}
"""Sizes of landmark vectors (FaceMesh with and without irises, BlazePose, hands) and numbers for each landmark."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output: its shape without the batch axis, and values (n, *S) where the graph was run on images."""

    name: str
    shape: tuple[int, ...]
    values: Array | None = None

    @property
    def described(self) -> str:
        """The output in words, as ``'output' (N, 3549, 85)``."""
        return f"{self.name!r} (N, {', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class Look:
    """All that is known of a graph's outputs. ``size`` is (H, W) of the image, ``metadata`` what the exporter noted."""

    outputs: tuple[Output, ...]
    size: tuple[int, int]
    metadata: Mapping[str, str] = field(default_factory=dict)
    selected_from: tuple[str, ...] = ()
    """The tensors that non-maximum suppression selects from."""


def may_move(tensors: tuple[ReportTensor, ...]) -> bool:
    """Say whether any output may hold what moves with the picture, from what the graph declares: worth a look."""
    return any(
        MOVES.search(tensor.name) or len(tensor.shape) == 3 or tensor.shape[-2:] == ("17", "3") or _landmarks(tensor)
        for tensor in tensors
    )


def _landmarks(tensor: ReportTensor) -> bool:
    sizes = [int(size) for size in tensor.shape[1:] if size.isdigit()]
    return bool(sizes) and int(np.prod(sizes)) in LANDMARKS


def look(
    source: str | Path | bytes | onnx.ModelProto, model: AuditableModel, spec: AuditSpec, images: Images | None
) -> Look:
    """Run a graph as it was given on a few images, or on noise for shapes alone; what does not run stays unknown."""
    size = (model.height, model.width)
    proto = _without_weights(source)
    metadata = {item.key: item.value for item in proto.metadata_props} if proto is not None else {}
    selected = _selected_from(proto) if proto is not None else ()
    indices = images.spread(LOOKED_AT) if images is not None else []
    rows = [images.load([index]) for index in indices] if images is not None else []
    noise = np.random.default_rng(0).uniform(0, 1, (1, model.channels, *size)).astype(np.float32)
    try:
        found = _outputs(source, model, spec, rows or [noise], indices or [0])
    except Exception:  # noqa: BLE001 - the audit itself says what does not run
        return Look((), size, metadata, selected)
    outputs = []
    for name, values in found.items():
        stacked = np.concatenate(values).astype(np.float64)
        outputs.append(Output(name, stacked.shape[1:], stacked if rows else None))
    return Look(tuple(outputs), size, metadata, selected)


def _outputs(
    source: Any, model: AuditableModel, spec: AuditSpec, rows: list[npt.NDArray[np.float32]], indices: list[int]
) -> dict[str, list[npt.NDArray[Any]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = spec.threads or 1
    given = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
    session = onnxruntime.InferenceSession(
        given if isinstance(given, bytes) else str(given), options, providers=find_provider(spec.provider).chain()
    )
    found: dict[str, list[npt.NDArray[Any]]] = {}
    names = [value.name for value in session.get_outputs()]
    batch = next(value.shape[0] for value in session.get_inputs() if value.name == model.info.input.name)
    for image, index in zip(rows, indices, strict=True):
        shown = np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if model.info.input.layout == "NHWC" else image
        shown = np.repeat(shown, batch, axis=0) if isinstance(batch, int) and batch > 1 else shown
        if model.pixel_range is not None:
            shown = np.clip(np.rint(shown), *model.pixel_range)
        further = {
            name: values[index : index + 1] if per_image else values
            for name, (values, per_image) in model.further.given.items()
        }
        feeds = {model.info.input.name: shown.astype(model.info.input.dtype), **further}
        for name, value in zip(names, session.run(names, feeds), strict=True):
            array = np.asarray(value)
            if array.dtype.kind == "f" and array.ndim > 1 and np.isfinite(array).all():
                found.setdefault(name, []).append(array[:1])
    return {name: values for name, values in found.items() if len(values) == len(rows)}


def _without_weights(source: Any) -> onnx.ModelProto | None:
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        if isinstance(source, bytes):
            return onnx.load_model_from_string(source)
        return onnx.load(str(source), load_external_data=False)
    except Exception:  # noqa: BLE001 - it was read before, and is refused there with its reason
        return None


def _selected_from(proto: onnx.ModelProto) -> tuple[str, ...]:
    found = (node for node in proto.graph.node if node.op_type == "NonMaxSuppression")
    return tuple(dict.fromkeys(name for node in found for name in node.input[:2]))
