"""Which outputs hold what moves with the picture: recognised where it is certain, else proposed, else named.

A rule is a function of `RULES`: it looks at all outputs and returns what it has recognised, or None. It is *certain*
only where shapes and the values on the user's images leave one reading; otherwise the report is inconclusive, and says
which readings there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lieaudit.parts.looking import LANDMARKS, MOVES, Look, Output, look, may_move
from lieaudit.parts.placing import Array

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from lieaudit.graph.load import AuditableModel
    from lieaudit.images import Images
    from lieaudit.spec import AuditSpec

PARTS_UNDECLARED = "PARTS_UNDECLARED"
"""Code of an inconclusive audit: an output holds what moves with the picture, and no part says how."""

_PYRAMIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (4, 8))
_LIKE = 0.15
"""How far the slope of centres over their cells may be from the one that a unit stands for."""

_OFFSET, _FAR = 0.5, 16.0
"""Offsets from cells, in cells: they do not grow with the cell's place, and reach so far at most."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What outputs were recognised as.

    Attributes
    ----------
    kind
        In words.
    outputs
        The outputs that it is about.
    parts
        Texts of parts; where it is not certain, those to choose from and to complete.
    why
        The evidence.
    certain
        Whether there is no other reading.
    """

    kind: str
    outputs: tuple[str, ...]
    parts: tuple[str, ...]
    why: str
    certain: bool

    @property
    def note(self) -> str:
        """What the report says of parts that were recognised for certain."""
        said = " ".join(f"--part '{part}'" for part in self.parts)
        return f"recognised as {self.kind}, {said}: {self.why}"

    @property
    def undeclared(self) -> str:
        """Why an audit without parts is not conclusive."""
        lines = " ".join(f"--part '{part}'" for part in self.parts)
        ask = f"say what it holds, e.g. {lines}" if lines else "say with --part what it holds (docs/parts.md)"
        return f"{PARTS_UNDECLARED}: the graph gives {self.kind} ({self.why}), which no --head judges rightly; {ask}"


def moving(source: str | Path | bytes | onnx.ModelProto, model: AuditableModel, images: Images) -> Recognised | None:
    """Return what moves with the picture among the outputs, where no part says so and the audited one is among it."""
    spec = images.spec
    if spec.parts or not may_move(model.outputs):
        return None
    found = recognise(look(source, model, spec, images))
    return None if found is None or (spec.output is not None and spec.output not in found.outputs) else found


def takes(found: Recognised, spec: AuditSpec) -> bool:
    """Say whether an audit takes parts that were recognised: they are certain, and it asks for nothing else."""
    plain = spec.head == "auto" and spec.output is None and spec.secant_px is None and spec.method != "torch"
    return found.certain and plain


def recognise(look: Look) -> Recognised | None:
    """Return what the outputs of a graph were recognised as; None where nothing speaks for what moves."""
    for rule in RULES:
        found = rule(look)
        if found is not None:
            return found
    return None


def _selected(look: Look) -> Recognised | None:
    """Non-maximum suppression: which boxes are kept jumps with the image; what feeds it does not."""
    if not look.selected_from:
        return None
    boxes, scores = (*look.selected_from, "", "")[:2]
    part = f"boxes={boxes}:xyxy,order=yx,weight={scores}"
    why = "NonMaxSuppression, which is not differentiable: audit what feeds it; its corners may also be x first"
    return Recognised("selected boxes", tuple(o.name for o in look.outputs), (part,), why, certain=False)


def _cells(look: Look) -> Recognised | None:
    """YOLO: rows, or columns, one for each cell of a pyramid of grids, and anchor."""
    for output in look.outputs:
        if len(output.shape) != 2:
            continue
        for columns, (count, size) in ((False, output.shape), (True, output.shape[::-1])):
            strides, anchors = _pyramid(count, look.size)
            if strides and size >= 5:
                return _yolo(output, look, strides, anchors, columns=columns)
    return None


def _pyramid(count: int, size: tuple[int, int]) -> tuple[tuple[int, ...], int]:
    for strides in _PYRAMIDS:
        cells = sum((size[0] // s) * (size[1] // s) for s in strides)
        if all(side % max(strides) == 0 for side in size) and count in {cells, 3 * cells}:
            return strides, count // cells
    return (), 0


def _yolo(output: Output, look: Look, strides: tuple[int, ...], anchors: int, *, columns: bool) -> Recognised:
    name, size = output.name, output.shape[0 if columns else 1]
    classes = _class_count(look)
    own = f"{'x'.join(str(s) for s in strides)}" if anchors == 1 else f"{'x'.join(map(str, strides))}, 3 anchors"
    why = f"{output.described} has a row for each cell of grids at strides {own}"
    first = not columns if not classes else size - classes == 5
    end = f"{4 + first + classes}" if classes and size > 4 + first + classes else ""

    def cut(span: str) -> str:
        return f"{name}[{span}]" if columns else f"{name}[:, {span}]"

    scores, weight = cut(f"4:{end}"), cut("4") if first else cut(f"4:{end}")
    unit, found = _unit_of(output, look, strides, anchors, columns=columns)
    logits = output.values is not None and not _unit_range(_columns(output, columns=columns)[..., 4:])
    boxes = f"boxes={cut(':4')}:{found}{unit.format(strides=':'.join(map(str, strides)))},weight={weight}"
    boxes += ",score=sigmoid" if logits else ""
    parts = [boxes, f"scores={scores}:invariant"]
    certain = bool(unit) and output.values is not None and not (end and look.metadata.get("task") != "segment")
    if "decode" in unit and not (_columns(output, columns=columns)[..., 2:4] < 0).any():
        certain = False
        why += "; its sizes may be logarithms (decode=exp) or cells (decode=linear)"
    if output.values is None:
        why += "; its unit shows on images: give --data"
    elif not unit:
        why += "; its centres do not lie over their cells, in pixels, shares or cells"
    return Recognised("boxes and scores of a detector", (name,), tuple(parts), why, certain)


def _unit_of(output: Output, look: Look, strides: tuple[int, ...], anchors: int, *, columns: bool) -> tuple[str, str]:
    """Return the options of the unit, empty where it does not show, and the form of the boxes."""
    if output.values is None:
        return "", "cxcywh"
    rows = _columns(output, columns=columns)
    height, width = look.size
    x = np.concatenate(
        [np.tile(np.tile(stride * (np.arange(width // stride) + 0.5), height // stride), anchors) for stride in strides]
    )
    slope, far = (_slope(rows[..., at].mean(axis=0), x) for at in (0, 2))
    form = "xyxy" if abs(far - slope) <= _LIKE * abs(slope) else "cxcywh"
    if abs(slope - 1) <= _LIKE:
        return ",unit=px", form
    if abs(slope * width - 1) <= _LIKE:
        return ",unit=share", form
    start, offsets = 0, []
    for stride in strides:
        stop = start + (height // stride) * (width // stride)
        offsets.append(_slope(rows[:, start:stop, 0].mean(axis=0), x[start:stop]) * stride)
        start = stop
    if anchors == 1 and max(map(abs, offsets)) < _OFFSET and np.abs(rows[..., :2]).max() < _FAR:
        return ",unit=grid,strides={strides},decode=exp", "cxcywh"
    return "", "cxcywh"


def _slope(y: Array, x: Array) -> float:
    return float(np.cov(y, x)[0, 1] / np.var(x, ddof=1))


def _columns(output: Output, *, columns: bool) -> Array:
    """Return values (n, A, K)."""
    assert output.values is not None  # noqa: S101 - asked of the caller
    return np.moveaxis(output.values, 1, 2) if columns else output.values


def _class_count(look: Look) -> int:
    """Return how many classes the exporter's metadata names; 0 where it does not."""
    return len(re.findall(r"\d+\s*:", look.metadata.get("names", "")))


def _queries(look: Look) -> Recognised | None:
    """DETR, RT-DETR: boxes as shares, (Q, 4), beside class logits (Q, C); or both in rows (Q, 4 + C)."""
    for boxes, scores in _pairs(look):
        if boxes.shape[1] != 4 or boxes.values is None or not _unit_range(boxes.values):
            continue
        form = _share_form(boxes)
        if form and boxes.shape[0] <= 1000:
            classes = scores.shape[1]
            plain = scores.values is not None and _unit_range(scores.values)
            score = "" if plain else ",score=softmax,background=last" if classes == 92 else ",score=sigmoid"
            why = f"{boxes.described} are shares of the size, a row for each of {scores.described}"
            parts = (f"boxes={boxes.name}:{form},unit=share,weight={scores.name}{score}",
                     f"scores={scores.name}:invariant")  # fmt: skip
            known = plain or classes in {80, 92}
            if not known:
                why += "; its scores may be of a sigmoid, or of a softmax whose last class is the background"
            return Recognised("boxes and scores of queries", (boxes.name, scores.name), parts, why, known)
    return None


def _share_form(boxes: Output) -> str:
    """Return cxcywh where corners would be out of order, else nothing: both readings fit."""
    values = boxes.values
    assert values is not None  # noqa: S101 - asked of the caller
    return "cxcywh" if (values[..., 2] < values[..., 0]).any() or (values[..., 3] < values[..., 1]).any() else ""


def _anchored(look: Look) -> Recognised | None:
    """SSD- and BlazeFace-like pairs: offsets from anchors that the graph does not hold."""
    parts: list[str] = []
    outputs: list[str] = []
    for at, (boxes, scores) in enumerate(_pairs(look)):
        mark = str(at + 1) if at else ""
        one = scores.shape[1] == 1
        score = ",score=sigmoid" if one else ",score=softmax,background=first"
        if boxes.shape[1] == 4:
            decoded = "unit=grid,anchors=ANCHORS.npy,variance=0.1:0.2,decode=exp"
            parts.append(f"boxes{mark}={boxes.name}:cxcywh,{decoded},weight={scores.name}{score}")
        else:
            pairs = f"{boxes.shape[0]}x{boxes.shape[1] // 2}x2"
            quads = f"{boxes.shape[0]}x{boxes.shape[1] // 4}x4"
            rest = f"anchors=ANCHORS{mark}.npy,weight={scores.name}{score}"
            parts.append(f"boxes{mark}={boxes.name}[:, 0]:cxcywh,shape={quads},unit=px,{rest}")
            parts.append(f"landmarks{mark}={boxes.name}[:, 2:]:points,shape={pairs},unit=px,origin=edge")
        parts.append(f"scores{mark}={scores.name}:invariant")
        outputs += [boxes.name, scores.name]
    if not parts:
        return None
    why = "pairs of outputs with equal rows; the anchors that boxes are offsets from are not in the graph"
    return Recognised("boxes as offsets from anchors, and scores", tuple(outputs), tuple(parts), why, certain=False)


def _pairs(look: Look) -> Iterator[tuple[Output, Output]]:
    """Yield outputs (A, 4 …) with outputs (A, C) of as many rows, several dozens of them or more."""
    rows = [output for output in look.outputs if len(output.shape) == 2]
    taken: set[str] = set()
    for boxes in rows:
        if boxes.shape[1] < 4 or boxes.shape[1] % 2 or boxes.name in taken:
            continue
        if boxes.shape[1] != 4 and boxes.shape[1] % 4 != 0:
            continue
        for scores in rows:
            own = boxes.shape[1] == 4 and (scores.shape[1] != 4 or MOVES.search(boxes.name))
            fits = own or (scores.shape[1] <= 2 < boxes.shape[1])
            if scores is not boxes and scores.shape[0] == boxes.shape[0] and fits and scores.name not in taken:
                taken |= {boxes.name, scores.name}
                yield boxes, scores
                break


def _keypoints(look: Look) -> Recognised | None:
    """MoveNet: (…, 17, 3) of y, x and score, all of them shares."""
    for output in look.outputs:
        if output.shape[-2:] != (17, 3):
            continue
        name = output.name
        certain = output.values is not None and _unit_range(output.values)
        parts = (f"keypoints={name}[..., :2]:points,axis=-1,order=yx,unit=share,weight={name}[..., 2]",
                 f"scores={name}[..., 2]:invariant")  # fmt: skip
        why = f"{output.described} holds 17 keypoints of y, x and score, as shares of the size"
        if not certain:
            why += "; pixels and x first are other readings"
        return Recognised("keypoints", (name,), parts, why, certain)
    return None


def _landmarks(look: Look) -> Recognised | None:
    """FaceMesh, BlazePose, hands: a vector of landmarks, x and y first."""
    for output in look.outputs:
        size = math.prod(output.shape)
        if size not in LANDMARKS:
            continue
        each = LANDMARKS[size]
        shape = f"{size // each}x{each}"
        # in pixels most coordinates lie inside the image, and far more than one pixel apart
        unit = ""
        if output.values is not None:
            xy = output.values.reshape(len(output.values), -1, each)[..., :2]
            inside = np.mean((xy > -0.25 * max(look.size)) & (xy < 1.25 * max(look.size)))
            unit = "share" if _unit_range(xy) else "px" if inside > 0.9 and np.abs(xy).max() > 4 else ""
        option = f",unit={unit}" if unit else ",unit=px"
        parts: tuple[str, ...] = (f"landmarks={output.name}[:, :2]:points,shape={shape}{option}",)
        why = f"{output.described} is as long as {size // each} landmarks of {each} numbers"
        others = [o for o in look.outputs if o.name != output.name and math.prod(o.shape) == 1]
        parts += tuple(f"flag{i or ''}={o.name}:invariant" for i, o in enumerate(others[:1]))
        named = MOVES.search(output.name) is not None or each == 5
        if not (unit and named):
            why += "; nothing else shows that it holds landmarks, in pixels"
        return Recognised("landmarks", (output.name,), parts, why, certain=bool(unit) and named)
    return None


def _named(look: Look) -> Recognised | None:
    """Anything else whose name says that it moves."""
    for output in look.outputs:
        said = MOVES.search(output.name)
        if said is not None and len(output.shape) < 3:
            return Recognised(
                "what moves with the picture", (output.name,), (), f"the name of {output.described}", certain=False
            )
    return None


def _unit_range(values: Array) -> bool:
    return bool(np.all((values >= 0) & (values <= 1)))


RULES: tuple[Callable[[Look], Recognised | None], ...] = (
    _selected,
    _cells,
    _queries,
    _anchored,
    _keypoints,
    _landmarks,
    _named,
)
"""In the order in which they are asked; the first that recognises anything decides."""
