"""Choosing the head from what is known of an output: the graph's end, its layout, its values on the user's images.

A number for the wrong function is worse than none. What nothing shows is left *undeclared*: the audit is then
inconclusive, and says which heads to choose from (docs/heads.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lieaudit.errors import SpecError
from lieaudit.heads.evidence import CLASSES, ClassLabels, in_unit_range, probability_axis, unit_norm
from lieaudit.metrics.head import Head

HEAD_UNDECLARED = "HEAD_UNDECLARED"
"""Code of an inconclusive audit: nothing shows what the output holds."""

_LOGITS = re.compile(r"logit|(class|cls)[ _./:-]?score", re.IGNORECASE)
_FEATURES = re.compile(r"embed|feature|hidden|pool|prob|landmark|keypoint|box|coord", re.IGNORECASE)
_DISPLACEMENT = re.compile(r"flow|disp|offset|delta|motion|bbox|box|keypoint|landmark|ltrb", re.IGNORECASE)
_BOXES = "boxes and landmarks move with the image, and no --head judges them rightly"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the audited output.

    Attributes
    ----------
    name, shape
        Its name in the graph, and *K.
    ending, function, axis
        What head was taken off the graph: the ops, ``softmax`` or ``sigmoid``, and the softmax's axis of (N, *K);
        empty where there was none.
    consumer
        An op of the graph that reads the output as logits, such as ArgMax; empty where none does.
    layout
        ``map``: the last two axes are the image's height and width; ``cells``: an axis holds the positions of one grid;
        ``scattered``: of several, or with tokens beside them; ``vector``: no axis does; ``unknown``; empty where nobody
        looked.
    rows
        Raw values on some of the user's images, (n, *K).
    tolerance
        How far rows of probabilities may be from a sum of 1.
    labels
        How often the largest output was the label.
    class_names
        How many classes the user named; 0: none.
    """

    name: str
    shape: tuple[int, ...]
    ending: str = ""
    function: str = ""
    axis: int = 0
    consumer: str = ""
    layout: str = ""
    rows: npt.NDArray[np.float64] | None = None
    tolerance: float = 1e-4
    labels: ClassLabels | None = None
    class_names: int = 0

    @property
    def size(self) -> int:
        """K, the number of components."""
        return math.prod(self.shape)

    @property
    def described(self) -> str:
        """The output in words, as ``'output' (N, 128)``."""
        return f"{self.name!r} (N, {', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class Choice:
    """A head, the evidence for it, and, where there is none, what the user has to declare."""

    head: Head
    why: str
    undeclared: str = ""


def choose(facts: Facts, declared: str) -> Choice:
    """Choose the head.

    Parameters
    ----------
    facts
        What is known; without ``rows`` the choice is a proposal.
    declared
        ``spec.head``: ``auto``, or what the user says.

    Raises
    ------
    SpecError
        HEAD_MISMATCH: the declared head does not fit the output's shape.
    """
    if declared != "auto":
        return _declared(facts, declared)
    if facts.layout == "map" or (not facts.layout and len(facts.shape) == 3):
        return _map(facts)
    return _vector(facts) if len(facts.shape) <= 1 else _tensor(facts)


def _declared(facts: Facts, declared: str) -> Choice:
    said = f"declared by --head {declared}"
    if declared == "spatial":
        return _declared_map(facts, said)
    if declared == "softmax" and (facts.size < 2 or not facts.shape):
        raise _mismatch(f"output {facts.name!r} has one component; a softmax over one component is always 1")
    if facts.function:
        taken = f"{said}; the {facts.ending} at the end of the graph is applied in float64"
        return Choice(Head(facts.function, spatial=False, axis=facts.axis or 1), taken)
    axis = len(facts.shape) if len(facts.shape) == 2 else 1
    if declared == "softmax" and facts.rows is not None and probability_axis(facts.rows, facts.tolerance):
        why = f"{said}, but its rows add up to 1: no softmax is put on top of probabilities"
        return Choice(Head("identity", spatial=False), why)
    over = f", over the last axis of {facts.described}" if declared == "softmax" and len(facts.shape) > 1 else ""
    return Choice(Head(declared, spatial=False, axis=axis), said + over)


def _declared_map(facts: Facts, said: str) -> Choice:
    head = Head(facts.function or "identity", spatial=True, axis=facts.axis or 1)
    if facts.layout in {"map", "cells"} or (not facts.layout and len(facts.shape) == 3):
        return Choice(head, said)
    if facts.layout == "vector" or len(facts.shape) < 2:
        raise _mismatch(f"output {facts.described} is no map: none of its axes is the image's height or width", facts)
    if facts.layout == "scattered":
        raise _mismatch(f"output {facts.described} is no map: its positions are not those of one grid", facts)
    return Choice(
        Head(facts.function or "identity", spatial=False, axis=facts.axis or 1),
        f"{said}, but where the image lies in {facts.described} is not known",
        f"where the image lies in output {facts.described} cannot be derived from the graph: {_layouts(facts)}",
    )


def _map(facts: Facts) -> Choice:
    head = Head(facts.function or "identity", spatial=True, axis=facts.axis or 1)
    derived = "its last two axes are the image's height and width"
    if facts.function:
        return Choice(head, f"{derived}, and the graph ends in {facts.ending}, applied in float64")
    if facts.consumer:
        return Choice(head, f"{derived}, and the graph applies {facts.consumer} to it")
    channels = math.prod(facts.shape[:-2])
    moving = _DISPLACEMENT.search(facts.name)
    if channels == 2 or (moving is not None and channels > 1):
        guess = f"its name says {moving.group(0)!r}" if moving is not None else "two channels may be (x, y) pairs"
        return Choice(
            head,
            f"{derived}; nothing shows whether its channels are scalars",
            f"output {facts.described} may hold displacements, which turn with the image ({guess}): "
            "say --head spatial if its channels are scalars, such as classes",
        )
    return Choice(head, derived)


def _tensor(facts: Facts) -> Choice:
    """Choose for (N, A, K …): anchors, tokens, characters, cells."""
    axis = facts.axis or 1
    if facts.function == "softmax":
        still = "" if facts.layout == "vector" else "; each row is judged as standing still"
        why = f"the graph ends in {facts.ending} over axis {axis}, applied in float64{still}"
        return Choice(Head("softmax", spatial=False, axis=axis), why)
    if facts.function == "sigmoid" and facts.layout == "vector":
        return Choice(Head("sigmoid", spatial=False), f"the graph ends in {facts.ending}, applied in float64")
    if facts.rows is not None and facts.layout == "vector" and probability_axis(facts.rows, facts.tolerance):
        return Choice(Head("identity", spatial=False), _probabilities(facts))
    head = Head(facts.function or "identity", spatial=False)
    if facts.layout == "cells":
        choices = f"{_heads(facts)}, or --head spatial where each position holds scalars such as classes"
    elif facts.layout in {"vector", "scattered"}:
        choices = _heads(facts)
    else:
        choices = f"{_layouts(facts)}; or {_heads(facts)}"
    return Choice(
        head,
        "nothing shows what the output holds",
        f"nothing shows what output {facts.described} holds: it may be boxes or keypoints with scores; "
        f"{choices}; {_BOXES}",
    )


def _vector(facts: Facts) -> Choice:  # noqa: PLR0911 - one return per kind of evidence
    size = facts.size
    if facts.function:
        why = f"the graph ends in {facts.ending}, taken off and applied in float64"
        return Choice(Head(facts.function, spatial=False), why)
    rows = facts.rows
    if size >= 2 and rows is not None and probability_axis(rows, facts.tolerance):
        return Choice(Head("identity", spatial=False), _probabilities(facts))
    softmax = Head("softmax" if size >= 2 else "sigmoid", spatial=False)
    if facts.consumer and size >= 2:
        return Choice(softmax, f"the graph applies {facts.consumer} to {facts.name!r}: logits")
    if rows is not None and in_unit_range(rows):
        return _undeclared(facts, "all its values lie in [0, 1]: scores, shares of the size, or a map", "identity")
    named = _LOGITS.search(facts.name)
    if named is not None:
        return Choice(softmax, f"its name, {facts.name!r}, says that it holds logits")
    if size < 2:
        return _undeclared(facts, "a single number: a score, a logit or a measurement", "identity|sigmoid")
    if facts.labels is not None and facts.labels.convincing:
        return Choice(softmax, f"{facts.labels.described}: logits")
    if facts.class_names == size:
        return Choice(softmax, f"the images come in {size} classes, one for each component: logits")
    features = _FEATURES.search(facts.name)
    if rows is not None and unit_norm(rows):
        return _undeclared(facts, "its rows have norm 1, as an embedding's", "identity")
    if size in CLASSES and features is None:
        return Choice(
            softmax, f"{size} components, as many as {CLASSES[size]} has classes, and nothing speaks against logits"
        )
    return _undeclared(facts, "logits, an embedding, landmarks or box scores", "softmax|identity|sigmoid")


def _undeclared(facts: Facts, what: str, choices: str) -> Choice:
    return Choice(
        Head("identity", spatial=False),
        f"nothing shows what the output holds ({what})",
        f"nothing shows what output {facts.described} holds ({what}): say --head {choices}; {_BOXES}",
    )


def _probabilities(facts: Facts) -> str:
    count = len(facts.rows) if facts.rows is not None else 0
    return f"probabilities already: on {count} images no value is negative and every row adds up to 1"


def _heads(facts: Facts) -> str:
    return f"say --head {'|'.join(dict.fromkeys((facts.function or 'softmax', 'identity', 'sigmoid')))}"


def _layouts(facts: Facts) -> str:
    if len(facts.shape) == 3:
        return f"say --layout '{facts.name}=NCHW' or '{facts.name}=NHWC' if it is a map"
    return f"say --layout '{facts.name}=NHW' or '{facts.name}=tokens:HxW' if it is a map"


def _mismatch(problem: str, of: Facts | None = None) -> SpecError:
    """Return the refusal of a head; ``of``: of a map, which a declared layout makes of an output that is one."""
    hint = f"{_layouts(of)}, or let --head auto choose" if of is not None else "let --head auto choose"
    return SpecError(f"head: {problem}", reason="HEAD_MISMATCH", subject="head", hint=hint)
