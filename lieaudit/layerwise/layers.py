"""The module tree with layouts, without running an attribution: what ``inspect --layers`` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lieaudit.layerwise.preparation import prepare

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One segment: the fields of the message ``lieaudit.v1.LayerInfo``.

    Attributes
    ----------
    name, depth
        Dotted module path and its depth in the tree.
    kind, ops
        Kind of layer; distinct op types in order.
    boundary, layout
        The tensor the segment ends at, and where the image is in it.
    """

    name: str
    depth: int
    kind: str
    ops: tuple[str, ...]
    boundary: str
    layout: str


def layers(model: AuditableModel, spec: AuditSpec) -> tuple[LayerInfo, ...]:
    """Return the segments that an attribution with this ``spec`` would report (``none``: by module).

    Raises
    ------
    SpecError, ModelError
        As `lieaudit.layerwise.preparation.prepare`.
    """
    return tuple(
        LayerInfo(s.name, s.depth, s.kind, s.ops, s.boundary.name or "", s.layout.text)
        for s in prepare(model, spec).segmentation.segments
    )
