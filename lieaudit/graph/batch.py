"""The batch axis: made symbolic where the graph allows, and checked, by running it, to keep rows apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lieaudit.errors import LieauditError, ModelError
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
    alike
        Images of noise of all sizes gave the same output.
    """

    model: ir.Model
    batchable: bool
    output_shape: tuple[int, ...]
    alike: bool = False


def make_batchable(model: ir.Model, image_shape: tuple[int, int, int]) -> Batchable:
    """Free the batch axis where its rows are independent.

    Raises
    ------
    ModelError
        FIXED_BATCH: a batch size above 1 that the graph does not let go of. NONDETERMINISTIC: two runs on one image
        differ. RUN_FAILED, MODEL_REFUSED: the graph does not run.
    """
    noise = np.random.default_rng(_SEED).standard_normal((_ROWS, *image_shape))
    for amplitude in AMPLITUDES:
        found, rows = _checked(model, (amplitude * noise).astype(np.float32))
        if not np.isfinite(rows).all() or (rows != rows[:1]).any():
            return found
    return replace(found, alike=True)


def _checked(model: ir.Model, images: npt.NDArray[np.float32]) -> tuple[Batchable, npt.NDArray[np.float32]]:
    """Give what `make_batchable` does, and the outputs of the images run one by one."""
    declared = _batch_size(model)
    single = _with_batch(model, 1) if declared in {None, 1} else None
    failure: LieauditError | None = None
    for candidate in _candidates(model, declared):
        try:
            with Session(candidate) as session:
                batch = _run(session, images)
                if single is None:
                    rows = np.concatenate([_run(session, image[None]) for image in images])
            if single is not None:
                rows = _run_single(single, images)
        except LieauditError as problem:
            failure = problem
            continue
        if batch.shape == rows.shape and _close(batch, rows):
            return Batchable(candidate, batchable=True, output_shape=tuple(batch.shape[1:])), rows
    if single is None:
        raise ModelError(
            f"the batch size is fixed to {declared} inside the graph",
            reason="FIXED_BATCH",
            subject=model.graph.inputs[0].name or "input",
            hint="export the model with a dynamic batch axis, or with batch size 1",
        ) from failure
    rows = _run_single(single, images)
    return Batchable(single, batchable=False, output_shape=tuple(rows.shape[1:])), rows


def _candidates(model: ir.Model, declared: int | None) -> Iterable[ir.Model]:
    if declared is None:
        yield _with_batch(model, "N")
    relaxed = _with_batch(model, "N")
    if _relax_reshapes(relaxed, declared or 1) or declared is not None:
        yield relaxed


def _batch_size(model: ir.Model) -> int | None:
    shape = model.graph.inputs[0].shape
    size = shape[0] if shape is not None else None
    return size if isinstance(size, int) else None


def _with_batch(model: ir.Model, size: int | str) -> ir.Model:
    """Give a copy with this batch axis; intermediate shapes are inferred anew."""
    copy = model.clone()
    value = copy.graph.inputs[0]
    assert value.shape is not None  # noqa: S101 - image_input gave it one
    value.shape = ir.Shape([size, *list(value.shape)[1:]])
    _infer_shapes(copy)
    return copy


def _infer_shapes(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.shape = None
    # strict mode off: what cannot be inferred stays unknown
    common_passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _relax_reshapes(model: ir.Model, batch: int) -> bool:
    """Let Reshapes of image-dependent tensors infer a leading size that was frozen to the batch size."""
    dependent = set(model.graph.inputs)
    changed = False
    for node in model.graph:
        if not any(value in dependent for value in node.inputs if value is not None):
            continue
        dependent.update(node.outputs)
        if node.op_type != "Reshape" or node.inputs[0] not in dependent:
            continue
        shape = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
        if shape is None:
            continue
        sizes = shape.numpy().astype(np.int64).copy()
        if not sizes.size or sizes[0] != batch:
            continue
        # 0 copies the input's own batch axis where another axis is inferred already
        sizes[0] = 0 if -1 in sizes else -1
        constant = ir.Value(name=f"lieaudit_shape_{node.outputs[0].name}", const_value=ir.tensor(sizes))
        constant.shape, constant.type = ir.Shape(sizes.shape), ir.TensorType(ir.DataType.INT64)
        model.graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        changed = True
    if changed:
        common_passes.RemoveUnusedNodesPass()(model)
        _infer_shapes(model)
    return changed


def _run(session: Session, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(session.run({session.input_names[0]: images})[0])


def _run_single(model: ir.Model, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with Session(model) as session:
        rows = [_run(session, image[None]) for image in images]
        again = _run(session, images[:1])
    if not np.array_equal(rows[0], again, equal_nan=True):
        raise ModelError(
            "two runs on the same image give different outputs",
            reason="NONDETERMINISTIC",
            subject="model",
            hint="export the model in evaluation mode, without random ops",
        )
    if any(row.shape[:1] != (1,) for row in rows):
        raise ModelError(
            f"the output has no batch axis: one image gives shape {rows[0].shape}",
            reason="NO_BATCH_AXIS",
            subject=model.graph.outputs[0].name or "output",
            hint="export the model with the batch as first axis of its output",
        )
    return np.concatenate(rows)


def _close(batch: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]) -> bool:
    scale = float(np.nanmax(np.abs(rows), initial=0.0))
    return bool(np.allclose(batch, rows, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True))
