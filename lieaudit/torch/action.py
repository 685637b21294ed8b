"""The infinitesimal action X of a symmetry on any tensor whose layout is known, as a differentiable torch function."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from lieaudit.layouts.axes import GRID, HEIGHT, WIDTH, Atom, digits, size_of
from lieaudit.layouts.layout import Layout
from lieaudit.symmetries import Generator, derivative_matrix, get_generator, velocity_field


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

    generator: str | Generator
    interpolation: str
    padding: str
    convention: str
    dtype: torch.dtype
    device: torch.device
    zero_point: tuple[float, ...] = (0.0,)
    _matrices: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)
    _fields: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, h: torch.Tensor, layout: Layout, *, image: bool = False) -> torch.Tensor:
        """Return X h for a tensor of that layout, of h's shape: v · ∇h on its own grid, or gain · h.

        0 on vectors and on tokens off the grid. ``image`` says that h is the model's input.
        """
        if not layout.spatial:
            return torch.zeros_like(h)
        if image and any(self.zero_point):
            h = h - torch.tensor(self.zero_point, dtype=self.dtype, device=self.device).reshape(-1, 1, 1)
        atoms = [atom for axis in layout.axes for atom in axis]
        view = h.reshape([_size(atom) for atom in atoms])
        tokens = next((at for at, atom in enumerate(atoms) if atom.parts), None)
        moved = self._on_grid(view, atoms) if tokens is None else self._on_tokens(view, atoms, tokens)
        return moved.reshape(h.shape)

    def _on_tokens(self, view: torch.Tensor, atoms: list[Atom], at: int) -> torch.Tensor:
        """Act on each grid among the parts of a token axis; prefix tokens get zeros."""
        pieces, start = [], 0
        for part in atoms[at].parts:
            size = size_of(part)
            piece = view.narrow(at, start, size)
            start += size
            if not any(atom.role in GRID for atom in part):
                pieces.append(torch.zeros_like(piece))
                continue
            spread = [*atoms[:at], *part, *atoms[at + 1 :]]
            pieces.append(self._on_grid(piece.reshape([_size(atom) for atom in spread]), spread).reshape(piece.shape))
        return torch.cat(pieces, dim=at)

    def _on_grid(self, view: torch.Tensor, atoms: list[Atom]) -> torch.Tensor:
        """Act on a tensor whose axes are single atoms."""
        rows, columns = (digits(atoms, role) for role in (HEIGHT, WIDTH))
        order = [*(i for i in range(len(atoms)) if i not in rows and i not in columns), *rows, *columns]
        height, width = (math.prod(atoms[i].size for i in at) for at in (rows, columns))
        shifts = [atoms[at[0]].shift if at else 0 for at in (rows, columns)]
        ordered = view.permute(order)
        planes = ordered.reshape(-1, height, width)
        moved = planes.roll(shifts, (1, 2)) if any(shifts) else planes
        moved = self._gradient(moved)
        moved = moved.roll([-shift for shift in shifts], (1, 2)) if any(shifts) else moved
        back = sorted(range(len(atoms)), key=order.__getitem__)
        return moved.reshape(ordered.shape).permute(back)

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


def _size(atom: Atom) -> int:
    return -1 if atom.role == "batch" else atom.size


def per_image(values: torch.Tensor, h: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Spread one value per image (n,) over a tensor of that layout: h's shape."""
    if values.shape[0] == 1:
        return values.reshape([1] * h.dim()).expand(h.shape)
    atoms = [atom for axis in layout.axes for atom in axis]
    shape = [values.shape[0] if atom.role == "batch" else 1 for atom in atoms]
    sizes = [values.shape[0] if atom.role == "batch" else atom.size for atom in atoms]
    return values.reshape(shape).expand(sizes).reshape(h.shape)
