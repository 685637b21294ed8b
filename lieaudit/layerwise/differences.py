"""The same decomposition by finite differences of segment sessions, without any derivative rule.

The base row and one ± pair per contribution are carried through sessions cut from the graph. The pair of segment k
enters its stage as h ± t X h and leaves it as f_k(h ± t X h) ∓ t X f_k(h): the curve along which segment k alone is
conjugated, to first order in t; half the difference of the outputs over t is C_k.

Steps are relative: t = ε ‖h‖ / ‖X h‖. For each contribution and generator ε is the one of a ladder whose result
changes least towards the next one on calibration images: rounding grows below it, curvature and kinks above.
Every contribution is computed at two steps, t and t/2. Its error estimate has three parts: their difference, which sees
rounding and curvature; and a(0) = 2 a(t/2) − a(t) of the asymmetry a(t) = (z₊ + z₋ − 2 z)/2t, which vanishes for a
differentiable function but not at a kink that the base row sits on, such as a maximum over pixels that a ReLU has set
to the same zero: there the derivative depends on the direction, and forward mode takes that of one branch. A third part
is the resolution of the float32 output, |z| 2⁻²⁴ / t: below it two steps agree on zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lieaudit.layerwise.action import Action, emit_action
from lieaudit.layerwise.contribution_rows import Float32Array, Float64Array, Rows
from lieaudit.layerwise.emitter import Emitter
from lieaudit.layerwise.preparation import Prepared
from lieaudit.layerwise.stages import (
    Stage,
    boundary_layouts,
    check_shape,
    cut_out,
    image_bytes,
    peak_bytes,
    stage_errors,
)
from lieaudit.layouts.axes import BATCH
from lieaudit.layouts.layout import Layout
from lieaudit.layouts.tracker import measured_sizes
from lieaudit.runtime.memory import give_back
from lieaudit.runtime.session import Session

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator

LADDER = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
"""Relative perturbations tried on the calibration images."""

_COVERAGE = 3.0
"""The norm of the estimates times this covers the error on at least 95 % of images (tests/layerwise)."""

_STEPS = 2
_WORKSPACE = 4
"""Tensors of a stage's widest size that a session holds at once, for each row."""


@dataclass(slots=True)
class _Live:
    """A tensor between stages: the base row, and the perturbed rows (sources·G·L·2, *shape)."""

    base: Float32Array
    ids: tuple[int, ...]
    rows: Float32Array


class DifferenceChain:
    """Value sessions for one set of generators that commute with the same segments.

    Call `calibrate` before the first use, or set `steps`.
    """

    def __init__(
        self, model: AuditableModel, prepared: Prepared, spec: AuditSpec, generators: tuple[str | Generator, ...]
    ) -> None:
        self.generators = generators
        self.action = Action(generators, spec.interpolation, spec.padding, spec.convention)
        gain = any(self.action.gains())
        self.stages = prepared.stages(generators)
        self.sources = tuple(stage.source for stage in self.stages if stage.source is not None)
        self.steps: Float64Array = np.full((len(self.sources), len(generators)), np.nan)
        self._image, self._output = prepared.model.graph.inputs[0], prepared.model.graph.outputs[0]
        self._batchable = model.batchable
        self._budget = spec.budget

        def session(graph: ir.Model) -> Session:
            return Session(
                graph,
                provider=spec.provider,
                threads=spec.threads,
                allow_fallback=spec.allow_fallback,
                shared_arena=True,
            )

        self._sessions = []
        self._widest: dict[Stage, int] = {}
        for stage in self.stages:
            with stage_errors(stage):
                graph = cut_out(prepared.model, stage)
                inside = [value for node in graph.graph for value in node.outputs]
                self._widest[stage] = max(image_bytes(value) for value in (*graph.graph.inputs, *inside))
                self._sessions.append(session(graph))
        layouts = boundary_layouts(
            prepared.model, prepared.tracker, self.stages, spatial=model.head.spatial and not gain
        )
        self._actions = {
            value.name or "": session(_action_graph(prepared.model, value, layout, self.action))
            for value, layout in layouts.items()
            if layout.spatial
        }
        self._batch_axes = {v: _batch_axis(v, layout) for v, layout in layouts.items()}
        self._batch_axes[self._image] = 0 if self._batchable else None
        self._last_use = {v.name or "": i for i, stage in enumerate(self.stages) for v in stage.inputs}

    def close(self) -> None:
        """Free the sessions."""
        for session in (*self._sessions, *self._actions.values()):
            session.close()

    @property
    def images_at_once(self) -> int:
        """How many images fit the memory budget; running rows in blocks bounds the sessions' own memory."""
        if not self._batchable:
            return 1
        # calibration has more steps than the pass, and takes one image at a time
        return max(1, self._budget // 2 // self.peak_bytes(self.stages, len(self.generators), _STEPS))

    @staticmethod
    def peak_bytes(stages: tuple[Stage, ...], generators: int, steps: int = len(LADDER)) -> int:
        """Return the most that one image's rows take; each stage copies its inputs once."""
        return 2 * peak_bytes(stages, generators=generators, leading=0, rows_per_source=2 * steps * generators)

    def calibrate(self, images: Float32Array, directions: Float32Array) -> Float64Array:
        """Choose ε for every contribution and generator on a few images; give them, (S, G)."""
        if not self.sources:
            return self.steps
        ladder = np.broadcast_to(np.array(LADDER), (*self.steps.shape, len(LADDER)))
        changes = []
        for i in range(len(images)):
            _, found, _, resolution = self._pass(images[i : i + 1], directions[i : i + 1], ladder, None)
            flat, least = (a.reshape(*a.shape[1:4], -1) for a in (found, resolution))
            # steps below the resolution agree on zero
            changes.append(
                np.hypot(np.linalg.norm(np.diff(flat, axis=2), axis=-1), np.linalg.norm(least[:, :, 1:], axis=-1))
            )
        # a change is charged to both of its steps: a good one is calm on either side
        change = np.mean(changes, axis=0)
        padded = np.concatenate([change[..., :1] * 4, change, change[..., -1:] * 4], axis=-1)
        best = np.argmin(np.maximum(padded[..., :-1], padded[..., 1:]), axis=-1)
        self.steps = np.array(LADDER)[best]
        return self.steps

    def __call__(
        self, images: Float32Array, directions: Float32Array, progress: Callable[[], None] | None = None
    ) -> Rows:
        """Run images (n, C, H, W) with the tangents X x (n, G, C, H, W)."""
        steps = np.stack([self.steps, self.steps / 2], axis=-1)
        value, found, asymmetry, resolution = self._pass(images, directions, steps, progress)
        contributions = found[:, :, :, 0]
        return Rows(
            value=value,
            sources=self.sources,
            contributions=contributions,
            total=None,
            subnetwork=np.full((len(images), len(self.sources), *[len(self.generators)] * 2), np.nan),
            spreads=(
                contributions - found[:, :, :, 1],
                2 * asymmetry[:, :, :, 1] - asymmetry[:, :, :, 0],
                resolution[:, :, :, 0],
            ),
            coverage=_COVERAGE,
        )

    def _pass(
        self,
        images: Float32Array,
        directions: Float32Array,
        epsilons: Float64Array,
        progress: Callable[[], None] | None,
    ) -> tuple[Float32Array, Float64Array, Float64Array, Float64Array]:
        """Return z (n, *K), D z of every C_k at every step, float64 (n, S, G, L, *K), asymmetries and resolutions."""
        count, levels = epsilons.shape[1:]
        start = np.ascontiguousarray(np.moveaxis(directions, 1, 0))
        name = self._image.name or ""
        live = {name: _Live(images, (), np.zeros((0, *images.shape), np.float32))}
        acted = {name: start}
        used = np.ones((len(self.sources), count, levels))
        for index, (stage, session) in enumerate(zip(self.stages, self._sessions, strict=True)):
            place = self.sources.index(stage.source) if stage.source is not None else None
            if place is not None:
                used[place] = epsilons[place] * self._scales(stage, live, acted)[:, None]
            with stage_errors(stage):
                self._run_stage(stage, session, live, acted, used[place] if place is not None else None, len(images))
            for gone in [n for n in live if self._last_use.get(n, -1) <= index and n != self._output.name]:
                del live[gone]
                acted.pop(gone, None)
            give_back()
            if progress is not None:
                progress()
        z = live[self._output.name or ""]
        # a source whose rows never reach the output contributes nothing; its rows are those of the base
        rows = _aligned(z, self.sources, count * levels * 2).astype(np.float64)
        rows = rows.reshape(len(self.sources), count, levels, 2, *z.base.shape)
        twice = 2 * used.reshape(*used.shape, *[1] * z.base.ndim)
        plus, minus = rows[:, :, :, 0], rows[:, :, :, 1]
        slope, bend = (plus - minus) / twice, (plus + minus - 2 * z.base.astype(np.float64)) / twice
        resolution = 2.0**-23 * np.abs(z.base.astype(np.float64)) / twice
        return z.base, np.moveaxis(slope, 3, 0), np.moveaxis(bend, 3, 0), np.moveaxis(resolution, 3, 0)

    def _scales(self, stage: Stage, live: Mapping[str, _Live], acted: Mapping[str, Float32Array]) -> Float64Array:
        """Return ‖h‖ / ‖X h‖ of a stage's inputs for every generator, (G,); 1 where nothing moves."""
        names = [v.name or "" for v in stage.inputs]
        size = math.fsum(float(np.sum(np.square(live[n].base, dtype=np.float64))) for n in names)
        moved = np.zeros(len(self.generators))
        for n in names:
            if n in acted:
                rows = acted[n].reshape(len(self.generators), -1)
                moved += np.einsum("gi,gi->g", rows, rows, dtype=np.float64)
        return np.where((moved > 0) & (size > 0), np.sqrt(size / np.where(moved > 0, moved, 1.0)), 1.0)

    def _run_stage(
        self,
        stage: Stage,
        session: Session,
        live: dict[str, _Live],
        acted: dict[str, Float32Array],
        steps: Float64Array | None,
        images: int,
    ) -> None:
        per_source = len(self.generators) * (steps.shape[1] if steps is not None else 0) * 2
        held = [live[v.name or ""] for v in stage.inputs]
        if steps is None:
            per_source = next((len(h.rows) // len(h.ids) for h in held if h.ids), 0)
        feeds = []
        for value, item in zip(stage.inputs, held, strict=True):
            parts = [item.base[None], _aligned(item, stage.rows_in, per_source)]
            if steps is not None:
                parts.append(_perturbed(item.base, acted.get(value.name or ""), steps, 1.0))
            feeds.append(np.concatenate(parts))
        outputs = self._run_rows(stage, session, feeds, images)
        for value, rows in zip(stage.outputs, outputs, strict=True):
            name = value.name or ""
            base = rows[0]
            if name in self._actions:
                acted[name] = self._actions[name].run({name: base})[0]
            if steps is not None:
                fresh = rows[len(rows) - per_source :]
                fresh += _perturbed(np.zeros_like(base), acted.get(name), steps, -1.0)
            live[name] = _Live(base, stage.rows_out, rows[1:])

    def _run_rows(self, stage: Stage, session: Session, feeds: list[Float32Array], images: int) -> list[Float32Array]:
        """Run rows (R, *shape) of every input in blocks under the budget."""
        in_axes = [self._batch_axes[v] for v in stage.inputs]
        out_axes = [self._batch_axes[v] for v in stage.outputs]
        stackable = self._batchable and None not in in_axes and None not in out_axes
        block = max(1, self._budget // 4 // (_WORKSPACE * images * self._widest[stage])) if stackable else 1
        names = [v.name or "" for v in stage.inputs]
        out_names = [v.name or "" for v in stage.outputs]
        parts: list[list[Float32Array]] = []
        for start in range(0, len(feeds[0]), block):
            rows = [feed[start : start + block] for feed in feeds]
            fed = [_stack(r, int(axis or 0)) if stackable else r[0] for r, axis in zip(rows, in_axes, strict=True)]
            found = session.run(dict(zip(names, fed, strict=True)), out_names)
            for value, array in zip(stage.outputs, found, strict=True):
                check_shape(value, array, images * len(rows[0]))
            if not stackable:
                parts.append([out[None] for out in found])
                continue
            parts.append([_unstack(o, len(rows[0]), int(axis or 0)) for o, axis in zip(found, out_axes, strict=True)])
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _perturbed(base: Float32Array, acted: Float32Array | None, steps: Float64Array, sign: float) -> Float32Array:
    """Return base ± sign · t X h for all generators and steps: (G·L·2, *shape)."""
    count, levels = steps.shape
    signed = sign * steps[:, :, None] * np.array([1.0, -1.0])
    if acted is None:
        return np.array(np.broadcast_to(base, (count * levels * 2, *base.shape)))
    factors = signed.reshape(count, levels, 2, *[1] * base.ndim)
    rows = base + factors * acted[:, None, None].astype(np.float64)
    return np.asarray(rows.reshape(-1, *base.shape), np.float32)


def _aligned(item: _Live, ids: tuple[int, ...], per_source: int) -> Float32Array:
    """Return the rows of these sources; a source that a tensor does not depend on leaves it at its base."""
    if item.ids == ids:
        return item.rows
    own = {source: i for i, source in enumerate(item.ids)}
    still = np.broadcast_to(item.base, (per_source, *item.base.shape))
    pieces = [item.rows[own[s] * per_source : (own[s] + 1) * per_source] if s in own else still for s in ids]
    return np.concatenate(pieces) if pieces else np.zeros((0, *item.base.shape), np.float32)


def _stack(rows: Float32Array, axis: int) -> Float32Array:
    """Put rows (R, *shape) into the batch: R · shape[axis] on that axis."""
    moved = np.moveaxis(rows, 0, axis)
    shape = rows.shape[1:]
    return np.ascontiguousarray(moved).reshape(*shape[:axis], -1, *shape[axis + 1 :])


def _unstack(array: Float32Array, count: int, axis: int) -> Float32Array:
    """Undo `_stack`."""
    shape = array.shape
    split = array.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(split, axis, 0))


def _batch_axis(value: ir.Value, layout: Layout) -> int | None:
    """Return the axis whose major part is the batch; None where rows cannot be put into a batch."""
    for axis, atoms in enumerate(layout.axes):
        if any(atom.role == "batch" for atom in atoms):
            return axis if atoms[0].role == "batch" else None
    sizes = measured_sizes(value) or ()
    return next((i for i, size in enumerate(sizes) if size == BATCH), None)


def _action_graph(model: ir.Model, value: ir.Value, layout: Layout, action: Action) -> ir.Model:
    """Return the graph that computes X h of one boundary tensor."""
    source = ir.Value(name=value.name, type=value.type, shape=value.shape)
    graph = ir.Graph([source], [], nodes=[], opset_imports=dict(model.graph.opset_imports), name="action")
    emit = Emitter(graph, opset=model.graph.opset_imports[""])
    rows = emit_action(emit, source, layout, action)
    rows.shape = ir.Shape([None] * (len(value.shape or ()) + 1))
    graph.outputs.append(rows)
    return ir.Model(graph, ir_version=model.ir_version)
