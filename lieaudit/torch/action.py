"""The infinitesimal action X of a symmetry on any tensor whose layout is known, as a differentiable torch function."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lieaudit.symmetries import derivative_matrix, get_generator, velocity_field
from lieaudit.torch.layouts import Factor, Grid, Layout


@dataclass(frozen=True, slots=True)
class Action:
    """X of one generator under one set of conventions (docs/numerics.md, sections 2 and 3).

    Attributes
    ----------
    generator, interpolation, padding, convention
        As in `lieaudit.AuditSpec`.
    dtype, device
        Of the tensors acted on.
    zero_point
        What a raw intensity of 0 is in the images, one value or one per channel; features have theirs at 0.
    """

    generator: str
    interpolation: str
    padding: str
    convention: str
    dtype: torch.dtype
    device: torch.device
    zero_point: tuple[float, ...] = (0.0,)
    _matrices: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)
    _fields: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, h: torch.Tensor, layout: Layout, *, image: bool = False) -> torch.Tensor:
        """Give X h for a tensor of that layout, of h's shape: v · ∇h on its own grid, or gain · h.

        0 on vectors and on tokens off the grid. ``image`` says that h is the model's input.
        """
        grid = layout.grid
        if grid is None:
            return torch.zeros_like(h)
        if image and any(self.zero_point):
            h = h - torch.tensor(self.zero_point, dtype=self.dtype, device=self.device).reshape(-1, 1, 1)
        tokens = [(d, axis[0]) for d, axis in enumerate(layout.axes) if len(axis) == 1 and axis[0].kind == "t"]
        if tokens:
            dim, part = tokens[0]
            inner = Layout((*layout.axes[:dim], part.inner, *layout.axes[dim + 1 :]))
            moved = self(h.narrow(dim, part.prefix, part.size - part.prefix), inner)
            still = torch.zeros_like(h.narrow(dim, 0, part.prefix))
            return torch.cat([still, moved], dim=dim)
        return self._on_factors(h, layout, grid)

    def _on_factors(self, h: torch.Tensor, layout: Layout, grid: Grid) -> torch.Tensor:
        factors = [factor for axis in layout.axes for factor in axis]
        order = sorted(range(len(factors)), key=lambda i: _rank(factors[i], i))
        back = sorted(range(len(factors)), key=order.__getitem__)
        sizes = [-1 if factor.kind == "n" else factor.size for factor in factors]
        planes = h.reshape(sizes).permute(order).reshape(-1, grid.height, grid.width)
        moved = planes.roll(grid.shifts, (1, 2)) if any(grid.shifts) else planes
        moved = self._gradient(moved)
        moved = moved.roll((-grid.shifts[0], -grid.shifts[1]), (1, 2)) if any(grid.shifts) else moved
        return moved.reshape([sizes[i] for i in order]).permute(back).reshape(h.shape)

    def _gradient(self, planes: torch.Tensor) -> torch.Tensor:
        gain = get_generator(self.generator).gain
        if gain:
            return gain * planes
        height, width = planes.shape[-2:]
        vx, vy = self._velocity(height, width)
        moved: torch.Tensor = vx * (planes @ self._matrix(width).mT) + vy * (self._matrix(height) @ planes)
        return moved

    def _velocity(self, height: int, width: int) -> torch.Tensor:
        if (height, width) not in self._fields:
            values = velocity_field(self.generator, height, width, convention=self.convention)
            self._fields[height, width] = torch.as_tensor(values).to(self.device, self.dtype)
        return self._fields[height, width]

    def _matrix(self, size: int) -> torch.Tensor:
        if size not in self._matrices:
            values = derivative_matrix(
                size,
                interpolation=self.interpolation,
                padding=self.padding,
                right=self.convention == "reference",
            )
            self._matrices[size] = torch.as_tensor(values).to(self.device, self.dtype)
        return self._matrices[size]


def _rank(factor: Factor, position: int) -> tuple[int, int]:
    """Order factors: everything else first, then the rows of the grid, then its columns, major to minor."""
    kind = {"h": 1, "w": 2}.get(factor.kind, 0)
    return kind * 2, (-factor.stride if kind else position)


def per_image(values: torch.Tensor, h: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Spread one value per image (n,) over a tensor of that layout: h's shape."""
    if values.shape[0] == 1:
        return values.reshape([1] * h.dim()).expand(h.shape)
    factors = [factor for axis in layout.axes for factor in axis]
    shape = [values.shape[0] if factor.kind == "n" else 1 for factor in factors]
    sizes = [values.shape[0] if factor.kind == "n" else factor.size for factor in factors]
    return values.reshape(shape).expand(sizes).reshape(h.shape)
