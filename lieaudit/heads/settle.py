"""Settling, before anything is measured, which function of the model is audited."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.data.classes import match_classes
from lieaudit.errors import DataError
from lieaudit.graph import joined
from lieaudit.graph.selection import check_size
from lieaudit.heads.choice import HEAD_UNDECLARED, Choice, choose
from lieaudit.heads.evidence import ClassLabels
from lieaudit.heads.maps import Located, locate
from lieaudit.metrics.lee import check_finite
from lieaudit.report import HeadCheck
from lieaudit.runtime.session import Session

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.images import Images
    from lieaudit.parts.binding import BoundParts
    from lieaudit.spec import AuditSpec

LOOKED_AT = 16
"""Images whose outputs are looked at, spread over the set."""

LABELLED = 256
"""Images whose labels are looked at where nothing else tells what the output holds."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settled:
    """A model whose head is settled.

    Attributes
    ----------
    model
        With the head, and its map rearranged to (N, …, H, W).
    choice
        The head and the evidence for it.
    indices, rows
        The images that were looked at, and their raw outputs (n, *K) as the model now gives them.
    shape_before
        *K before the map was rearranged.
    """

    model: AuditableModel
    choice: Choice
    indices: tuple[int, ...]
    rows: npt.NDArray[np.float64] | None
    shape_before: tuple[int, ...]

    @property
    def check(self) -> HeadCheck:
        """What the report says of it."""
        chosen = self.choice.head.name if self.model.parts is None else "parts"
        return HeadCheck(chosen, self.choice.why)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no result is conclusive, with the heads to choose from; empty where the head is settled."""
        return (f"{HEAD_UNDECLARED}: {self.choice.undeclared}",) if self.choice.undeclared else ()


def settle(model: AuditableModel, spec: AuditSpec, images: Images | None = None) -> Settled:
    """Choose the head of a model; without images what the graph alone can tell is proposed.

    Raises
    ------
    SpecError
        HEAD_MISMATCH, or a declared layout that does not fit the output.
    ModelError
        OUTPUT_NOT_FINITE: an image's output is NaN or infinite.
    """
    if model.parts is not None:
        return _parts(model, model.parts, spec, images)
    located = locate(model, spec) if len(model.output_shape) > 1 else Located("vector", "vector")
    indices = images.spread(_count(model, spec)) if images is not None else []
    rows = _raw(model, images, indices) if images is not None else None
    facts = replace(model.facts, layout=located.kind, rows=rows)
    if images is not None:
        folders = images.dataset.class_folders
        facts = replace(facts, class_names=len(spec.classes) or (len(folders.names) if folders is not None else 0))
    arrangement = located.arrangement
    arranges = arrangement is not None and (
        (located.kind == "map" and spec.head in {"auto", "spatial"}) or spec.head == "spatial"
    )
    if arranges and arrangement is not None:
        rows = arrangement.apply(rows) if rows is not None else None
        facts = replace(facts, shape=arrangement.shape, axis=located.axis, rows=rows)
    classes = _classes(model, images) if images is not None and len(facts.shape) == 1 and facts.size > 1 else None
    if classes is not None and rows is not None:
        facts = replace(facts, labels=ClassLabels.of(rows, classes[indices]))
    choice = choose(facts, spec.head)
    if choice.undeclared and classes is not None and images is not None:
        more = images.spread(LABELLED)
        choice = choose(replace(facts, labels=ClassLabels.of(_raw(model, images, more), classes[more])), spec.head)
    headed = _with_head(model, choice, located if arranges else None)
    return Settled(headed, choice, tuple(indices), rows, model.output_shape)


def _parts(model: AuditableModel, parts: BoundParts, spec: AuditSpec, images: Images | None) -> Settled:
    """Bring the parts of a model to one size, as their values on some images are."""
    texts = dict.fromkeys(reading.part.text for reading in parts.readings)
    choice = Choice(model.head, f"the parts say what the outputs hold: {'; '.join(texts)}")
    if images is None:
        return Settled(model, choice, (), None, model.output_shape)
    indices = images.spread(_count(model, spec))
    rows = _raw(model, images, indices)
    graph = model.model.clone()
    scaled = joined.scaled(graph, parts, rows)
    model = replace(model, model=graph, output_name=graph.graph.outputs[0].name or "", parts=scaled)
    return Settled(model, choice, tuple(indices), rows, model.output_shape)


def _count(model: AuditableModel, spec: AuditSpec) -> int:
    """How many images' outputs, with a few arrays of their size, fit an eighth of the budget."""
    return int(max(1, min(LOOKED_AT, spec.budget // 8 // (64 * model.output_size))))


def _raw(model: AuditableModel, images: Images, indices: list[int]) -> npt.NDArray[np.float64]:
    """Return the raw outputs of some images, one run each: few images need no large batch."""
    with Session(
        model.model, provider=images.spec.provider, threads=images.spec.threads, allow_fallback=True
    ) as session:
        found = []
        for index in indices:
            found.append(session.run({model.input_name: images.load([index]), **images.further.rows([index])})[0])
            check_size(model.info.output.name, found[-1].shape, model.output_shape)
            check_finite(found[-1], [index])
    return np.concatenate(found).reshape(len(indices), *model.output_shape).astype(np.float64)


def _classes(model: AuditableModel, images: Images) -> npt.NDArray[np.int64] | None:
    """Return the component that each image's label stands for; None where that is not known."""
    spec = images.spec
    try:
        return match_classes(images.dataset, model.output_size, classes=spec.classes, offset=spec.class_offset)
    except DataError:
        return None


def _with_head(model: AuditableModel, choice: Choice, located: Located | None) -> AuditableModel:
    info = replace(model.info, head=choice.head.name)
    if located is None or located.arrangement is None:
        return replace(model, head=choice.head, info=info)
    arrangement = located.arrangement
    if arrangement.trivial:
        return replace(model, head=choice.head, info=info, arrangement=arrangement)
    graph = model.model.clone()
    arrangement.append(graph)
    note = f"output {info.output.name!r} is {located.text} and was rearranged to (N, C, H, W)"
    return replace(
        model,
        model=graph,
        head=choice.head,
        output_name=graph.graph.outputs[0].name or "",
        output_shape=arrangement.shape,
        info=replace(info, notes=(*info.notes, note)),
        arrangement=arrangement,
    )
