"""Layouts: what the axes of a tensor say about where the image is in it, and the names users read and write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lieaudit.errors import SpecError
from lieaudit.layouts.axes import BATCH, GRID, HEIGHT, WIDTH, Atom, Axes, Axis, coordinate, has_grid, plain, size_of

GRAMMAR = "NCHW, NHWC, NHW, tokens:HxW, tokens:P+HxW, windows:HxW/M, windows:HxW/M-S, vector or unknown"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the image is in a tensor.

    Attributes
    ----------
    kind
        ``NCHW``, ``NHWC``, ``tokens``, ``windows``, ``grid`` (another order of axes), ``vector`` or ``unknown``.
    axes
        The axes it was read from.
    text
        The kind with its sizes, e.g. ``tokens 1+14x14``.
    einops
        The axes as einops writes them, e.g. ``b (p=1 | h w) c``.
    """

    kind: str
    axes: Axes
    text: str
    einops: str

    @property
    def known(self) -> bool:
        """Whether a symmetry can act on the tensor."""
        return self.kind != "unknown"

    @property
    def spatial(self) -> bool:
        """Whether the tensor has an image grid."""
        return self.kind not in {"unknown", "vector"}


def layout_of(axes: Axes | None) -> Layout:  # noqa: PLR0911 - one return per kind of layout
    """Return the layout of a tensor from its axes; None where not even its sizes are known."""
    if axes is None:
        return Layout("unknown", (), "unknown", "?")
    einops = " ".join(_einops(axis) for axis in axes)
    unknown = Layout("unknown", axes, "unknown", einops)
    atoms = [atom for axis in axes for atom in axis]
    if any(atom.role in {"unknown", "mixed", "free"} for atom in atoms):
        return unknown
    if sum(atom.role == "batch" for atom in atoms) > 1:
        return unknown
    tokens = [atom for atom in atoms if atom.role == "tokens"]
    digits = [atom for atom in atoms if atom.role in GRID]
    if tokens:
        if len(tokens) > 1 or digits or not all(_complete(part) for part in tokens[0].parts):
            return unknown
        return Layout("tokens", axes, "tokens " + "+".join(map(_part_text, tokens[0].parts)), einops)
    if not digits:
        return Layout("vector", axes, "vector", einops)
    if not _complete(digits):
        return unknown
    kind, text = _grid_kind(axes, digits)
    return Layout(kind, axes, text, einops)


def _grid_kind(axes: Axes, digits: Sequence[Atom]) -> tuple[str, str]:
    height = next((d.total for d in digits if d.role == HEIGHT), 1)
    width = next((d.total for d in digits if d.role == WIDTH), 1)
    size = f"{height}x{width}"
    shifts = {d.role: d.shift for d in digits if d.shift}
    shifted = f", shifted by {'x'.join(str(s) for s in dict.fromkeys(shifts.values()))}" if shifts else ""
    if any(d.size < d.total for d in digits):
        inner = {d.role: d.size for d in digits if d.unit == 1 and d.size < d.total}
        window = f"{inner.get(HEIGHT, height)}x{inner.get(WIDTH, width)}"
        return "windows", f"windows {size}/{window}{shifted}"
    places = [i for i, axis in enumerate(axes) if any(a.role in GRID for a in axis)]
    pure = all(a.role in GRID for i in places for a in axes[i])
    if pure and len(places) == 1:
        return "tokens", f"tokens {size}{shifted}"
    if pure and len(axes) == 4 and not shifts:
        if all(i >= 2 for i in places) and (len(places) < 2 or axes[2][0].role == HEIGHT):
            return "NCHW", f"NCHW {size}"
        if all(1 <= i <= 2 for i in places) and axes[1] and axes[1][0].role == HEIGHT:
            return "NHWC", f"NHWC {size}"
    return "grid", f"grid {size}{shifted}"


def _complete(digits: Sequence[Atom]) -> bool:
    """Whether each coordinate has every digit once, with one shift."""
    for role in GRID:
        mine = sorted((d for d in digits if d.role == role), key=lambda d: d.unit)
        expected = 1
        for digit in mine:
            if digit.unit != expected or (digit.total, digit.shift) != (mine[0].total, mine[0].shift):
                return False
            expected *= digit.size
        if mine and expected != mine[0].total:
            return False
    return all(d.role in GRID or d.role == "prefix" for d in digits)


def _part_text(part: Axis) -> str:
    if not has_grid(part):
        return str(size_of(part))
    sizes = {atom.role: atom.total for atom in part if atom.role in GRID}
    return f"{sizes.get(HEIGHT, 1)}x{sizes.get(WIDTH, 1)}"


def _einops(axis: Axis) -> str:
    words = [_word(atom) for atom in axis]
    return words[0] if len(words) == 1 else "1" if not words else f"({' '.join(words)})"


def _word(atom: Atom) -> str:
    if atom.role == "batch":
        return "b"
    if atom.role == "channel":
        return f"c{atom.size}"
    if atom.role == "tokens":
        return f"({' | '.join(_einops(part) for part in atom.parts)})"
    if atom.role in GRID:
        letter = atom.role[0]
        digit = "" if atom.size == atom.total else f"/{atom.unit}"
        roll = f"~{atom.shift}" if atom.shift else ""
        return f"{letter}{atom.size}{digit}{roll}"
    return f"{'p' if atom.role == 'prefix' else atom.role}{atom.size}"


def parse_layouts(declared: Mapping[str, str], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Axes]:
    """Read the user's layouts.

    Parameters
    ----------
    declared
        Tensor name → layout: see `GRAMMAR`. The batch axis is the first one; in ``tokens`` the channels are the
        last; ``windows:HxW/M-S`` is (N · windows, M·M, C) of a grid rolled by S.
    sizes
        Measured sizes by tensor name, `BATCH` for the batch.

    Raises
    ------
    SpecError
        UNKNOWN_TENSOR or INVALID_LAYOUT, naming the tensor.
    """
    return {name: _declared(name, text, sizes) for name, text in declared.items()}


def _declared(name: str, text: str, sizes: Mapping[str, tuple[int, ...]]) -> Axes:
    if name not in sizes:
        raise SpecError(
            f"the graph has no tensor {name!r} of measured shape",
            reason="UNKNOWN_TENSOR",
            subject=f"layouts[{name}]",
            hint="lieaudit inspect --layers lists the tensors",
        )
    return declared_axes(text, sizes[name], name, batch=BATCH)


def declared_axes(text: str, shape: tuple[int, ...], name: str, *, batch: int) -> Axes:
    """Read the layout that the user states for a tensor of this shape, in a run of ``batch`` images.

    Raises `SpecError` INVALID_LAYOUT, naming the tensor, where it is none of `GRAMMAR` or does not fit.
    """
    axes = _axes_for(text.replace("×", "x").replace(" ", ""), shape, batch)
    if axes is None or tuple(map(size_of, axes)) != shape:
        shown = "×".join("N" if at == 0 and s == batch else str(s) for at, s in enumerate(shape))
        raise SpecError(
            f"layout {text!r} does not fit tensor {name!r} of shape {shown}",
            reason="INVALID_LAYOUT",
            subject=f"layouts[{name}]",
            hint=f"write {GRAMMAR}",
        )
    return axes


def _axes_for(text: str, shape: tuple[int, ...], images: int) -> Axes | None:  # noqa: PLR0911 - one per form
    batch = plain("batch", images) if shape and shape[0] % images == 0 else ()
    if text == "unknown":
        return tuple(plain("unknown", size) for size in shape)
    if text == "vector":
        return (batch, *(plain("channel", size) for size in shape[1:]))
    if text in {"NCHW", "NHWC", "NHW"} and len(shape) == len(text):
        at = {"N": batch, "C": None, "H": None, "W": None}
        roles = {"C": lambda n: plain("channel", n), "H": lambda n: coordinate(HEIGHT, n)}
        roles["W"] = lambda n: coordinate(WIDTH, n)
        return tuple(
            at[letter] or roles.get(letter, lambda _n: batch)(n) for letter, n in zip(text, shape, strict=True)
        )
    tokens = re.fullmatch(r"tokens:(?:(\d+)\+)?(\d+)x(\d+)", text)
    if tokens is not None and len(shape) == 3:
        prefix, height, width = int(tokens[1] or 0), int(tokens[2]), int(tokens[3])
        grid = coordinate(HEIGHT, height) + coordinate(WIDTH, width)
        axis = (Atom("tokens", prefix + height * width, parts=((Atom("prefix", prefix),), grid)),) if prefix else grid
        return (batch, axis, plain("channel", shape[2]))
    windows = re.fullmatch(r"windows:(\d+)x(\d+)/(\d+)(?:-(\d+))?", text)
    if windows is not None and len(shape) == 3:
        height, width, m, shift = (int(g or 0) for g in windows.groups())
        if m == 0 or height % m or width % m:
            return None
        outer = tuple(Atom(r, s // m, m, s, shift) for r, s in ((HEIGHT, height), (WIDTH, width)) if s > m)
        inner = tuple(Atom(r, m, 1, s, shift) for r, s in ((HEIGHT, height), (WIDTH, width)))
        return (batch + outer, inner, plain("channel", shape[2]))
    return None
