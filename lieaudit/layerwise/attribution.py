"""Layerwise attribution of a whole set of images, shard by shard."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lieaudit.errors import BudgetError, ModelError
from lieaudit.layerwise.differences import DifferenceChain
from lieaudit.layerwise.forward_pass import Chain
from lieaudit.layerwise.preparation import prepare
from lieaudit.layerwise.reduce import join, reduce_rows
from lieaudit.layerwise.stages import StageError
from lieaudit.layerwise.summary import Described, summarise
from lieaudit.metrics.lee import DERIVATIVE_NOT_FINITE, OutputAction, lie_derivative
from lieaudit.progress import StageProgress
from lieaudit.report import Skipped
from lieaudit.shards import compute_once
from lieaudit.symmetries.plan import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lieaudit.derivatives.base import Differentiator, Float32Array, Float64Array
    from lieaudit.graph.load import AuditableModel
    from lieaudit.images import Images
    from lieaudit.layerwise.contribution_rows import Rows
    from lieaudit.layerwise.stages import Stage
    from lieaudit.progress import ProgressCallback
    from lieaudit.report import Layerwise
    from lieaudit.shards import Arrays, ShardStore
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries.plan import Plan

SHARD = 8
"""Images per shard: layerwise work per image is many times that of the audit."""

CALIBRATION_IMAGES = 2
"""Images on which the steps of finite differences are chosen."""

INPUT_PER_IMAGE = "INPUT_PER_IMAGE"

_MIB = 1 << 20


class Pass(Protocol):
    """A way to compute all contributions for one set of generators: `Chain` or `DifferenceChain`."""

    stages: tuple[Stage, ...]

    @property
    def images_at_once(self) -> int:
        """How many images fit the memory budget."""
        ...

    def __call__(
        self, images: Float32Array, directions: Float32Array, progress: Callable[[], None] | None = None
    ) -> Rows:
        """Return the rows of images (n, C, H, W) with tangents (n, G, C, H, W)."""
        ...

    def close(self) -> None:
        """Free the sessions."""
        ...


class Attributor:
    """Computes the contributions of every segment for every generator of a spec.

    Generators that move pixels share their passes as far as the memory budget allows; a gain commutes with other
    segments and has its own.

    Parameters
    ----------
    model, spec
        What to attribute; ``spec.method`` chooses ``forward`` or ``finite_difference``; otherwise forward mode where
        the graph allows it.

    Attributes
    ----------
    parts
        The generators of each pass.
    skipped
        Why forward mode was not used, if it was not.

    Raises
    ------
    UnsupportedOpError
        ``forward`` was asked for and an op on the way has no derivative rule.
    SpecError
        A declared layout does not fit.
    BudgetError
        ROW_OVER_BUDGET: one image and one generator do not fit the memory budget.
    """

    def __init__(self, model: AuditableModel, spec: AuditSpec) -> None:
        self.prepared = prepare(model, spec)
        self.method = "finite_difference" if spec.method == "finite_difference" else "forward"
        self.skipped: tuple[Skipped, ...] = ()
        self._model, self._spec = model, spec
        self._open: tuple[tuple[str, ...], Pass] | None = None
        self._asked = {generator.id: generator for generator in spec.actions(model.height, model.width)}
        self.parts = self._parts()
        if spec.method in {"auto", "torch"}:
            try:
                self.sessions(self.parts[0])
            except ModelError as problem:
                self.method = "finite_difference"
                self.skipped = (Skipped("layerwise.forward", str(problem)),)
                self.parts = self._parts()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in the order of the arrays."""
        own = tuple(s.name for s in self.prepared.segmentation.segments)
        # a map through a pointwise function: the head, applied outside the graph, is a segment of its own
        outside = self._model.head.spatial and self._model.head.function != "identity"
        return (*own, "output head") if outside else own

    @property
    def digest(self) -> str:
        """What tells one way to cut the graph from another: shards of both may lie side by side."""
        plans = [self.plan(part).digest for part in self.parts]
        cut = (self.names, [s.boundary.name for s in self.prepared.segmentation.segments], self.parts, plans)
        return hashlib.sha256(repr(cut).encode()).hexdigest()[:16]

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """Group generators that commute alike, as many as fit the budget for one image."""
        kind = Chain if self.method == "forward" else DifferenceChain
        budget = self._spec.budget // 2
        parts: list[tuple[str, ...]] = []
        for spatial in (True, False):
            group = tuple(name for name, generator in self._asked.items() if generator.spatial == spatial)
            if not group:
                continue
            stages = self.prepared.stages([self._asked[name] for name in group])
            if kind.peak_bytes(stages, len(self.plan(group).measured)) <= budget:
                parts.append(group)
                continue
            at_once = len(group)
            while at_once > 1 and kind.peak_bytes(stages, at_once) > budget:
                at_once -= 1
            needed = kind.peak_bytes(stages, at_once)
            if needed > budget:
                raise BudgetError(
                    f"the layerwise rows of one image take {2 * needed // _MIB + 1} MiB",
                    reason="ROW_OVER_BUDGET",
                    subject="budget_mib",
                    hint="raise --budget, or cut less finely with --depth",
                )
            parts += [group[i : i + at_once] for i in range(0, len(group), at_once)]
        return tuple(parts)

    def plan(self, generators: tuple[str, ...]) -> Plan:
        """Return which directions one pass takes, and how its generators are combined from them."""
        asked = [self._asked[name] for name in generators]
        return plan_of(asked, self._model.height, self._model.width, convention=self._spec.convention)

    def sessions(self, generators: tuple[str, ...]) -> Pass:
        """Return the sessions of one pass; only one pass, and so one copy of the weights, is open at a time.

        They take the directions of its `plan`.
        """
        if self._open is None or self._open[0] != generators:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            plan = self.plan(generators)
            at = self._model, self.prepared, self._spec, plan.measured
            together = (plan.weights != 0).astype(int)
            running = (
                Chain(*at, related=together.T @ together > 0) if self.method == "forward" else DifferenceChain(*at)
            )
            self._open = (generators, running)
        return self._open[1]

    def calibrate(self, generators: tuple[str, ...], images: Float32Array, directions: Float32Array) -> Float64Array:
        """Choose the finite-difference steps of one pass on a few images; forward mode has none."""
        running = self.sessions(generators)
        return running.calibrate(images, directions) if isinstance(running, DifferenceChain) else np.zeros((0, 0))

    def use_steps(self, generators: tuple[str, ...], steps: Float64Array) -> None:
        """Take steps that `calibrate` gave before."""
        running = self.sessions(generators)
        if isinstance(running, DifferenceChain):
            running.steps = steps

    def attribute(
        self,
        generators: tuple[str, ...],
        images: Float32Array,
        directions: Float32Array,
        lie: Float64Array,
        progress: Callable[[int], None] | None = None,
    ) -> Arrays:
        """Reduce the contributions of images (n, C, H, W) for one pass to numbers per image and segment.

        Parameters
        ----------
        generators
            One of `parts`, G of them.
        directions
            X x along the M directions of the pass's `plan`, (n, M, C, H, W).
        lie
            L F of the same images as the audit measured it, float64 (n, G, *K).
        progress
            Called with the number of images after each batch.

        Returns
        -------
        Arrays
            See `reduce_rows`.
        """
        running, plan = self.sessions(generators), self.plan(generators)
        action = OutputAction.of(self._spec) if self._model.head.spatial else None
        parts = []
        for start in range(0, len(images), running.images_at_once):
            span = slice(start, start + running.images_at_once)
            rows = running(images[span], directions[span])
            parts.append(reduce_rows(rows, lie[span], self._model.head, len(self.names), plan, action))
            if progress is not None:
                progress(len(images[span]))
        return join(parts)

    def summarise(self, arrays: Mapping[tuple[str, ...], Arrays]) -> dict[str, Layerwise]:
        """Return the report's part from the joined arrays of every pass, in the order of the spec."""
        merged = (*self.prepared.segmentation.merged, *self.skipped)
        found = {
            generator: replace(
                summarise(own, g, generator, self._described(generator), self._spec, self.method), merged=merged
            )
            for part, own in arrays.items()
            for g, generator in enumerate(part)
        }
        return {generator: found[generator] for generator in self._spec.generators}

    def _described(self, generator: str) -> list[Described]:
        plans = self.prepared.segmentation.segments
        gain = not self._asked[generator].spatial
        described = [
            Described(
                plan.name, plan.ops, plan.kind, plan.boundary.name or "", plan.layout.text, plan.depth,
                commutes=plan.gain if gain else plan.geometric,
            )
            for plan in plans
        ]  # fmt: skip
        last = described[-1]
        outside = [
            Described(n, (), "head", last.boundary, last.layout, 1, commutes=False) for n in self.names[len(plans) :]
        ]
        return described + outside

    def close(self) -> None:
        """Free the sessions."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def attribute_layers(
    model: AuditableModel,
    images: Images,
    differentiator: Differentiator,
    *,
    shards: ShardStore | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Layerwise]:
    """Attribute every image of an audit; the report's ``layerwise``.

    Parameters
    ----------
    model
        The audited model.
    images
        Its images and spec; ``spec.layerwise`` gives the level.
    differentiator
        The audit's own method; its L F is compared with what was decomposed.
    shards, progress
        As of `lieaudit.audit`; progress counts images, once per pass.

    Raises
    ------
    LieauditError
        As `Attributor`; DERIVATIVE_NOT_FINITE where forward mode was asked for and gives no finite contribution;
        INPUT_PER_IMAGE where another input than the image differs between images.
    """
    if model.further.values:
        name = next(iter(model.further.values))
        raise ModelError(
            f"layers are not attributed where another input than the image differs between images: {name!r}",
            reason=INPUT_PER_IMAGE,
            subject=name,
            hint="feed the same value for all images, or audit without --layerwise",
        )
    skipped: tuple[Skipped, ...] = ()
    while True:  # every round has fewer tensors to cut at, or another method
        spec = images.spec
        try:
            return _attribute(model, images, differentiator, shards, progress, skipped)
        except StageError as problem:
            whole = {name: "unknown" for name in problem.tensors if spec.layouts.get(name) != "unknown"}
            if not whole:
                raise
            skipped += tuple(Skipped(name, f"the graph cannot be cut here: {problem}") for name in whole)
            images = replace(images, spec=replace(spec, layouts={**spec.layouts, **whole}))
        except ModelError as problem:
            if problem.reason != DERIVATIVE_NOT_FINITE or spec.method not in {"auto", "torch"}:
                raise
            skipped += (Skipped("layerwise.forward", str(problem)),)
            images = replace(images, spec=replace(spec, method="finite_difference"))


def _attribute(
    model: AuditableModel,
    images: Images,
    differentiator: Differentiator,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
    skipped: tuple[Skipped, ...],
) -> dict[str, Layerwise]:
    spec = images.spec
    attributor = Attributor(model, spec)
    attributor.skipped += skipped
    action, plan = OutputAction.of(spec) if model.head.spatial else None, images.plan
    stage = StageProgress(progress, "layerwise", images.count * len(attributor.parts))
    joined: dict[tuple[str, ...], Arrays] = {}
    for number, part in enumerate(attributor.parts):
        columns = [spec.generators.index(g) for g in part]
        prefix = f"layerwise-{attributor.method}-{attributor.digest}-{number}"
        _take_steps(attributor, images, part, prefix, shards)
        found = []
        for start in range(0, images.count, SHARD):
            indices = list(range(start, min(start + SHARD, images.count)))

            def compute(
                indices: list[int] = indices, part: tuple[str, ...] = part, columns: list[int] = columns
            ) -> Arrays:
                pixels = images.load(indices)
                directions = images.tangents(pixels, attributor.plan(part).measured)
                derivatives = differentiator(pixels, images.tangents(pixels, plan.measured), judged=0)
                measured = lie_derivative(derivatives, model.head, plan.measured, action).value
                lie = np.stack(list(plan.combined(measured)), axis=1)
                own = attributor.attribute(part, pixels, directions, lie[:, columns], stage.advance)
                _check_finite(own, part, attributor.names, indices)
                return own

            arrays, computed = compute_once(shards, f"{prefix}-{start:08d}", compute)
            if not computed:
                stage.advance(len(indices), measured=False)
            found.append(arrays)
        joined[part] = join(found)
    attributor.close()
    return attributor.summarise(joined)


def _check_finite(arrays: Arrays, generators: tuple[str, ...], segments: tuple[str, ...], indices: list[int]) -> None:
    wrong = np.argwhere(~np.isfinite(np.asarray(arrays["lee"], np.float64)))
    if len(wrong):
        image, g, segment = map(int, wrong[0])
        raise ModelError(
            f"what {segments[segment]} contributes along {generators[g]} is NaN or infinite on image {indices[image]}",
            reason=DERIVATIVE_NOT_FINITE,
            subject=segments[segment],
            hint="an op after it has no derivative there, like a root or a norm of 0; take --method finite_difference",
        )


def _take_steps(
    attributor: Attributor,
    images: Images,
    part: tuple[str, ...],
    prefix: str,
    shards: ShardStore | None,
) -> None:
    if attributor.method == "forward":
        return

    def compute() -> Arrays:
        pixels = images.load(images.spread(CALIBRATION_IMAGES))
        directions = images.tangents(pixels, attributor.plan(part).measured)
        return {"steps": attributor.calibrate(part, pixels, directions)}

    arrays, _ = compute_once(shards, f"{prefix}-calibration", compute)
    attributor.use_steps(part, np.asarray(arrays["steps"], np.float64))
