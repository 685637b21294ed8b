"""Where the image lies in an output: derived by following its axes through the graph, or declared, never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lieaudit.errors import ModelError
from lieaudit.graph.arrangement import Arrangement
from lieaudit.layerwise.preparation import tracked
from lieaudit.layouts.axes import GRID, HEIGHT, WIDTH, Axis, digits, size_of
from lieaudit.layouts.layout import Layout, layout_of

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec


@dataclass(frozen=True, slots=True)
class Located:
    """What the axes of an output say.

    Attributes
    ----------
    kind
        ``map``, ``cells``, ``scattered``, ``vector`` or ``unknown``; see `lieaudit.heads.choice.Facts`.
    text
        The layout with its sizes, for people.
    arrangement
        How the output becomes a map (N, …, H, W); None where it cannot.
    axis
        Where the softmax's axis is after that.
    """

    kind: str
    text: str
    arrangement: Arrangement | None = None
    axis: int = 0


def locate(model: AuditableModel, spec: AuditSpec) -> Located:
    """Find the image's height and width among the axes of the model's output (N, *K).

    Raises
    ------
    SpecError
        A declared layout does not fit its tensor.
    """
    try:
        graph, tracker = tracked(model, spec)
    except ModelError:
        return Located("unknown", "unknown")
    layout = layout_of(tracker.of(graph.graph.outputs[0]))
    if not layout.known or not _own_batch(layout):
        return Located("unknown", layout.text)
    if not layout.spatial:
        return Located("vector", layout.text)
    arrangement, axis = _arranged(layout, model.facts.axis)
    pure = all(len(part) == 1 for part in layout.axes[1:] if _on_grid(part))
    both = {atom.role for part in layout.axes for atom in part} >= set(GRID)
    kind = "scattered" if arrangement is None else "map" if pure and both else "cells"
    return Located(kind, layout.text, arrangement, axis)


def _own_batch(layout: Layout) -> bool:
    """Say whether the first axis holds the batch and nothing else."""
    return all(atom.role == "batch" for atom in layout.axes[0])


def _on_grid(part: Axis) -> bool:
    return any(atom.role in GRID for atom in part)


def _arranged(layout: Layout, softmax: int) -> tuple[Arrangement | None, int]:
    """Return the arrangement as a map, and the softmax's axis in it; None where tokens, rolls or it forbid that."""
    axes = layout.axes[1:]
    atoms = [atom for part in axes for atom in part]
    if any(atom.parts or atom.shift for atom in atoms):
        return None, 0
    split = tuple(atom.size for atom in atoms)
    rows, columns = (digits(atoms, role) for role in (HEIGHT, WIDTH))
    leading = [at for at in range(len(atoms)) if at not in rows and at not in columns]
    channels = [part for part in axes if part and not _on_grid(part)]
    mixed = any(_on_grid(part) and any(atom.role not in GRID for atom in part) for part in axes)
    # channels that share an axis with positions are one axis of channels afterwards
    lead = (math.prod(split[at] for at in leading),) if mixed else tuple(size_of(part) for part in channels) or (1,)
    height, width = (math.prod(split[at] for at in places) for places in (rows, columns))
    arrangement = Arrangement(split, (0, *(at + 1 for at in (*leading, *rows, *columns))), (*lead, height, width))
    if not softmax:
        return arrangement, 0
    own = axes[softmax - 1]
    if own in channels and not mixed:
        return arrangement, 1 + next(i for i, part in enumerate(channels) if part is own)
    for role, place in ((HEIGHT, len(lead) + 1), (WIDTH, len(lead) + 2)):
        if len(own) == 1 and own[0].role == role and own[0].size == own[0].total:
            return arrangement, place
    return None, 0
