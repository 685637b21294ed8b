"""Evaluating a model on rows x + s·v, expanded on the session's device.

Images and directions go to the device once; the graph itself forms the rows, so that the session is fed by copies of
the size of the images and not of the rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lieaudit.derivatives.base import NOTHING, Float32Array, FurtherRows, rows_of
from lieaudit.errors import BudgetError
from lieaudit.graph.names import PREFIX
from lieaudit.graph.selection import check_size
from lieaudit.runtime.memory import row_bytes
from lieaudit.runtime.session import Session

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec

_MIB = 1 << 20
_IMAGES, _DIRECTIONS, _STEPS = (PREFIX + name for name in ("images", "directions", "steps"))
# On CPU throughput no longer grows beyond some rows per run, on one thread hardly from the first one, and the
# activations should stay near the caches; a GPU wants its memory filled. Measured by bench/throughput.py.
_CPU_WORKING_SET = 128 * _MIB
# Rows come in eights, four steps ahead and behind: a direction that is cut costs a short run.
_ROWS_TOGETHER = 8
_MAX_ROWS = 512


class RowEvaluator:
    """A session on the graph z(x + s·v) with images (n, …), directions (n, D, …) and steps (D, S).

    ``rows_per_run`` follows from the memory budget and the graph alone, so that equal audits run equal batches and
    give equal bits.

    Raises
    ------
    BudgetError
        ROW_OVER_BUDGET: one row's activations do not fit the budget.
    """

    def __init__(self, model: AuditableModel, spec: AuditSpec) -> None:
        self._session = Session(
            _expanded(model), provider=spec.provider, threads=spec.threads, allow_fallback=spec.allow_fallback
        )
        self.fallback_ops = self._session.fallback_ops
        self.rows_per_run = _rows_per_run(model, spec.budget, on_cpu=self._session.provider.device == "cpu")
        self.rows_done = 0
        self._output, self._output_shape = model.info.output.name, model.output_shape

    def base(self, images: Float32Array, further: FurtherRows = NOTHING) -> Float32Array:
        """Return z(x) for images (n, C, H, W), shape (n, *K)."""
        steps = np.zeros((1, 1), np.float32)
        parts = [
            self._run(images[part], images[part, None], steps, rows_of(further, part))[:, 0, 0]
            for part in np.array_split(np.arange(len(images)), math.ceil(len(images) / self.rows_per_run))
        ]
        return np.concatenate(parts)

    def along(
        self, images: Float32Array, directions: Float32Array, steps: Float32Array, further: FurtherRows = NOTHING
    ) -> Float32Array:
        """Return z(x + s·v) for images (n, C, H, W), directions (n, D, C, H, W) and steps (D, S): (n, D, S, *K)."""
        count, (kinds, signs) = len(images), steps.shape
        if kinds * signs <= self.rows_per_run:
            at_once = self.rows_per_run // (kinds * signs)
            return np.concatenate(
                [
                    self._run(images[part], directions[part], steps, rows_of(further, part))
                    for part in (slice(i, i + at_once) for i in range(0, count, at_once))
                ]
            )
        # runs of equal size: the session's threads are kept busy by many rows and starved by a remainder of few
        if signs > self.rows_per_run:
            parts = np.array_split(steps, math.ceil(signs / self.rows_per_run), axis=1)
            return np.concatenate([self.along(images, directions, part, further) for part in parts], axis=2)
        number = math.ceil(kinds / (self.rows_per_run // signs))
        groups = [slice(kinds * i // number, kinds * (i + 1) // number) for i in range(number)]
        rows = [
            np.concatenate(
                [
                    self._run(images[one], directions[one, group], steps[group], rows_of(further, one))
                    for group in groups
                ],
                axis=1,
            )
            for one in (slice(i, i + 1) for i in range(count))
        ]
        return np.concatenate(rows)

    def _run(
        self, images: Float32Array, directions: Float32Array, steps: Float32Array, further: FurtherRows
    ) -> Float32Array:
        z = self._session.run(
            {
                **{name: np.repeat(values, steps.size, axis=0) for name, values in further.items()},
                _IMAGES: images[:, None, None],
                _DIRECTIONS: directions[:, :, None],
                _STEPS: steps.reshape(1, *steps.shape, 1, 1, 1),
            }
        )[0]
        check_size(self._output, z.shape, self._output_shape)
        self.rows_done += len(z)
        return np.asarray(z.reshape(len(images), *steps.shape, *z.shape[1:]))


def _expanded(model: AuditableModel) -> ir.Model:
    """Put x + s·v in front of a copy of the model's graph."""
    expanded = model.model.clone()
    graph = expanded.graph
    image = graph.inputs[0]
    shape = [model.channels, model.height, model.width]
    inputs: dict[str, list[int | str]] = {
        _IMAGES: ["n", 1, 1, *shape],
        _DIRECTIONS: ["n", "D", 1, *shape],
        _STEPS: [1, "D", "S", 1, 1, 1],
    }
    values = [
        ir.Value(name=name, shape=ir.Shape(dimensions), type=ir.TensorType(ir.DataType.FLOAT))
        for name, dimensions in inputs.items()
    ]
    images, directions, steps = values
    target = ir.Value(name="lieaudit_row_shape", const_value=ir.tensor(np.array([-1, *shape], np.int64)))
    target.shape, target.type = ir.Shape([4]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(target)
    moved = ir.node("Mul", [directions, steps], name="lieaudit_move")
    rows = ir.node("Add", [images, moved.outputs[0]], name="lieaudit_moved_images")
    flat = ir.node("Reshape", [rows.outputs[0], target], name="lieaudit_flatten_rows")
    image.replace_all_uses_with(flat.outputs[0])
    graph.inputs[:] = [*values, *graph.inputs[1:]]
    nodes = [moved, rows, flat]
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)
    return expanded


def _rows_per_run(model: AuditableModel, budget: int, *, on_cpu: bool) -> int:
    if not model.batchable:
        return 1
    one = max(row_bytes(model.model), 1)
    if one > budget:
        raise BudgetError(
            f"one row takes about {one / _MIB:.0f} MiB, the budget is {budget / _MIB:.0f} MiB",
            reason="ROW_OVER_BUDGET",
            subject="budget_mib",
            hint=f"raise --budget to {math.ceil(1.25 * one / _MIB)} or more",
        )
    working_set = min(budget, max(_CPU_WORKING_SET, 4 * one)) if on_cpu else budget
    rows = max(1, min(_MAX_ROWS, working_set // one))
    return rows - rows % _ROWS_TOGETHER if rows > _ROWS_TOGETHER else rows
