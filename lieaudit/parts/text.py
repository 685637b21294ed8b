"""``NAME=OUTPUT[SLICE]:REPRESENTATION[,OPTION=VALUE…]``: the text of a part, read into a `PartText`.

The text is the one form that a part has in the command, in Python, in the JSON and in the protobuf message, so that
what a report says can be given again as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lieaudit.errors import SpecError
from lieaudit.parts.indexing import Index, IndexingError, read_index

REPRESENTATIONS = ("invariant", "map", "vector_map", "covector_map", "points", "boxes", "angle")
"""What a part may hold; the entries of `lieaudit.parts.representations.REPRESENTATIONS`, in this order."""

INVALID_PART = "INVALID_PART"
"""Reason of every error about a part."""

MAX_PARTS = 32
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PLACED = ("unit", "origin", "order", "strides", "anchors", "cell", "variance")
_COMMON = ("shape", "axis", "weight", "power", "score", "background")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "invariant": _COMMON[:1] + _COMMON[2:],
    "map": ("shape", "layout", *_COMMON[2:]),
    "vector_map": ("shape", "layout", "order", *_COMMON[2:]),
    "covector_map": ("shape", "layout", "order", *_COMMON[2:]),
    "points": (*_COMMON, *_PLACED),
    "boxes": (*_COMMON, *_PLACED, "form", "decode"),
    "angle": (*_COMMON[:1], *_COMMON[2:], "unit", "period", "of"),
}
"""The options that each representation takes."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "layout": ("CHW", "HWC"),
    "order": ("xy", "yx"),
    "origin": ("edge", "centre"),
    "cell": ("corner", "centre"),
    "form": ("cxcywh", "xyxy", "xywh"),
    "decode": ("linear", "exp"),
    "score": ("plain", "sigmoid", "softmax"),
    "background": ("none", "first", "last"),
    "of": ("direction", "box"),
}
_UNITS = {"points": ("px", "share", "grid"), "boxes": ("px", "share", "grid"), "angle": ("rad", "deg")}


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of an output of the graph."""

    output: str
    index: Index

    @property
    def text(self) -> str:
        """The slice as it is written."""
        return f"{self.output}[{self.index.text}]" if self.index.text else self.output


@dataclass(frozen=True, slots=True)
class PartText:
    """One part as the user wrote it, with every option read; what was not given is None.

    ``shape`` reshapes one image's output before the slice; ``axis`` is where the coordinates of a point or box lie;
    the other options are described in docs/parts.md.
    """

    text: str
    name: str
    source: Slice
    representation: str
    shape: tuple[int, ...] | None = None
    axis: int | None = None
    layout: str | None = None
    order: str | None = None
    unit: str | None = None
    origin: str | None = None
    cell: str | None = None
    form: str | None = None
    decode: str | None = None
    strides: tuple[float, ...] = ()
    variance: tuple[float, ...] = ()
    anchors: str | None = None
    weight: Slice | None = None
    power: float = 1.0
    score: str | None = None
    background: str | None = None
    period: float | None = None
    of: str | None = None


def read_parts(texts: Sequence[str]) -> tuple[PartText, ...]:
    """Read all parts of a specification.

    Raises
    ------
    SpecError
        INVALID_PART: a text cannot be read, a name is given twice, or there are more than `MAX_PARTS`.
    """
    if len(texts) > MAX_PARTS:
        raise invalid("", f"{len(texts)} parts are given, {MAX_PARTS} is the limit")
    parts = tuple(read_part(text) for text in texts)
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise invalid(name, "the name is given twice")
    return parts


def read_part(text: str) -> PartText:
    """Read one part. Raises `SpecError` INVALID_PART."""
    if not isinstance(text, str) or len(text) > 2000:
        raise invalid("", f"{text!r:.80} is no text NAME=OUTPUT[SLICE]:REPRESENTATION")
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals or not _NAME.fullmatch(name):
        raise invalid("", f"{text!r:.80} does not begin with NAME=: letters, digits, '_' and '-'", f"e.g. {_EXAMPLE}")
    chosen = _split(name, rest)
    source, kind, options = chosen
    if kind not in REPRESENTATIONS:
        kind, options = _short_form(name, kind, options)
    values: dict[str, object] = {}
    for option, value in options:
        if option in values:
            raise invalid(name, f"{option} is given twice")
        if option not in OPTIONS[kind]:
            takes = f"{kind} takes {', '.join(OPTIONS[kind])}"
            raise invalid(name, f"{option!r} is no option of {kind}", takes)
        values[option] = _READERS[option](name, kind, option, value)
    part = PartText(text.strip(), name, source, kind, **values)  # type: ignore[arg-type]
    _check_together(part)
    return part


_EXAMPLE = "boxes=output0[:4]:boxes,form=cxcywh,weight=output0[4:]"


def invalid(name: str, problem: str, hint: str = "") -> SpecError:
    """Return the error of an unusable part."""
    subject = f"parts.{name}" if name else "parts"
    return SpecError(f"part {name!r}: {problem}" if name else f"parts: {problem}",
                     reason=INVALID_PART, subject=subject, hint=hint)  # fmt: skip


def _split(name: str, rest: str) -> tuple[Slice, str, list[tuple[str, str]]]:
    """Split ``OUTPUT[SLICE]:REPRESENTATION,options``: names of outputs may hold colons, slices hold commas."""
    found = [m for m in re.finditer(r":\s*([a-z_]+)\s*(?=,|$)", rest) if not _inside(rest, m.start())]
    known = [m for m in found if m[1] in REPRESENTATIONS or m[1] in CHOICES["form"]]
    if not found:
        choices = f"one of {', '.join(REPRESENTATIONS)}"
        raise invalid(name, f"{rest!r:.80} says no representation", f"write NAME=OUTPUT[SLICE]:KIND, KIND {choices}")
    chosen = (known or found)[0]
    source = _slice(name, rest[: chosen.start()])
    options = []
    for piece in _pieces(rest[chosen.end() :]):
        option, equals, value = piece.partition("=")
        if not equals or not value.strip():
            raise invalid(name, f"{piece!r:.60} is no OPTION=VALUE")
        options.append((option.strip(), value.strip()))
    return source, chosen[1], options


def _inside(text: str, at: int) -> bool:
    """Say whether a place lies within brackets."""
    return text.count("[", 0, at) > text.count("]", 0, at)


def _pieces(text: str) -> list[str]:
    """Split options at commas outside brackets."""
    cuts = [at for at, char in enumerate(text) if char == "," and not _inside(text, at)]
    ends = [*cuts, len(text)]
    pieces = [text[start:stop].strip() for start, stop in zip([0, *(cut + 1 for cut in cuts)], ends, strict=True)]
    return [piece for piece in pieces if piece]


def _slice(name: str, text: str) -> Slice:
    text = text.strip()
    output, bracket, index = text.partition("[") if text.endswith("]") else (text, "", "")
    if bracket and "[" in index:  # names of tensors may hold brackets: the last pair is the slice
        output, bracket, index = text.rpartition("[")
    if not output:
        raise invalid(name, f"{text!r:.80} names no output of the graph", f"e.g. {_EXAMPLE}")
    try:
        return Slice(output, read_index(index.removesuffix("]")))
    except IndexingError as problem:
        raise invalid(name, str(problem)) from problem


def _short_form(name: str, kind: str, options: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """Take ``xyxy`` for ``boxes,form=xyxy``."""
    if kind in CHOICES["form"]:
        return "boxes", [("form", kind), *options]
    raise invalid(name, f"{kind!r} is no representation", f"one of {', '.join(REPRESENTATIONS)}")


def _shape(name: str, kind: str, option: str, value: str) -> tuple[int, ...]:  # noqa: ARG001
    sizes = value.lower().replace("×", "x").split("x")
    if not all(size.isascii() and size.isdigit() and 0 < int(size) < 2**31 for size in sizes):
        raise invalid(name, f"shape={value!r:.40} is no shape", "e.g. shape=468x3, without the batch axis")
    return tuple(map(int, sizes))


def _axis(name: str, kind: str, option: str, value: str) -> int:  # noqa: ARG001
    if not re.fullmatch(r"-?[0-9]{1,2}", value):
        raise invalid(name, f"axis={value!r:.40} is no axis", "a whole number, the batch axis not counted")
    return int(value)


def _number(name: str, kind: str, option: str, value: str) -> float:  # noqa: ARG001
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise invalid(name, f"{option}={value!r:.40} is no positive number")
    return number


def _numbers(name: str, kind: str, option: str, value: str) -> tuple[float, ...]:
    return tuple(_number(name, kind, option, part) for part in value.split(":"))


def _choice(name: str, kind: str, option: str, value: str) -> str:
    choices = _UNITS[kind] if option == "unit" else CHOICES[option]
    if value not in choices:
        raise invalid(name, f"{option}={value!r:.40} is not one of {', '.join(choices)}")
    return value


def _weight(name: str, kind: str, option: str, value: str) -> Slice:  # noqa: ARG001
    return _slice(name, value)


def _text(name: str, kind: str, option: str, value: str) -> str:  # noqa: ARG001
    return value


_READERS: Mapping[str, Callable[[str, str, str, str], object]] = {
    "shape": _shape,
    "axis": _axis,
    "unit": _choice,
    **dict.fromkeys(CHOICES, _choice),
    "strides": _numbers,
    "variance": _numbers,
    "anchors": _text,
    "weight": _weight,
    "power": _number,
    "period": _number,
}


def _check_together(part: PartText) -> None:
    """Refuse options that contradict each other or mean nothing alone."""
    placed = bool(part.strides or part.anchors)
    if part.strides and part.anchors:
        raise invalid(part.name, "strides and anchors both say where the cells are", "give one of them")
    if part.unit == "grid" and not placed:
        raise invalid(part.name, "unit=grid needs to know the grid", "add strides=8:16:32 or anchors=FILE.npy")
    if part.strides and part.unit != "grid":
        raise invalid(part.name, "strides place outputs in grid units", "add unit=grid")
    if part.cell is not None and not part.strides:
        raise invalid(part.name, "cell says where in a cell of the grid 0 lies", "add strides=8:16:32")
    if part.variance and not (len(part.variance) == 2 and part.anchors):
        raise invalid(part.name, "variance is two numbers, of centres and sizes, beside anchors", "variance=0.1:0.2")
    if part.form in {"xyxy", "xywh"} and (placed or part.decode == "exp"):
        raise invalid(part.name, f"{part.form} corners are not decoded from cells or logarithms", "form=cxcywh")
    if part.weight is None and (part.score is not None or part.background is not None or part.power != 1.0):
        raise invalid(part.name, "power, score and background are of a weight", "add weight=OUTPUT[SLICE]")
    if part.background not in {None, "none"} and part.score != "softmax":
        raise invalid(part.name, "background is a class of a softmax", "add score=softmax")
