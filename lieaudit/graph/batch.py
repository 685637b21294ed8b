"""The batch axis: made symbolic where the graph allows, and checked, by running it, to keep rows apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lieaudit.errors import LieauditError, ModelError
from lieaudit.graph.forward.pixel_sizes import decided_by_pixels
from lieaudit.graph.inference import infer_shapes
from lieaudit.graph.names import PREFIX
from lieaudit.graph.rows_first import one_first, rows_first
from lieaudit.graph.selection import size_varies
from lieaudit.ops import is_op
from lieaudit.runtime.session import Session

_ROWS = 3
AMPLITUDES = (0.5, 128.0)
"""Of normalised images and of raw pixels: a quantised model of raw pixels gives one answer to all of the first."""
_SEED = 20230501
# Rows of a batch take other kernels and blockings than a single row: rounding differs by some 1e-6 of the output's
# scale, while a batch axis that leaks into features changes whole digits.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Batchable:
    """A model whose batch axis was checked.

    Attributes
    ----------
    model
        With a symbolic batch axis if its rows are independent, else for N = 1.
    batchable
        Whether they are.
    output_shape
        Without the batch axis.
    output_dtype
        As onnxruntime gives it.
    freed
        The batch size above 1 that the graph declares and does not need; None where it declares none.
    alike
        Images of noise of all sizes gave the same output.
    """

    model: ir.Model
    batchable: bool
    output_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]
    freed: int | None = None
    alike: bool = False


def make_batchable(
    model: ir.Model, image_shape: tuple[int, int, int], further: Mapping[str, npt.NDArray[Any]] | None = None
) -> Batchable:
    """Free the batch axis where its rows are independent, and put it first in the output, wherever it was.

    Parameters
    ----------
    model
        Its first input takes the images, the others what comes with each of them.
    image_shape
        (C, H, W).
    further
        Values of the other inputs by name, each (N, …) with one row per image.

    Raises
    ------
    ModelError
        FIXED_BATCH: a batch size above 1 that the graph does not let go of. NONDETERMINISTIC: two runs on one image
        differ. OUTPUT_SIZE_VARIES. RUN_FAILED, MODEL_REFUSED: the graph does not run.
    """
    noise = np.random.default_rng(_SEED).standard_normal((_ROWS, *image_shape))
    others = {name: values[np.arange(_ROWS) % len(values)] for name, values in (further or {}).items()}
    for amplitude in AMPLITUDES:
        found, rows = _checked(model, (amplitude * noise).astype(np.float32), others)
        if not np.isfinite(rows).all() or (rows != rows[:1]).any():
            return found
    return replace(found, alike=True)


def _checked(
    model: ir.Model, images: npt.NDArray[np.float32], further: Mapping[str, npt.NDArray[Any]]
) -> tuple[Batchable, npt.NDArray[Any]]:
    """Return what `make_batchable` does, and the outputs of the images run one by one."""
    declared = _batch_size(model)
    feeds = {model.graph.inputs[0].name or "": images, **further}
    single = _with_batch(model, 1) if declared in {None, 1} else None
    outputs: list[npt.NDArray[Any]] = []
    failure: LieauditError | None = None
    for candidate in _candidates(model, declared):
        try:
            with Session(candidate) as session:
                batch = _run(session, feeds)
                if single is None:
                    outputs = _one_by_one(session, feeds)
            if single is not None and not outputs:
                outputs = _run_single(single, feeds)
        except LieauditError as problem:
            failure = problem
            continue
        first = rows_first(outputs[0].shape, batch.shape, _ROWS)
        if first is None:
            continue
        rows = np.concatenate([first.of(output) for output in outputs])
        if _close(first.of(batch), rows):
            first.put(candidate.graph)
            freed = None if declared in {None, 1} else declared
            return Batchable(candidate, True, rows.shape[1:], rows.dtype, freed), rows  # noqa: FBT003 - a field
    if single is None:
        raise ModelError(
            f"input {model.graph.inputs[0].name!r} takes {declared} images at once, and the graph needs that number",
            reason="FIXED_BATCH",
            subject=model.graph.inputs[0].name or "input",
            hint="export the model with a dynamic batch axis, or with batch size 1",
        ) from failure
    outputs = outputs or _run_single(single, feeds)
    first = one_first(outputs[0].shape)
    rows = np.concatenate([first.of(output) for output in outputs])
    first.put(single.graph)
    return Batchable(single, False, rows.shape[1:], rows.dtype), rows  # noqa: FBT003 - a field


def _candidates(model: ir.Model, declared: int | None) -> Iterable[ir.Model]:
    if decided_by_pixels(model) is not None:
        return  # noise need not show that the images of a batch decide together
    if declared is None:
        yield _with_batch(model, "N")
    relaxed = _with_batch(model, "N")
    if _relax_reshapes(relaxed, declared or 1) or declared is not None:
        yield relaxed
    elsewhere = _with_batch(model, "N")
    if _relax_reshapes(elsewhere, declared or 1, anywhere=True):
        yield elsewhere


def _batch_size(model: ir.Model) -> int | None:
    shape = model.graph.inputs[0].shape
    size = shape[0] if shape is not None else None
    return size if isinstance(size, int) else None


def _with_batch(model: ir.Model, size: int | str) -> ir.Model:
    """Return a copy with this batch axis; intermediate shapes are inferred anew."""
    copy = model.clone()
    for value in copy.graph.inputs:
        assert value.shape is not None  # noqa: S101 - `image_input` and `further` gave them one
        value.shape = ir.Shape([size, *list(value.shape)[1:]])
    _infer_shapes(copy)
    return copy


def _infer_shapes(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.shape = None
    # strict mode off: what cannot be inferred stays unknown
    infer_shapes(model)


def _relax_reshapes(model: ir.Model, batch: int, *, anywhere: bool = False) -> bool:
    """Let Reshapes of image-dependent tensors infer a size that was frozen to the batch size.

    The leading one, or else, with ``anywhere``, the first that equals it.
    """
    dependent = set(model.graph.inputs)
    changed = False
    for node in model.graph:
        if not any(value in dependent for value in node.inputs if value is not None):
            continue
        dependent.update(node.outputs)
        if not is_op(node, "Reshape") or node.inputs[0] not in dependent:
            continue
        shape = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
        if shape is None:
            continue
        sizes = shape.numpy().astype(np.int64).copy()
        frozen = np.flatnonzero(sizes == batch)
        if not frozen.size or (frozen[0] > 0 and not (anywhere and sizes[0] > 0)):
            continue
        # 0 copies the input's own axis of that place where another axis is inferred already
        sizes[frozen[0]] = 0 if -1 in sizes else -1
        constant = ir.Value(name=f"{PREFIX}shape_{node.outputs[0].name}", const_value=ir.tensor(sizes))
        constant.shape, constant.type = ir.Shape(sizes.shape), ir.TensorType(ir.DataType.INT64)
        model.graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        changed = True
    if changed:
        common_passes.RemoveUnusedNodesPass()(model)
        _infer_shapes(model)
    return changed


def _run(session: Session, feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.asarray(session.run(feeds)[0])


def _one_by_one(session: Session, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    return [_run(session, {name: values[i : i + 1] for name, values in feeds.items()}) for i in range(_ROWS)]


def _run_single(model: ir.Model, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    name = model.graph.outputs[0].name or "output"
    with Session(model) as session:
        outputs = _one_by_one(session, feeds)
        again = _run(session, {name: values[:1] for name, values in feeds.items()})
    sizes = list(dict.fromkeys(output.shape for output in outputs))
    if len(sizes) > 1:
        raise size_varies(name, sizes[:2])
    if not np.array_equal(outputs[0], again, equal_nan=True):
        raise ModelError(
            "two runs on the same image give different outputs",
            reason="NONDETERMINISTIC",
            subject=name,
            hint="export the model in evaluation mode, without random ops",
        )
    return outputs


def _close(batch: npt.NDArray[Any], rows: npt.NDArray[Any]) -> bool:
    if batch.shape != rows.shape:
        return False
    scale = float(np.nanmax(np.abs(rows), initial=0.0))
    return bool(np.allclose(batch, rows, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True))
