"""What kind of layer a segment is: the first entry of `KINDS` whose test its steps pass, in whichever framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lieaudit.layouts.axes import GRID, Atom, Axes
from lieaudit.ops import Kind

Grid = tuple[tuple[str, int], ...]
"""(role, size) of the coordinates of a tensor's grid; empty for vectors and unknown layouts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One op of a segment as the tests see it.

    Attributes
    ----------
    kind, name
        Of its entry in `lieaudit.ops`; None and empty where there is none.
    moving
        Number of operands that depend on the image.
    source, target
        Grids of the first operand (empty where this does not depend on the image) and of the first output.
    vectors
        Whether every tensor that depends on the image is a vector.
    kernel, strides
        Of a convolution; of a slice, its steps.
    pointwise
        Whether a convolution looks at one pixel only and keeps the grid.
    contracts
        Whether a matrix product sums over an axis on which positions of the image lie.
    positional
        Whether it adds a constant that differs from pixel to pixel to one tensor.
    """

    kind: Kind | None
    name: str
    moving: int
    source: Grid
    target: Grid
    vectors: bool
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pointwise: bool = False
    contracts: bool = False
    positional: bool = False


def grid_of(axes: Axes) -> Grid:
    """Return (role, size) of the coordinates on these axes, those among tokens included."""
    atoms = [a for axis in axes for atom in axis for a in (_inner(atom.parts) if atom.parts else (atom,))]
    return tuple(sorted({(a.role, a.total) for a in atoms if a.role in GRID}))


def _inner(parts: Axes) -> tuple[Atom, ...]:
    return tuple(atom for part in parts for atom in part)


@dataclass(frozen=True, slots=True)
class View:
    """A segment as the tests see it: its steps, and the grid of the image."""

    steps: Sequence[Step]
    image: Grid

    def of(self, *kinds: Kind) -> list[Step]:
        """Return the steps of these kinds."""
        return [step for step in self.steps if step.kind in kinds]

    def several(self, kind: Kind) -> bool:
        """Say whether a step of this kind combines tensors that both depend on the image."""
        return any(step.moving > 1 for step in self.of(kind))

    def has(self, *names: str) -> bool:
        """Say whether a step is one of these ops."""
        return any(step.name in names for step in self.steps)


def _head(view: View) -> bool:
    """Only vectors in and out."""
    return bool(view.steps) and all(step.vectors for step in view.steps)


def _attention(view: View) -> bool:
    """Look for the op, or for a product of two tensors that both depend on the image."""
    products = view.of(Kind.MATRIX_PRODUCT)
    return bool(view.of(Kind.ATTENTION)) or any(step.moving > 1 and step.name != "Gemm" for step in products)


def _patch_embedding(view: View) -> bool:
    for step in view.of(Kind.CONVOLUTION):
        if step.kernel == step.strides and step.strides[:1] > (1,) and step.source == view.image:
            return True
    return any(
        step.name in {"MatMul", "Gemm"} and step.source and step.contracts and step.source != step.target != ()
        for step in view.steps
    )


def _downsampling(view: View) -> bool:
    strided = any(max(step.strides, default=1) > 1 for step in view.of(Kind.CONVOLUTION))
    sliced = any(step.name == "Slice" and max(step.strides, default=1) > 1 and step.source for step in view.steps)
    return strided or sliced or bool(view.of(Kind.DOWNSAMPLING))


def _pooling(view: View) -> bool:
    reduced = any(step.source != step.target for step in view.of(Kind.REDUCTION))
    return bool(view.of(Kind.POOLING)) or reduced


def _normalisation(view: View) -> bool:
    return bool(view.of(Kind.NORMALISATION)) or (view.has("ReduceMean") and view.has("Sqrt", "Pow"))


def _mixing(view: View) -> bool:
    """Whether weights combine positions without being a convolution: token mixing, or flatten and multiply."""
    return any(step.contracts for step in view.of(Kind.MATRIX_PRODUCT))


Test = Callable[[View], bool]

KINDS: tuple[tuple[str, Test], ...] = (
    ("head", _head),
    ("attention", _attention),
    ("patch embedding", _patch_embedding),
    ("position mixing", _mixing),
    ("positional embedding", lambda v: any(step.positional for step in v.steps)),
    ("normalisation", _normalisation),
    ("pooling", _pooling),
    ("upsampling", lambda v: bool(v.of(Kind.UPSAMPLING))),
    ("downsampling", _downsampling),
    ("convolution", lambda v: any(not step.pointwise for step in v.of(Kind.CONVOLUTION))),
    ("pointwise linear", lambda v: bool(v.of(Kind.MATRIX_PRODUCT, Kind.CONVOLUTION))),
    ("nonlinearity", lambda v: bool(v.of(Kind.NONLINEARITY))),
    ("residual", lambda v: v.several(Kind.SUM)),
    ("gating", lambda v: v.several(Kind.PRODUCT)),
    ("affine", lambda v: bool(v.of(Kind.SUM, Kind.PRODUCT, Kind.AFFINE))),
    ("padding", lambda v: bool(v.of(Kind.PADDING))),
    ("rearrangement", lambda _v: True),
)
"""Order matters: a segment with a convolution and a nonlinearity is a convolution."""


def kind_of(steps: Sequence[Step], image: Grid) -> str:
    """Return the kind of a segment of a network whose image has this grid."""
    view = View(steps, image)
    return next(kind for kind, test in KINDS if test(view))
