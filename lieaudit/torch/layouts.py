"""Where the pixels are: layouts of the tensors inside a module, tracked from the image input.

Every tensor is described axis by axis as a product of factors, as einops would write it: ``n c h w`` for a feature map,
``n (h w) c`` for tokens, ``n (1 + h w) c`` with a class token, ``(n h₁ w₁) (h₂ w₂) c`` for windows. The
description follows the data through the operators that torch executes; nothing is concluded from a shape, so a square
number of tokens is no proof of a grid. `lieaudit.torch.layout_tracking` follows the data, `lieaudit.torch.layout_rules`
knows what each operator does to a layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of an axis: ``kind`` is n (batch), h or w (of the grid), c (anything else) or t (tokens).

    ``stride`` orders the parts of a split h or w; entry p of a rolled one belongs to pixel (p + ``shift``)
    mod its size. Tokens hold ``prefix`` positions off the grid, then ``inner``.
    """

    kind: str
    size: int
    stride: int = 1
    shift: int = 0
    prefix: int = 0
    inner: tuple[Factor, ...] = ()


Axis = tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """Height and width of a layout's grid, and how far it is rolled along each."""

    height: int
    width: int
    shifts: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The factors of every axis of a tensor; axes of size 1 have none."""

    axes: tuple[Axis, ...]

    @property
    def grid(self) -> Grid | None:
        """The one grid in this layout; None: there is none (a vector), or not exactly one."""
        parts = [p for factor in self._factors() for p in (factor.inner or (factor,)) if p.kind in {"h", "w"}]
        sizes, shifts = [], []
        for kind in ("h", "w"):
            found = sorted((p for p in parts if p.kind == kind), key=lambda p: p.stride)
            size = 1
            for part in found:
                if part.stride != size or part.shift != found[0].shift:
                    return None
                size *= part.size
            sizes.append(size)
            shifts.append(found[0].shift if found else 0)
        return Grid(sizes[0], sizes[1], (shifts[0], shifts[1])) if parts else None

    @property
    def trivial(self) -> bool:
        """No grid at all: a vector, on which the symmetries act trivially."""
        return all(p.kind not in {"h", "w", "t"} for p in self._factors())

    @property
    def usable(self) -> bool:
        """Whether the symmetries' action on such a tensor is defined: no grid, or exactly one."""
        batches = sum(factor.kind == "n" for factor in self._factors())
        return batches <= 1 and (self.trivial or self.grid is not None)

    def _factors(self) -> list[Factor]:
        return [factor for axis in self.axes for factor in axis]

    def __str__(self) -> str:
        return " ".join(_axis_text(axis) for axis in self.axes)

    @property
    def text(self) -> str:
        """What a report calls it: vector, NCHW 8x8, NHWC 8x8, tokens 1+14x14, or the axes."""
        grid = self.grid
        if grid is None:
            return "vector" if self.trivial else "unknown"
        size = f"{grid.height}x{grid.width}"
        kinds = ["".join(f.kind for f in axis) for axis in self.axes]
        if kinds in (["n", "c", "h", "w"], ["", "c", "h", "w"]):
            return f"NCHW {size}"
        if kinds in (["n", "h", "w", "c"], ["", "h", "w", "c"]):
            return f"NHWC {size}"
        if len(kinds) == 3 and kinds[1] in {"hw", "t"} and kinds[0] in {"n", ""}:
            prefix = self.axes[1][0].prefix
            return f"tokens {prefix}+{size}" if prefix else f"tokens {size}"
        return str(self)


def _axis_text(axis: Axis) -> str:
    def one(factor: Factor) -> str:
        if factor.kind == "t":
            return f"({factor.prefix} + {' '.join(one(f) for f in factor.inner)})"
        return f"{factor.kind}{factor.size}" if factor.kind in {"h", "w"} else factor.kind

    return one(axis[0]) if len(axis) == 1 else f"({' '.join(map(one, axis))})" if axis else "1"


def factor(kind: str, size: int) -> Axis:
    """Give an axis of one factor; of none where the size is 1."""
    return (Factor(kind, size),) if size > 1 else ()


def feature_map(shape: Sequence[int]) -> Layout:
    """Give the layout n c h w."""
    return Layout(tuple(factor(kind, size) for kind, size in zip("nchw", shape, strict=True)))


def declared(text: str, shape: Sequence[int]) -> Layout:
    """Read a declared layout for a tensor of a shape.

    ``NCHW``, ``NHWC``, ``vector``, ``tokens:HxW`` or ``tokens:P+HxW`` for (n, P + H·W, c). Raises ValueError where the
    text is not one of these or does not fit.
    """
    if text == "vector":
        return Layout((factor("n", shape[0]), *(factor("c", size) for size in shape[1:])))
    if text in {"NCHW", "NHWC"} and len(shape) == 4:
        return Layout(tuple(factor(kind, size) for kind, size in zip(text.lower(), shape, strict=True)))
    if text.startswith("tokens:") and len(shape) == 3:
        prefix_text, plus, grid = text.removeprefix("tokens:").rpartition("+")
        prefix = int(prefix_text) if plus else 0
        height, width = (int(size) for size in grid.split("x"))
        if prefix + height * width == shape[1]:
            inner = factor("h", height) + factor("w", width)
            tokens = (Factor("t", shape[1], prefix=prefix, inner=inner),) if prefix else inner
            return Layout((factor("n", shape[0]), tokens, factor("c", shape[2])))
    raise ValueError(f"{text!r} is no layout of shape {tuple(shape)}")
