"""Axes of tensors as products of atoms, the way einops writes them: ``b (h w) c`` is three axes of four atoms.

An axis is a tuple of atoms, major to minor; an axis of size 1 is the empty product. A pixel coordinate may be spread
over several atoms as the digits of a mixed-radix number: a height of 56 cut into windows of 7 is an atom of 8 digits
with unit 7 and one of 7 digits with unit 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

HEIGHT, WIDTH = "height", "width"
GRID = (HEIGHT, WIDTH)

BATCH = 1_000_003
"""Stands for the symbolic batch size: a prime that no other size has as a factor."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One factor of an axis.

    Attributes
    ----------
    role
        ``batch``; ``channel``: no position in the image; ``height``, ``width``: digits of a pixel coordinate;
        ``tokens``: a concatenation of `parts` along the axis; ``prefix``: tokens without position inside such parts;
        ``free``: an axis of a constant or broadcast tensor, which takes the role of what it meets; ``mixed``: positions
        combined by learned weights; ``unknown``.
    size
        Number of entries.
    unit, total
        Of a digit: its weight in the coordinate, and the size of the whole grid.
    shift
        Entry p of the whole coordinate belongs to pixel (p + shift) mod total: a cyclically rolled grid.
    parts
        Of ``tokens``: the products of atoms that follow each other.
    crop
        Of a coordinate cut from a larger one: (total, shift, start) there. It lets two slices that are put
        together again be recognised as the whole or as a roll.
    """

    role: str
    size: int
    unit: int = 1
    total: int = 0
    shift: int = 0
    parts: tuple[Axis, ...] = ()
    crop: tuple[int, int, int] | None = None

    @property
    def whole(self) -> bool:
        """Whether this atom alone is the complete, unrolled coordinate."""
        return self.role in GRID and self.unit == 1 and self.size == self.total and self.shift == 0


Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


def coordinate(role: str, size: int, *, shift: int = 0, crop: tuple[int, int, int] | None = None) -> Axis:
    """Return the axis of a complete pixel coordinate; empty for a single pixel that was not cut from a larger grid."""
    return (Atom(role, size, 1, size, shift, (), crop),) if size > 1 or crop is not None else ()


def plain(role: str, size: int) -> Axis:
    """Return an axis of one atom without structure; empty for size 1."""
    return (Atom(role, size),) if size > 1 else ()


def image_axes(sizes: Sequence[int]) -> Axes:
    """Return the axes of a batch of images of these sizes, (n, C, H, W)."""
    n, channels, height, width = sizes
    return (plain("batch", n), plain("channel", channels), coordinate(HEIGHT, height), coordinate(WIDTH, width))


def size_of(axis: Axis) -> int:
    """Return the number of entries of an axis."""
    return math.prod(atom.size for atom in axis)


def digits(atoms: Sequence[Atom], role: str) -> list[int]:
    """Return the places of a coordinate's digits, the weightiest first."""
    return sorted((at for at, atom in enumerate(atoms) if atom.role == role), key=lambda at: -atoms[at].unit)


def has_grid(axis: Axis) -> bool:
    """Say whether any position in the image lies on this axis."""
    return any(atom.role in GRID or atom.role in {"tokens", "mixed"} for atom in axis)


def without_position(axis: Axis) -> bool:
    """Say whether an axis is made of channels, constants or nothing."""
    return all(atom.role in {"channel", "free", "prefix"} for atom in axis)


def merge(axis: Iterable[Atom]) -> Axis:
    """Join neighbouring atoms that are one: channels, and successive digits of one coordinate."""
    out: list[Atom] = []
    for atom in axis:
        if atom.size == 1:
            continue
        last = out[-1] if out else None
        if last is not None and last.role == atom.role:
            if atom.role in {"channel", "free", "mixed", "unknown", "prefix"}:
                out[-1] = Atom(atom.role, last.size * atom.size)
                continue
            if (
                atom.role in GRID
                and last.unit == atom.unit * atom.size
                and (last.total, last.shift) == (atom.total, atom.shift)
            ):
                out[-1] = replace(last, size=last.size * atom.size, unit=atom.unit)
                continue
        out.append(atom)
    return tuple(out)


def split_atom(atom: Atom, minor: int) -> tuple[Atom, Atom] | None:
    """Split an atom into a major one and a minor one of the given size; None where it cannot be."""
    if atom.size % minor or atom.role in {"tokens", "batch"}:
        return None
    major = atom.size // minor
    if atom.role in GRID:
        return (
            replace(atom, size=major, unit=atom.unit * minor, crop=None),
            replace(atom, size=minor, crop=None),
        )
    return Atom(atom.role, major), Atom(atom.role, minor)


def reshape(axes: Axes, sizes: Sequence[int]) -> Axes:
    """Distribute the atoms of a tensor over new axis sizes, splitting where a boundary falls inside an atom."""
    left = list(reversed(merge(atom for axis in axes for atom in axis)))
    out: list[Axis] = []
    for size in sizes:
        need, axis = size, []
        while need > 1 and left:
            atom = left.pop()
            if need % atom.size == 0:
                axis.append(atom)
                need //= atom.size
                continue
            pair = split_atom(atom, atom.size // need) if atom.size % need == 0 else None
            if pair is None:
                return (*out, *(plain("unknown", rest) for rest in sizes[len(out) :]))
            axis.append(pair[0])
            left.append(pair[1])
            need = 1
        if need > 1:
            return (*out, *(plain("unknown", rest) for rest in sizes[len(out) :]))
        out.append(merge(axis))
    return pixel_shuffled(tuple(out))


def pixel_shuffled(axes: Axes) -> Axes:
    """Read ``(h r) (w s)``, channels woven into both coordinates, as a finer grid."""

    def woven(axis: Axis, role: str) -> bool:
        return len(axis) == 2 and axis[0].whole and axis[0].role == role and axis[1].role == "channel"

    if any(woven(a, HEIGHT) for a in axes) and any(woven(a, WIDTH) for a in axes):
        return tuple(coordinate(a[0].role, size_of(a)) if any(woven(a, role) for role in GRID) else a for a in axes)
    return axes


def unify(first: Axis, second: Axis) -> Axis:
    """Return the axis of an elementwise combination of two equally long axes."""
    if first == second or not second:
        return first
    if not first:
        return second
    a, b, out = list(first), list(second), []
    while a and b:
        x, y = a.pop(), b.pop()
        if x.size != y.size:
            large, small, rest = (x, y, a) if x.size > y.size else (y, x, b)
            pair = split_atom(large, small.size) if large.size % small.size == 0 else None
            if pair is None:
                return plain("unknown", size_of(first))
            rest.append(pair[0])
            x, y = (pair[1], y) if large is x else (x, pair[1])
        out.append(_unify_atoms(x, y))
    return merge(reversed(out))


_YIELDING = {"free": 0, "prefix": 1, "channel": 2, "mixed": 3}


def _unify_atoms(a: Atom, b: Atom) -> Atom:
    if a == b:
        return a
    if "unknown" in {a.role, b.role}:
        return Atom("unknown", a.size)
    if a.role in _YIELDING or b.role in _YIELDING:
        # channels and mixtures that are combined elementwise with positions are aligned with them
        return a if _YIELDING.get(a.role, 9) >= _YIELDING.get(b.role, 9) else b
    if replace(a, crop=None) == replace(b, crop=None):
        return replace(a, crop=None)
    if a.role == b.role == "tokens" and [size_of(p) for p in a.parts] == [size_of(p) for p in b.parts]:
        return replace(a, parts=tuple(unify(p, q) for p, q in zip(a.parts, b.parts, strict=True)))
    return Atom("unknown", a.size)


def normalise(axes: Axes) -> Axes:
    """Rescale coordinates that lost digits to a contraction, reduction or index.

    What keeps its leading digits is a coarser grid (patches of pixels). What lost them has no place any more:
    unknown.
    """
    for role in GRID:
        digits = sorted((atom for axis in axes for atom in axis if atom.role == role), key=lambda d: d.unit)
        if not digits or len({d.unit for d in digits}) < len(digits):
            continue
        base, expected = digits[0].unit, digits[0].unit
        complete = digits[0].shift % base == 0
        for digit in digits:
            complete = complete and digit.unit == expected
            expected *= digit.size
        complete = complete and expected == digits[0].total
        if complete and base == 1:
            continue

        def fix(atom: Atom, role: str = role, base: int = base, *, complete: bool = complete) -> Atom:
            if atom.role != role:
                return atom
            if not complete:
                return Atom("unknown", atom.size)
            return replace(atom, unit=atom.unit // base, total=atom.total // base, shift=atom.shift // base, crop=None)

        axes = tuple(tuple(fix(atom) for atom in axis) for axis in axes)
    return axes


def slice_axis(axis: Axis, start: int, step: int, size: int) -> Axis:
    """Return the axis after taking ``size`` entries from ``start`` on with a step."""
    if start == 0 and step == 1 and size == size_of(axis):
        return axis
    if without_position(axis):
        return plain("channel" if any(a.role == "channel" for a in axis) else "free", size)
    if len(axis) == 1 and axis[0].role in GRID and axis[0].unit == 1 and axis[0].size == axis[0].total:
        atom = axis[0]
        if step == 1:
            return coordinate(atom.role, size, crop=(atom.total, atom.shift, start))
        return coordinate(atom.role, size) if step > 1 and atom.shift == 0 else plain("unknown", size)
    if len(axis) == 1 and axis[0].role == "tokens" and step == 1:
        return _slice_tokens(axis[0].parts, start, size)
    return plain("unknown", size)


def _slice_tokens(parts: tuple[Axis, ...], start: int, size: int) -> Axis:
    kept: list[Axis] = []
    offset = 0
    for part in parts:
        length = size_of(part)
        low, high = max(start, offset), min(start + size, offset + length)
        if low < high:
            if high - low == length:
                kept.append(part)
            elif has_grid(part):
                return plain("unknown", size)
            else:
                kept.append(plain("prefix", high - low) or (Atom("prefix", 1),))
        offset += length
    return concat(kept)


def concat(parts: Sequence[Axis], *, grid_elsewhere: bool = False) -> Axis:
    """Return the axis of a concatenation along it.

    ``grid_elsewhere`` says that the other coordinate is on another axis, so that this one is a side of an image and
    not a sequence of tokens.
    """
    flat: list[Axis] = []
    for part in parts:
        flat.extend(part[0].parts if len(part) == 1 and part[0].role == "tokens" else [part])
    size = sum(size_of(part) for part in flat)
    if any(atom.role in {"unknown", "mixed", "batch"} for part in flat for atom in part):
        return plain("unknown", size)
    if not any(has_grid(part) for part in flat):
        role = next((r for r in ("channel", "prefix") if any(a.role == r for p in flat for a in p)), "free")
        return plain("channel" if role == "prefix" else role, size)
    rejoined = _rejoin(flat)
    if rejoined is not None:
        return rejoined
    if len(flat) == 1:
        return flat[0]
    # rows or columns put next to an image are padding that carries no coordinate
    if grid_elsewhere:
        return plain("unknown", size)
    tokens = tuple(p if has_grid(p) else (Atom("prefix", size_of(p)),) for p in flat)
    return (Atom("tokens", size, parts=tokens),)


def _rejoin(parts: Sequence[Axis]) -> Axis | None:
    """Recognise pieces of one coordinate that follow each other cyclically.

    Together they are the whole, a roll of it, or, with more pixels than the whole, a circularly padded grid.
    """
    first = parts[0][0] if len(parts[0]) == 1 else None
    if first is None or first.role not in GRID:
        return None
    origin = _origin(parts[0], first.role)
    if origin is None:
        return None
    total, shift, start = origin
    position = start
    for part in parts:
        if _origin(part, first.role) != (total, shift, position % total):
            return None
        position += part[0].size
    size = position - start
    if size == total:
        return coordinate(first.role, total, shift=(shift + start) % total)
    return coordinate(first.role, size) if size > total and shift == 0 else None


def _origin(part: Axis, role: str) -> tuple[int, int, int] | None:
    """Return (total, shift, start) of a piece of a coordinate; a whole one starts at 0."""
    if len(part) != 1 or part[0].role != role:
        return None
    atom = part[0]
    if atom.crop is not None:
        return atom.crop
    return (atom.total, atom.shift, 0) if atom.unit == 1 and atom.size == atom.total else None
