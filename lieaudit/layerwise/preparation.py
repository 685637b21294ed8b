"""A model made ready for layerwise attribution: shapes measured, axes tracked, shape arithmetic settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.errors import ModelError
from lieaudit.graph.forward import inline_control_flow, measure_shapes
from lieaudit.graph.forward.pixel_sizes import followers
from lieaudit.graph.nodes import subgraphs
from lieaudit.layerwise.constant_integers import probe_integers
from lieaudit.layerwise.segments import Segmentation, segment
from lieaudit.layerwise.stages import Stage, commuting, plan_stages, settle_shapes, shape_tensors
from lieaudit.layerwise.tracking import track
from lieaudit.layouts.axes import Axes
from lieaudit.layouts.layout import parse_layouts
from lieaudit.layouts.tracker import Tracker, measured_sizes

if TYPE_CHECKING:
    from lieaudit.graph.load import AuditableModel
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator


@dataclass(frozen=True, slots=True)
class Prepared:
    """A copy of the normalised graph, its axes and its segments."""

    model: ir.Model
    tracker: Tracker
    segmentation: Segmentation

    def stages(self, generators: Sequence[str | Generator], *, keep_all: bool = False) -> tuple[Stage, ...]:
        """Return the stages for generators that commute alike; ``keep_all`` gives every segment a row."""
        segments = self.segmentation.segments
        commutes = [own and not keep_all for own in commuting(segments, generators)]
        return plan_stages(segments, commutes, self.tracker, shape_tensors(self.model, self.tracker))


def prepare(model: AuditableModel, spec: AuditSpec) -> Prepared:
    """Measure, track and cut; ``spec`` gives level, depth and declared layouts.

    Raises
    ------
    SpecError
        A declared layout names no tensor or does not fit it.
    ModelError
        The graph does not run.
    """
    copy, tracker = tracked(model, spec)
    level = "module" if spec.layerwise == "none" else spec.layerwise
    return Prepared(copy, tracker, segment(copy, tracker, level=level, depth=spec.depth, spatial=model.head.spatial))


def check_layouts(model: AuditableModel, spec: AuditSpec) -> None:
    """Refuse declared layouts that do not fit, before any work: whatever else fails later leaves the audit standing.

    Raises
    ------
    SpecError
        A declared layout names no tensor or does not fit it.
    """
    if spec.layouts:
        with suppress(ModelError):
            prepare(model, spec)


def tracked(model: AuditableModel, spec: AuditSpec) -> tuple[ir.Model, Tracker]:
    """Return a copy of the normalised graph with measured shapes, and the axes of its tensors.

    A layout that is declared for the audited output holds for the tensor that this was made of.

    Raises
    ------
    SpecError
        A declared layout names no tensor or does not fit it.
    ModelError
        The graph does not run.
    """
    copy = model.model.clone()
    integers = _settled(copy)
    while any(subgraphs(node) for node in copy.graph) and inline_control_flow(copy):
        integers = _settled(copy)
    layouts = {
        model.raw_output if name == model.info.output.name else name: text for name, text in spec.layouts.items()
    }
    return copy, track(copy, integers=integers, declared=_declared(copy, layouts))


def _settled(model: ir.Model) -> Mapping[str, npt.NDArray[Any]]:
    """Measure shapes and make constants of what follows from them, in place; give the integers known to be constant."""
    measure_shapes(model)
    settle_shapes(model, followers(model).sizes)
    found = followers(model)
    integers = probe_integers(model, found.values)
    _freeze(model, integers)
    return integers


def _declared(model: ir.Model, layouts: Mapping[str, str]) -> dict[str, Axes]:
    if not layouts:
        return {}
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    sizes = {value.name or "": measured_sizes(value) for value in values}
    return parse_layouts(layouts, {name: size for name, size in sizes.items() if size is not None})


def _freeze(model: ir.Model, integers: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace integer tensors that are the same for every image and batch by constants."""
    graph = model.graph
    for node in list(graph):
        for value in node.outputs:
            if value.name not in integers or value.is_graph_output():
                continue
            name = f"{value.name}.frozen"
            constant = ir.Value(name=name, const_value=ir.tensor(integers[value.name or ""], name=name))
            constant.type, constant.shape = value.type, value.shape
            graph.register_initializer(constant)
            value.replace_all_uses_with(constant)
    passes.RemoveUnusedNodesPass()(model)
