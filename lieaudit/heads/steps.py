"""Outputs that move in steps: what lies between the image and the output has derivative 0, which measures nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lieaudit.graph.names import called
from lieaudit.metrics.relative import Other
from lieaudit.ops import FLOATS, Use, is_op, lookup

if TYPE_CHECKING:
    from lieaudit.images import Images
    from lieaudit.measured import Measured
    from lieaudit.method import Method

PIECEWISE_CONSTANT = "PIECEWISE_CONSTANT"
"""Code of an inconclusive result: every derivative is exactly 0, and says nothing about finite steps."""

BLANK_IMAGES = "BLANK_IMAGES"
"""Code of an inconclusive result: no image has a tangent along this generator."""

_NAMED = 3
_LONGEST = 60
_ASKED = 4
"""Images that are asked about another direction where `relative` is not measured."""
_SECANTS = "measure secants of a stated size: --step 0.5px"


@dataclass(frozen=True, slots=True)
class Steps:
    """The step ops that the image reaches.

    Attributes
    ----------
    rounding
        Nodes that round what they pass on, as QuantizeLinear does.
    deciding
        Nodes that make integers or truth values of it, as ArgMax, Greater or a Cast to an integer.
    blocked
        No path from the image to the output goes around them: every derivative is 0.
    """

    rounding: tuple[str, ...] = ()
    deciding: tuple[str, ...] = ()
    blocked: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no limit t → 0 of this graph is meaningful; empty where it is."""
        if self.rounding:
            made = f"{_listed(self.rounding)} is piecewise constant"
            return (f"{PIECEWISE_CONSTANT}: {made}, so the limit t → 0 is not meaningful; {_SECANTS}",)
        if self.blocked:
            return (f"{PIECEWISE_CONSTANT}: the output moves in steps, made by {_listed(self.deciding)}; {_SECANTS}",)
        return ()


def steps_of(model: ir.Model) -> Steps:
    """Follow the image through a normalised graph and collect the step ops on its way, as `lieaudit.ops` knows them."""
    smooth = {model.graph.inputs[0]}
    opset = model.opset_imports.get("", 0)
    rounding: dict[str, None] = {}
    deciding: dict[str, None] = {}
    whole: dict[ir.Value, str] = {}
    for node in model.graph:
        for name in _rounded(node, whole):
            rounding.setdefault(name)
        use = Use.of(node, opset, smooth)
        if not use.active and not any(value in smooth for value in _captured(node)):
            continue
        entry = lookup(node)
        rule = entry.tangent if entry is not None else None
        if is_op(node, "Cast") and _integer(node.outputs[0]):
            whole[node.outputs[0]] = _name(node)
        floats = [value for value in node.outputs if value.dtype is None or value.dtype in FLOATS]
        if rule is not None and use.active and not rule.moves(use) and rule.covers(use):
            if rule.jumps(use):
                (deciding if rule.differentiable else rounding).setdefault(_name(node))
        elif not floats:
            deciding.setdefault(_name(node))
        else:
            smooth.update(floats)
    blocked = not any(output in smooth for output in model.graph.outputs)
    return Steps(tuple(rounding), tuple(deciding), blocked)


def _rounded(node: ir.Node, whole: dict[ir.Value, str]) -> list[str]:
    """Follow whole numbers that a Cast made of floats; name the Casts whose numbers are floats again after this node.

    A Cast to an integer and back is a Round under another name. What decides only, such as an index, makes no float.
    """
    found = list(dict.fromkeys(whole[value] for value in node.inputs if value in whole))
    op = lookup(node)
    if not found or op is None or not (op.elementwise or op.copies or is_op(node, "Concat", "Where")):
        return []
    if is_op(node, "Cast") and node.outputs[0].dtype in FLOATS:
        return found
    if _integer(node.outputs[0]):
        whole[node.outputs[0]] = found[0]
    return []


def _integer(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_integer()


def _captured(node: ir.Node) -> Iterable[ir.Value]:
    graphs = [a.value for a in node.attributes.values() if isinstance(a.value, ir.Graph)]
    return (value for graph in graphs for inner in graph.all_nodes() for value in inner.inputs if value is not None)


def _name(node: ir.Node) -> str:
    to = f" to {ir.DataType(node.attributes['to'].as_int()).numpy()}" if node.op_type == "Cast" else ""
    op, _, quoted = called(node).partition(" ")
    name = quoted[1:-1]
    # converters from TFLite join the names of all that they fused
    shown = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return f"{op}{to} '{shown}'"


def _listed(names: tuple[str, ...]) -> str:
    """Name some nodes; those of one op together, by the first of them."""
    ops: dict[str, list[str]] = {}
    for name in names:
        ops.setdefault(name.partition(" '")[0], []).append(name)
    shown = [f"{found[0]} and {len(found) - 1} more" if len(found) > 1 else found[0] for found in ops.values()]
    others = f" and {len(shown) - _NAMED} other ops" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + others


def silent_reasons(measured: Measured, images: Images, method: Method) -> list[tuple[str, ...]]:
    """Give, per generator, why its LEE of 0 says nothing: no derivative of z answers, or no image has a tangent.

    A model that is exactly invariant under one generator and answers to another direction is measured.
    """
    spec = images.spec
    if any(reason.startswith(PIECEWISE_CONSTANT) for reason in method.reasons):
        return [()] * len(spec.generators)  # said of all generators already, with the ops
    moving = np.atleast_1d(measured.moves.any(axis=0))
    if images.count > 1 and moving.any() and not measured.answers.any() and not _answers(measured, images, method):
        found = (*method.steps.rounding, *method.steps.deciding)
        made = f", in steps made by {_listed(found)}" if found else ""
        way_out = _SECANTS if spec.step is None and spec.secant_px is None else "raise --step"
        differs = "differs between images" if len(np.unique(measured.digest)) > 1 else "is the same for all images"
        reason = f"{PIECEWISE_CONSTANT}: the output {differs}, but every derivative of it is exactly 0{made}; {way_out}"
        return [(reason,)] * len(spec.generators)
    blank = f"{BLANK_IMAGES}: no image changes along it, so nothing was asked of the model"
    return [() if moves else (blank,) for moves in moving]


def _answers(measured: Measured, images: Images, method: Method) -> bool:
    """Say whether the raw outputs answer to the direction of `relative`; where that was not measured, ask now."""
    if np.isfinite(measured.other).any() or images.spec.secant_px is not None:
        return bool(measured.other_answers.any())
    indices = images.spread(_ASKED)
    pixels, plan = images.load(indices), images.plan
    partners = images.load([images.partner(i, 0) for i in indices])
    others, _ = Other.of(images.tangents(pixels, plan.measured), images.tangents(partners, plan.measured), plan)
    found = method.derivative(pixels, others, 0, images.further.rows(indices), judged=0)
    return bool(np.any(found.tangent != 0))
