"""One forward-mode session per stage, and all contributions in one pass through them.

For stages f_1 … f_S the rows of a boundary are: the total (D h[X x], from which the sub-network's Lie derivative
follows), X h, and one row per contribution that has started. Each stage pushes all of them through its differential;
then X h starts anew on the stage's output, and the difference is the new contribution:
C_k = D f_k[X h_{k−1}] − X f_k(h_{k−1}) (Gruver et al. 2023, Eq. 5). Rows live in arrays into which the sessions
write directly; nothing is copied between stages.

Rows do not depend on each other. On CPU the cores therefore take a part of them each, through a session that runs on
one thread: every op then runs on all cores, also those that onnxruntime runs on one, and no core waits for another
between two ops. The values, one row in dozens, are computed again in each part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.errors import ModelError
from lieaudit.graph.forward import Rewritten, rewrite
from lieaudit.layerwise.action import Action, emit_action
from lieaudit.layerwise.buffers import Buffers
from lieaudit.layerwise.contribution_rows import Rows
from lieaudit.layerwise.emitter import Emitter
from lieaudit.layerwise.preparation import Prepared
from lieaudit.layerwise.stages import Stage, boundary_layouts, cut_out, peak_bytes, shape_for, stage_errors
from lieaudit.layouts.layout import Layout
from lieaudit.ops import is_op
from lieaudit.runtime.memory import give_back
from lieaudit.runtime.providers import find_provider, usable_cores
from lieaudit.runtime.session import Session

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

_PARTS = 4
"""Most parts that rows are cut into for speed: each computes the values again. Further cores work inside sessions."""

_LEAST_ROWS = 2
"""Rows that are worth computing the values again."""

_MANY = 1000
"""Rows beside which a stage's values no longer count."""

_BLOCK = 4096
"""Squares are summed in float32 within blocks of this size, and between them in float64."""

_TOTAL, _ACTION = -2, -1
"""Row ids beside the indices of the segments that contribute."""


@dataclass(slots=True)
class _Live:
    """A tensor between stages: its value, and its rows in a buffer that may be longer."""

    value: Float32Array
    ids: tuple[int, ...]
    buffer: Float32Array


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a stage's session takes while it runs, in bytes for one image: its values, and each row beside them."""

    values: int
    row: int

    @classmethod
    def of(cls, rewritten: Rewritten) -> Workspace:
        """Read it off the rewritten graph: a sum of what is alive at once, whose steepest slope bounds every row."""
        return cls(rewritten.peak_bytes(1, 0), rewritten.peak_bytes(1, _MANY + 1) - rewritten.peak_bytes(1, _MANY))

    def at(self, images: int, rows: int) -> int:
        """Return the bytes for so many images and rows."""
        return images * (self.values + rows * self.row)

    def rows_within(self, limit: int, images: int) -> int:
        """Return how many rows of so many images fit, at least one."""
        return max(1, (limit // images - self.values) // max(1, self.row))


class Chain:
    """Sessions for one set of generators that commute with the same segments.

    Parameters
    ----------
    model, prepared, spec
        The model; weights live once, each in the session of its stage.
    generators
        All geometric, or all gains.
    related
        (G, G) pairs whose inner products ⟨L_i h, L_j h⟩ combinations of them want; default: each with itself.
    keep_all
        Carry a row for every segment, also for those that provably commute: to check the proofs.
    """

    def __init__(
        self,
        model: AuditableModel,
        prepared: Prepared,
        spec: AuditSpec,
        generators: tuple[str | Generator, ...],
        *,
        related: npt.NDArray[np.bool_] | None = None,
        keep_all: bool = False,
    ) -> None:
        self.generators = generators
        self._related = np.eye(len(generators), dtype=bool) if related is None else related
        self.action = Action(generators, spec.interpolation, spec.padding, spec.convention)
        self.stages = prepared.stages(generators, keep_all=keep_all)
        gain = any(self.action.gains())
        self._budget = spec.budget
        self._batchable = model.batchable
        self._image, self._output = prepared.model.graph.inputs[0], prepared.model.graph.outputs[0]
        layouts = boundary_layouts(
            prepared.model, prepared.tracker, self.stages, spatial=model.head.spatial and not gain
        )
        self._layouts = {v.name or "": layout for v, layout in layouts.items()}

        threads = spec.threads or usable_cores()
        self._parts = min(threads, _PARTS) if find_provider(spec.provider).device == "cpu" else 1
        self._workers = ThreadPoolExecutor(self._parts, "lieaudit-rows")

        self._sessions: list[Session] = []
        self._workspaces: dict[Stage, Workspace] = {}
        for stage in self.stages:
            with stage_errors(stage):
                graph, self._workspaces[stage] = stage_graph(prepared.model, stage, layouts, self.action)
                self._sessions.append(
                    Session(
                        graph,
                        provider=spec.provider,
                        threads=max(1, threads // self._parts),
                        allow_fallback=spec.allow_fallback,
                        shared_arena=True,
                    )
                )
        self._capacity = _capacities(self.stages)
        self._last_use = {v.name or "": i for i, stage in enumerate(self.stages) for v in stage.inputs}
        self._buffers = Buffers(self._budget // 2)

    @property
    def images_at_once(self) -> int:
        """How many images fit: rows between stages take half of the budget, sessions a quarter."""
        if not self._batchable:
            return 1
        between = self.peak_bytes(self.stages, len(self.generators))
        inside = self._parts * max(workspace.at(1, _LEAST_ROWS) for workspace in self._workspaces.values())
        return max(1, min(self._budget // 2 // between, self._budget // 4 // inside))

    @staticmethod
    def peak_bytes(stages: tuple[Stage, ...], generators: int) -> int:
        """Return the most that one image's values and rows take."""
        return peak_bytes(stages, generators=generators, leading=2, rows_per_source=generators)

    @property
    def rows(self) -> int:
        """Number of segments that have a row."""
        return sum(stage.source is not None for stage in self.stages)

    def close(self) -> None:
        """Free the sessions."""
        self._workers.shutdown()
        for session in self._sessions:
            session.close()

    def __call__(
        self,
        images: Float32Array,
        directions: Float32Array,
        progress: Callable[[], None] | None = None,
    ) -> Rows:
        """Run images (n, C, H, W) with the tangents X x (n, G, C, H, W)."""
        count = len(self.generators)
        start = np.ascontiguousarray(np.moveaxis(directions, 1, 0))
        live = {self._image.name or "": _Live(images, (_TOTAL, _ACTION), np.concatenate([start, start]))}
        subnetwork: dict[int, Float64Array] = {}
        for index, (stage, session) in enumerate(zip(self.stages, self._sessions, strict=True)):
            with stage_errors(stage):
                measured = self._run_stage(stage, session, live, len(images))
            if stage.source is not None:
                subnetwork[stage.source] = measured
            for name in [n for n in live if self._last_use.get(n, -1) <= index and n != self._output.name]:
                gone = live.pop(name)
                if name != self._image.name:
                    self._buffers.give(gone.buffer)
            give_back()
            if progress is not None:
                progress()
        z = live[self._output.name or ""]
        rows = z.buffer.reshape(-1, count, *z.buffer.shape[1:])
        sources = tuple(s for s in z.ids if s >= 0)
        by_image = np.moveaxis(rows, 2, 0)
        return Rows(
            value=z.value,
            sources=sources,
            contributions=by_image[:, 2 : 2 + len(sources)],
            total=by_image[:, 0],
            subnetwork=np.stack([subnetwork[s] for s in sources], axis=1)
            if sources
            else np.zeros((len(images), 0, count, count)),
        )

    def _room(self, value: ir.Value, stage: Stage, ids: tuple[int, ...], n: int) -> _Live:
        """Return room for an output and its rows, and for the zero rows that later readers will want behind them."""
        shape = shape_for(value, n)
        count = len(self.generators)
        own = len(stage.rows_out) + 2
        capacity = max(own, self._capacity.get(value.name or "", 0))
        rows = (capacity * count, *shape)
        # the graph's output leaves with the caller
        buffer = np.empty(rows, np.float32) if value is self._output else self._buffers.take(rows)
        buffer[own * count :] = 0
        return _Live(np.empty(shape, np.float32), ids, buffer)

    def _spans(self, stage: Stage, rows: int, n: int) -> list[slice]:
        """Cut the rows into parts for the cores, so that the sessions' own memory is a quarter of the budget."""
        fitting = self._workspaces[stage].rows_within(self._budget // 4 // self._parts, n)
        parts = max(math.ceil(rows / fitting), min(self._parts, rows // _LEAST_ROWS), 1)
        edges = [rows * i // parts for i in range(parts + 1)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def _run_stage(
        self,
        stage: Stage,
        session: Session,
        live: dict[str, _Live],
        n: int,
    ) -> Float64Array:
        count = len(self.generators)
        ids = (_TOTAL, _ACTION, *stage.rows_in)
        held = [live[v.name or ""] for v in stage.inputs]
        rows_in = {f"{v.name}.tangent": _aligned(item, ids, count) for v, item in zip(stage.inputs, held, strict=True)}
        values: dict[str, Float32Array] = {v.name or "": item.value for v, item in zip(stage.inputs, held, strict=True)}
        made = {v.name or "": self._room(v, stage, ids, n) for v in stage.outputs}
        targets = {name: item.value for name, item in made.items()}
        for name in [name for name in made if self._layouts[name].spatial]:
            targets[f"{name}.action"] = np.empty((count, *made[name].value.shape), np.float32)

        def run(span: slice) -> None:
            feeds = values | {name: rows[span] for name, rows in rows_in.items()}
            wanted = {f"{name}.tangent": item.buffer[span] for name, item in made.items()}
            session.run_into(feeds, wanted | (targets if span.start == 0 else {}))

        spans = self._spans(stage, len(ids) * count, n)
        if len(spans) == 1:
            run(spans[0])
        else:
            list(self._workers.map(run, spans))
        measured = np.zeros((n, count, count))
        dims = 0
        for name, item in made.items():
            action = targets.get(f"{name}.action")
            first, second = item.buffer[:count], item.buffer[count : 2 * count]
            lie = first if action is None else first - action
            measured += _products(by_image(lie, self._layouts[name], n), self._related)
            dims += item.value.size // n
            if stage.source is not None:
                fresh = item.buffer[len(ids) * count : (len(ids) + 1) * count]
                if action is None:
                    fresh[...] = second
                    second[...] = 0
                else:
                    np.subtract(second, action, out=fresh)
                    second[...] = action
                item.ids = (*ids, stage.source)
            live[name] = item
        return measured / dims


def by_image(rows: Float32Array, layout: Layout, n: int) -> Float32Array:
    """Return the rows (G, *shape) of a tensor as (G, n, -1), whichever axis the images lie on."""
    atoms = [atom for axis in layout.axes for atom in axis]
    at = next((i for i, atom in enumerate(atoms) if atom.role == "batch"), None)
    if at:
        sizes = [n if atom.role == "batch" else atom.size for atom in atoms]
        rows = np.moveaxis(rows.reshape(len(rows), *sizes), at + 1, 1)
    return rows.reshape(len(rows), n, -1)


def _products(flat: Float32Array, related: npt.NDArray[np.bool_]) -> Float64Array:
    """Return the inner products per image of related pairs, (n, G, G), of rows (G, n, -1); 0 for the others."""
    n = flat.shape[1]
    whole = flat.shape[-1] // _BLOCK * _BLOCK
    blocks = flat[..., :whole].reshape(len(flat), n, -1, _BLOCK)
    rest = flat[..., whole:]
    out = np.zeros((n, len(flat), len(flat)))
    for i, j in np.argwhere(np.triu(related)):
        found = np.einsum("nbi,nbi->nb", blocks[i], blocks[j]).sum(axis=1, dtype=np.float64)
        out[:, i, j] = out[:, j, i] = found + np.einsum("ni,ni->n", rest[i], rest[j])
    return out


def _aligned(item: _Live, ids: tuple[int, ...], count: int) -> Float32Array:
    """Return the rows with these ids; rows that a tensor does not have are zero."""
    if item.ids == ids[: len(item.ids)] and len(item.buffer) >= len(ids) * count:
        return item.buffer[: len(ids) * count]
    out = np.zeros((len(ids) * count, *item.buffer.shape[1:]), np.float32)
    for position, row in enumerate(item.ids):
        at = ids.index(row)
        out[at * count : (at + 1) * count] = item.buffer[position * count : (position + 1) * count]
    return out


def _capacities(stages: tuple[Stage, ...]) -> dict[str, int]:
    """Give, for each tensor, how many rows its later readers want, where its own are the first of them."""
    wanted: dict[str, int] = {}
    own = {v.name or "": stage.rows_out for stage in stages for v in stage.outputs}
    for stage in stages:
        for value in stage.inputs:
            name = value.name or ""
            if name in own and own[name] == stage.rows_in[: len(own[name])]:
                wanted[name] = max(wanted.get(name, 0), len(stage.rows_in) + 2)
    return wanted


def stage_graph(
    model: ir.Model, stage: Stage, layouts: Mapping[ir.Value, Layout], action: Action
) -> tuple[ir.Model, Workspace]:
    """Return the graph of one stage, and what it takes: values and rows in; values, rows and X h of its grids out."""
    rewritten = rewrite(cut_out(model, stage))
    workspace = Workspace.of(rewritten)
    made = rewritten.model
    emit = Emitter(made.graph, opset=made.graph.opset_imports[""])
    by_name = {value.name: value for value in made.graph.outputs}
    for value in stage.outputs:
        if not layouts[value].spatial:
            continue
        rows = emit_action(emit, by_name[value.name], layouts[value], action)
        named = emit.op("Identity", rows)
        named.name = f"{value.name}.action"
        named.shape = ir.Shape([None] * (len(value.shape or ()) + 1))
        made.graph.outputs.append(named)
    _drop_copies(made.graph)
    try:
        passes.CheckerPass()(made)
    except Exception as problem:
        raise ModelError(
            f"the graph of the layers before {stage.outputs[0].name} is not valid: {problem.__cause__ or problem}",
            reason="STAGE_INVALID",
            subject=stage.outputs[0].name or "",
        ) from problem
    return made, workspace


def _drop_copies(graph: ir.Graph) -> None:
    """Let rows that are also read inside be outputs themselves, where an Identity would copy them."""
    for at, output in enumerate(list(graph.outputs)):
        node = output.producer()
        if node is None or not is_op(node, "Identity"):
            continue
        source = node.inputs[0]
        if source is None or source.producer() is None or source.is_graph_output():
            continue
        name = output.name
        graph.outputs[at] = source
        graph.remove(node)
        source.name, source.shape = name, output.shape
