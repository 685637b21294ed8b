"""Forward mode: derivatives exact to rounding, from the rewritten ONNX graph (`lieaudit.graph.forward`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import RELATIVE_STEP
from lieaudit.derivatives.base import NOTHING, Columns, Derivatives, Float32Array, Float64Array, FurtherRows, rows_of
from lieaudit.derivatives.redraw import combined, jittered, jittered_weights
from lieaudit.derivatives.rounding import COVERAGE, patterns
from lieaudit.errors import BudgetError, ModelError, UnsupportedOpError
from lieaudit.graph.forward.coverage import caveats
from lieaudit.graph.forward.kinks import kinked_units
from lieaudit.graph.forward.rewrite import Rewritten, rewrite
from lieaudit.graph.forward.shapes import measure_shapes
from lieaudit.graph.selection import check_size
from lieaudit.ops import is_op
from lieaudit.runtime.session import Session

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec

REWRITE_REFUSED = "REWRITE_REFUSED"
"""Reason of an error: onnxruntime does not load the graph with tangents."""

_MIB = 1 << 20
_UNROLLED_WORKING_SET = 256 * _MIB
_STACKED_WORKING_SET = 128 * _MIB
"""Activations per run beyond which throughput on CPU no longer grows, as measured on ResNet-50 and ViT-S/16."""

_MAX_SESSIONS = 5
"""Unrolled graphs kept at once: one per number of directions asked for, and those with their weights moved."""

_CHECKED_SHARE = 16
"""One image of so many is differentiated a second time, for the error bar, where kinks are too few to matter."""

_MANY_KINKS = 20_000
"""From so many units with a kink on, every image is differentiated again: rounding carries a few of 10⁷ over it on
trained networks, and an image where it does may be ten thousand times as far off as the others."""

_JUMP = 1e-4
"""Relative change of a derivative that smooth rounding does not make: a unit is on the other side of its kink."""

_RESCALE = 1.7
"""Factor of the directions in that second pass: not a power of two, so that every product rounds differently."""

_JUMP_WEIGHT, _SMOOTH_WEIGHT = 2.0, 0.5
"""What a change of the combination counts along each direction, times `_COVERAGE`: measured by bench/bars.py."""

_COARSER = -1
"""The draw in which the central differences of single ops take twice their step."""

_COVERAGE = 2 * COVERAGE
"""Twice that of a method which redraws every image along every direction: one image in `_CHECKED_SHARE` stands for all,
or one combination of the directions for each."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How much goes through one run."""

    images: int
    directions: int


class ForwardDifferentiator:
    """Forward-mode derivatives of one model: a `Differentiator`.

    N images and D directions go through the rewritten graph in one batch; the values are computed once for all
    directions. Both are chunked so that the activations of a run stay within the memory budget. The chunks follow from
    the budget and the graph alone, so that equal audits give equal bits.

    Parameters
    ----------
    model, spec
        The normalised model; provider, threads and memory budget.

    Raises
    ------
    ModelError, UnsupportedOpError
        The graph cannot be rewritten, or onnxruntime refuses it.
    ProviderError
        As `Session` does.
    BudgetError
        ROW_OVER_BUDGET: one image along one direction does not fit the budget.
    """

    method = "forward"

    def __init__(self, model: AuditableModel, spec: AuditSpec) -> None:
        self._model = model
        self._spec = spec
        measure_shapes(model.model)
        self._unrolls = spec.provider == "cpu" and convolutional(model.model)
        self._sessions: dict[tuple[int | None, int], tuple[Rewritten, Session]] = {}
        self._rewritten: dict[tuple[int | None, bool], Rewritten] = {}
        self._plans: dict[int, _Plan] = {}
        self.rewritten = self._graph(1 if self._unrolls else None)
        self.skipped = caveats(self.rewritten.applied)
        self._differences = not all(applied.exact for applied in self.rewritten.applied)
        self._plan(1)
        self._kinked = kinked_units(self.rewritten.model) >= _MANY_KINKS
        self.fallback_ops: dict[str, int] = {}
        self.rows_done = 0

    def __call__(
        self,
        images: Float32Array,
        directions: Float32Array,
        columns: Columns = 0,
        further: FurtherRows = NOTHING,
        *,
        judged: int | None = None,
    ) -> Derivatives:
        """Differentiate at ``images`` (n, C, H, W) along ``directions`` (n, D, C, H, W); ``columns`` play no part.

        Errors are estimated along the first ``judged`` directions; None: along all.
        """
        del columns
        value, tangent = self._evaluate(images, directions, further)
        some = slice(None) if judged is None else slice(judged)
        if judged == 0:
            return Derivatives(value, tangent, (), _COVERAGE)
        redraw = self._redrawn if self._kinked else self._sampled
        value_errors, errors, spreads = redraw(images, directions[:, some], further, value, tangent[:, some])
        if self._differences:
            # what truncation makes of such an op is four times as much at twice the step, and its rounding is another
            _, coarser = self._evaluate(images, directions[:, some], further, draw=_COARSER)
            spreads += (_SMOOTH_WEIGHT * (coarser - tangent[:, some]),)
        return Derivatives(
            value,
            tangent,
            (*spreads, *patterns(errors, tangent[:, some].shape)),
            _COVERAGE,
            patterns(value_errors, value.shape),
        )

    def close(self) -> None:
        """Free the sessions."""
        for _, session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _evaluate(
        self, images: Float32Array, directions: Float32Array, further: FurtherRows = NOTHING, *, draw: int = 0
    ) -> tuple[Float32Array, Float64Array]:
        """Return z and dz; a positive ``draw``: by a graph whose weights are moved by a unit in the last place."""
        count, lanes = directions.shape[:2]
        plan = self._plan(lanes)
        value = np.empty((count, *self._model.output_shape), np.float32)
        tangent = np.empty((count, lanes, *self._model.output_shape), np.float64)
        for d in range(0, lanes, plan.directions):
            some = slice(d, min(d + plan.directions, lanes))
            rewritten, session = self._session(some.stop - some.start, draw)
            for i in range(0, count, plan.images):
                part = slice(i, i + plan.images)
                feeds = {
                    **rows_of(further, part),
                    rewritten.values_in[0]: images[part],
                    # D leads in the graph: values broadcast over leading axes without a copy
                    rewritten.tangents_in[0]: np.ascontiguousarray(np.moveaxis(directions[part, some], 1, 0)),
                }
                z, dz = session.run(feeds, [*rewritten.values_out, *rewritten.tangents_out])
                check_size(self._model.info.output.name, z.shape, self._model.output_shape)
                value[part] = z.reshape(value[part].shape)
                tangent[part, some] = np.moveaxis(dz, 0, 1).reshape(tangent[part, some].shape)
                self.rows_done += len(z) * (1 + some.stop - some.start)
        return value, tangent

    def _redrawn(
        self,
        images: Float32Array,
        directions: Float32Array,
        further: FurtherRows,
        value: Float32Array,
        tangent: Float64Array,
    ) -> tuple[Float64Array, Float64Array, tuple[Float64Array, ...]]:
        """Measure the rounding error of values (n,) and tangents (n, D) on every image, and give it as vectors too.

        The weights are moved by a unit in the last place, and all rounding errors behind them are drawn anew, along
        one combination of the directions. A unit that float32 has put on the wrong side of its kink is back on the
        right one with probability 0.7, by the geometry of two independent errors. Where any image changes by a jump,
        all are drawn once more: two draws see 0.88 of such units.
        """
        count = len(images)
        scales = _scales(directions, tangent)
        wide = [1] * (tangent.ndim - 2)
        changes, values = [], []
        for draw in (1, 2):
            rows, weights, unit = combined(directions, scales, draw)
            value_again, again = self._evaluate(images, rows[:, None], further, draw=draw)
            expected = np.einsum("nd,nd...->n...", weights, tangent)
            changes.append((again[:, 0] - expected) * unit.reshape(-1, *wide))
            values.append(value_again.astype(np.float64) - value)
            if not (np.linalg.norm(changes[-1].reshape(count, -1), axis=1) > _JUMP).any():
                break
        norms = np.sqrt(np.mean([np.sum(change.reshape(count, -1) ** 2, axis=1) for change in changes], axis=0))
        # a jump is that of one unit, which may answer to each direction otherwise; rounding is the same along all
        weight = np.where(norms > _JUMP, _JUMP_WEIGHT, _SMOOTH_WEIGHT) / np.sqrt(len(changes))
        spreads = tuple(
            (weight.reshape(-1, *wide) * change)[:, None] * scales.reshape(*scales.shape, *wide) for change in changes
        )
        pooled = np.sqrt(np.mean([np.sum(v.reshape(count, -1) ** 2, axis=1) for v in values]))
        return np.full(count, pooled), _SMOOTH_WEIGHT * norms[:, None] * scales, spreads

    def _sampled(
        self,
        images: Float32Array,
        directions: Float32Array,
        further: FurtherRows,
        value: Float32Array,
        tangent: Float64Array,
    ) -> tuple[Float64Array, Float64Array, tuple[Float64Array, ...]]:
        """Measure the rounding error of values (n,) and tangents (n, D) on a few images, and scale it to the others.

        The images are moved by one unit in the last place, up or down, and the directions rescaled: the exact
        derivative moves by nothing that float32 could tell, so what changes is rounding. Images that were not
        measured get the worst measured relative error of their direction, of their own derivative or, where a small
        one is what a cancellation left over, of the typical one.
        """
        count = len(images)
        chosen = np.unique(np.linspace(0, count - 1, max(1, count // _CHECKED_SHARE)).astype(int))
        moved = jittered(images[chosen])
        value_again, again = self._evaluate(moved, directions[chosen] * np.float32(_RESCALE), rows_of(further, chosen))
        difference = again / np.float64(np.float32(_RESCALE)) - tangent[chosen]
        norms = np.linalg.norm(tangent.reshape(*tangent.shape[:2], -1), axis=2)
        measured = np.linalg.norm(difference.reshape(*difference.shape[:2], -1), axis=2)
        relative = measured / np.where(norms[chosen] > 0, norms[chosen], 1.0)
        errors = np.maximum(norms, np.median(norms, axis=0)) * relative.max(axis=0)
        errors[chosen] = measured
        # Values of all images are of one size: their mean square knows more than each alone.
        value_difference = (value_again.astype(np.float64) - value[chosen]).reshape(len(chosen), -1)
        pooled = np.sqrt(np.mean(np.sum(value_difference**2, axis=1)))
        return np.full(count, pooled), errors, ()

    def _plan(self, directions: int) -> _Plan:
        if directions not in self._plans:
            self._plans[directions] = self._planned(directions)
        return self._plans[directions]

    def _planned(self, directions: int) -> _Plan:
        """Choose the chunks: all directions at once if one image fits so, else as many as fit, evenly."""
        budget = self._spec.budget
        one = self._peak(1, 1)
        if one > budget:
            raise BudgetError(
                f"one image along one direction takes {one / _MIB:.0f} MiB, the budget is {budget / _MIB:.0f} MiB",
                reason="ROW_OVER_BUDGET",
                subject="budget_mib",
                hint=f"raise --budget to {math.ceil(1.25 * one / _MIB)} or more",
            )
        parts = next(p for p in range(1, directions + 1) if self._peak(1, math.ceil(directions / p)) <= budget)
        lanes = math.ceil(directions / parts)
        if not self._model.batchable:
            return _Plan(1, lanes)
        each = self._peak(1, lanes)
        enough = _UNROLLED_WORKING_SET if self._unrolls else _STACKED_WORKING_SET
        working_set = min(budget, max(enough, each)) if self._spec.provider == "cpu" else budget
        return _Plan(max(1, working_set // each), lanes)

    def _peak(self, images: int, directions: int) -> int:
        if self._unrolls:
            return self._graph(directions).peak_bytes(images, 1)
        return self.rewritten.peak_bytes(images, directions)

    def _graph(self, unroll: int | None, *, coarser: bool = False) -> Rewritten:
        if (unroll, coarser) not in self._rewritten:
            step = 2 * RELATIVE_STEP if coarser else RELATIVE_STEP
            active = [self._model.input_name]
            self._rewritten[unroll, coarser] = rewrite(
                self._model.model, active=active, unroll=unroll, difference_step=step
            )
        return self._rewritten[unroll, coarser]

    def _session(self, directions: int, draw: int = 0) -> tuple[Rewritten, Session]:
        unroll = directions if self._unrolls else None
        key = unroll, draw
        if key not in self._sessions:
            if len(self._sessions) >= _MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))[1].close()
            rewritten = self._graph(unroll, coarser=draw == _COARSER)
            session = self._opened(rewritten, draw)
            self.fallback_ops = session.fallback_ops
            self._sessions[key] = rewritten, session
        return self._sessions[key]

    def _opened(self, rewritten: Rewritten, draw: int) -> Session:
        spec = self._spec
        model = jittered_weights(rewritten.model, draw) if draw > 0 else rewritten.model
        try:
            return Session(model, provider=spec.provider, threads=spec.threads, allow_fallback=spec.allow_fallback)
        except ModelError as problem:
            if problem.reason not in {"MODEL_REFUSED", "UNKNOWN_OP"}:
                raise
            raise UnsupportedOpError(
                f"forward mode's graph does not load: {problem.message}",
                reason=REWRITE_REFUSED,
                subject=problem.subject,
                hint="use --method finite_difference",
            ) from problem


def _scales(directions: Float32Array, tangent: Float64Array) -> Float64Array:
    """Return what a relative error refers to, (n, D): the derivative, or what one so long is on this image.

    A direction that the network hardly answers to is as wrong as the others, by the size of what cancels.
    """
    moved = np.linalg.norm(directions.reshape(*tangent.shape[:2], -1).astype(np.float64), axis=2)
    found = np.linalg.norm(tangent.reshape(*tangent.shape[:2], -1), axis=2)
    gain = np.median(np.where(moved > 0, found / np.where(moved > 0, moved, 1.0), 0.0), axis=1, keepdims=True)
    return np.asarray(np.maximum(found, gain * moved))


def convolutional(model: ir.Model) -> bool:
    """Say whether convolutions do most of the multiplications, rather than matrix products.

    On CPU onnxruntime computes convolutions in a blocked layout that survives only between ops it knows in it; one
    chain of nodes per direction stays in that layout, a stacked axis of directions does not (docs/forward-mode.md).
    """
    convolutions = products = 0
    for node in model.graph:
        if is_op(node, "Conv", "MatMul", "Gemm") and len(node.inputs) > 1:
            weight = node.inputs[1]
            output = _fixed_elements(node.outputs[0])
            if weight is None or weight.shape is None or output == 0:
                continue
            sizes = [d for d in weight.shape if isinstance(d, int)]
            if is_op(node, "Conv"):
                convolutions += output * math.prod(sizes[1:])
            elif len(sizes) >= 2:
                products += output * (sizes[-1] if node.attributes.get_int("transB", 0) else sizes[-2])
    return convolutions > products


def _fixed_elements(value: ir.Value) -> int:
    if value.shape is None:
        return 0
    return math.prod(d if isinstance(d, int) else 1 for d in value.shape)
