"""Layerwise attribution of a whole set of images, shard by shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from lieaudit.errors import UnsupportedOpError
from lieaudit.layerwise.reduce import by_generator, join, reduce_rows
from lieaudit.layerwise.summary import summarise
from lieaudit.metrics.lee import OutputAction, lie_derivative
from lieaudit.progress import StageProgress
from lieaudit.shards import compute_once
from lieaudit.symmetries import get_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lieaudit.derivatives.base import Differentiator, Float32Array, Float64Array
    from lieaudit.graph.load import AuditableModel
    from lieaudit.layerwise.prepared import Prepared
    from lieaudit.layerwise.rows import Rows
    from lieaudit.measure import Images
    from lieaudit.progress import ProgressCallback
    from lieaudit.report import Layerwise
    from lieaudit.shards import Arrays, ShardStore
    from lieaudit.spec import AuditSpec

SHARD = 8
"""Images per shard: layerwise work per image is many times that of the audit."""


class Pass(Protocol):
    """A way to compute all contributions for one set of generators: `Chain` or `DifferenceChain`."""

    stages: tuple[object, ...]

    @property
    def images_at_once(self) -> int:
        """How many images fit the memory budget."""
        ...

    def __call__(
        self, images: Float32Array, directions: Float32Array, progress: Callable[[], None] | None = None
    ) -> Rows:
        """Give the rows of images (n, C, H, W) with tangents (n, G, C, H, W)."""
        ...

    def close(self) -> None:
        """Free the sessions."""
        ...


class Attributor:
    """Computes the contributions of every segment for every generator of a spec.

    Generators that move pixels share their passes; a gain commutes with other segments and has its own.

    Parameters
    ----------
    model, spec
        What to attribute; ``spec.method`` chooses ``forward`` or ``finite_difference``, ``auto`` the first that works.

    Raises
    ------
    UnsupportedOpError
        ``forward`` was asked for and an op on the way has no derivative rule.
    SpecError
        A declared layout does not fit.
    BudgetError
        One image and one generator do not fit the memory budget.
    """

    def __init__(self, model: AuditableModel, spec: AuditSpec) -> None:
        from lieaudit.layerwise.prepared import prepare

        self.prepared: Prepared = prepare(model, spec)
        self.method = "finite_difference" if spec.method == "finite_difference" else "forward"
        self._model, self._spec = model, spec
        self._passes: dict[tuple[str, ...], Pass] = {}
        spatial = tuple(g for g in spec.generators if get_generator(g).spatial)
        gains = tuple(g for g in spec.generators if not get_generator(g).spatial)
        self.groups = [group for group in (spatial, gains) if group]
        if spec.method in {"auto", "torch"}:
            try:
                self.sessions(self.groups[0])
            except UnsupportedOpError:
                self.method = "finite_difference"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in the order of the arrays."""
        own = tuple(s.name for s in self.prepared.segmentation.segments)
        return (*own, "output head") if self.head_segment else own

    @property
    def head_segment(self) -> bool:
        """Whether the head applied outside the graph is a segment of its own: a map through a pointwise function."""
        return self._model.head.spatial and self._model.head.function != "identity"

    def sessions(self, generators: tuple[str, ...]) -> Pass:
        """Give the sessions for these generators; only one set, and so one copy of the weights, is kept at a time."""
        from lieaudit.layerwise.chain import Chain
        from lieaudit.layerwise.differences import DifferenceChain

        if generators not in self._passes:
            for other in self._passes.values():
                other.close()
            kind = Chain if self.method == "forward" else DifferenceChain
            self._passes = {}
            self._passes[generators] = kind(self._model, self.prepared, self._spec, generators)
        return self._passes[generators]

    def attribute(
        self,
        images: Float32Array,
        directions: Float32Array,
        lie: Float64Array,
        progress: Callable[[], None] | None = None,
    ) -> Arrays:
        """Reduce the contributions of images (n, C, H, W) to numbers per image and segment.

        Parameters
        ----------
        directions
            X x, (n, G, C, H, W), in the order of the spec's generators.
        lie
            L F of the same images by an independent path, float64 (n, G, \\*K): what the contributions must add up to.
        progress
            Called after every stage of every batch.

        Returns
        -------
        Arrays
            See `reduce_rows`, with all generators of the spec.
        """
        order = {g: i for i, g in enumerate(self._spec.generators)}
        found = []
        for group in self.groups:
            columns = [order[g] for g in group]
            running = self.sessions(group)
            action = OutputAction.of(self._spec) if self._model.head.spatial else None
            parts = []
            for start in range(0, len(images), running.images_at_once):
                span = slice(start, start + running.images_at_once)
                rows = running(images[span], directions[span][:, columns], progress)
                parts.append(
                    reduce_rows(rows, lie[span][:, columns], self._model.head, len(self.names), group, action)
                )
            found.append((columns, join(parts)))
        return by_generator(found)

    def steps(self) -> int:
        """Give how often `progress` is called per batch of images."""
        return sum(len(self.sessions(group).stages) for group in self.groups)

    def summarise(self, arrays: Arrays) -> dict[str, Layerwise]:
        """Give the report's part from the joined arrays of all shards."""
        return summarise(arrays, self.prepared.segmentation, self._spec, self.method, self.names)


def attribute_layers(
    model: AuditableModel,
    images: Images,
    differentiator: Differentiator,
    *,
    shards: ShardStore | None = None,
    progress: ProgressCallback | None = None,
) -> Mapping[str, Layerwise]:
    """Attribute every image of an audit; the report's ``layerwise``.

    Parameters
    ----------
    model
        The audited model.
    images
        Its images and spec; ``spec.layerwise`` gives the level.
    differentiator
        The audit's own method: its L F is what the contributions have to add up to.
    shards, progress
        As of `lieaudit.audit`; progress counts images.

    Raises
    ------
    LieauditError
        As `Attributor`.
    """
    spec = images.spec
    attributor = Attributor(model, spec)
    action = OutputAction.of(spec) if model.head.spatial else None
    stage = StageProgress(progress, "layerwise", images.count)
    found = []
    for start in range(0, images.count, SHARD):
        indices = list(range(start, min(start + SHARD, images.count)))

        def compute(indices: list[int] = indices) -> Arrays:
            pixels = images.load(indices)
            directions = images.tangents(pixels)
            derivatives = differentiator(pixels, directions)
            lie = lie_derivative(derivatives, model.head, spec.generators, action)
            return attributor.attribute(pixels, directions, lie.value)

        key = f"layerwise-{spec.layerwise}-{spec.depth or 0}-{attributor.method}-{start:08d}"
        arrays, computed = compute_once(shards, key, compute)
        stage.advance(len(indices), measured=computed)
        found.append(arrays)
    return attributor.summarise(join([{n: np.asarray(a) for n, a in arrays.items()} for arrays in found]))
