"""The symmetry's action X h on a tensor of any known layout, as ONNX nodes.

A tensor is rearranged to (batch and channels, h, w), its grid differentiated along each axis by a matrix and
multiplied by the velocity field of that grid, and rearranged back. Vectors and prefix tokens do not move: X h = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.layerwise.emitter import Emitter
from lieaudit.layouts.axes import BATCH, GRID, HEIGHT, WIDTH, Atom, size_of
from lieaudit.layouts.layout import Layout
from lieaudit.symmetries import Generator, derivative_matrix, get_generator, velocity_field

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Action:
    """How G generators act; see `lieaudit.symmetries.tangents`."""

    generators: tuple[str | Generator, ...]
    interpolation: str
    padding: str
    convention: str

    def derivative(self, size: int, shift: int) -> Float32Array:
        """Return the derivative along an axis of ``size`` entries that is rolled by ``shift``."""
        matrix = derivative_matrix(
            size, interpolation=self.interpolation, padding=self.padding, right=self.convention == "reference"
        )
        order = (np.arange(size) + shift) % size
        return matrix[np.ix_(order, order)].astype(np.float32)

    def velocities(self, height: int, width: int, shifts: tuple[int, int]) -> Float32Array:
        """Return v of every generator on a rolled grid, (G, 2, height, width): x, then y component."""
        rows = (np.arange(height) + shifts[0]) % height
        columns = (np.arange(width) + shifts[1]) % width
        fields = [velocity_field(g, height, width, convention=self.convention) for g in self.generators]
        return np.stack(fields)[:, :, rows][:, :, :, columns].astype(np.float32)

    def gains(self) -> list[float]:
        """Return the gain of every generator; 0 for those that move pixels."""
        return [get_generator(g).gain for g in self.generators]


def emit_action(emit: Emitter, value: ir.Value, layout: Layout, action: Action) -> ir.Value:
    """Append X h for every generator of ``action``: (G, *shape of the tensor)."""
    atoms = [atom for axis in layout.axes for atom in axis]
    view = emit.reshape(value, map(_dim, atoms))
    tokens = next((i for i, atom in enumerate(atoms) if atom.parts), None)
    act = _grid_rows(emit, view, atoms, action) if tokens is None else _token_rows(emit, view, atoms, tokens, action)
    shape = [-1 if size % BATCH == 0 else size for size in map(size_of, layout.axes)]
    return emit.reshape(act, [len(action.generators), *shape])


def _token_rows(emit: Emitter, view: ir.Value, atoms: list[Atom], at: int, action: Action) -> ir.Value:
    """Act on each grid among the parts of a token axis; prefix tokens get zeros."""
    pieces, start, count = [], 0, len(action.generators)
    for part in atoms[at].parts:
        size = size_of(part)
        piece = emit.slice(view, start, start + size, at)
        start += size
        spread = [*atoms[:at], *part, *atoms[at + 1 :]]
        if any(atom.role in GRID for atom in part):
            rows = _grid_rows(emit, emit.reshape(piece, map(_dim, spread)), spread, action)
        else:
            rows = _stack([emit.scaled(piece, 0.0)] * count, emit)
        dims = [_dim(a) for a in atoms[:at]] + [size] + [_dim(a) for a in atoms[at + 1 :]]
        pieces.append(emit.reshape(rows, [count, *dims]))
    return emit.op("Concat", *pieces, axis=at + 1)


def _grid_rows(emit: Emitter, view: ir.Value, atoms: list[Atom], action: Action) -> ir.Value:
    """Act on a tensor whose axes are single atoms: (G, *axes)."""
    grid = [i for i, atom in enumerate(atoms) if atom.role in GRID]
    rows_at, columns_at = (
        sorted((i for i in grid if atoms[i].role == role), key=lambda i: -atoms[i].unit) for role in (HEIGHT, WIDTH)
    )
    # the batch has no fixed size and goes ahead, wherever it is
    trailing = [i for i in range(max(grid) + 1, len(atoms)) if atoms[i].role != "batch"]
    leading = [i for i in range(len(atoms)) if i not in grid and i not in trailing]
    perm = [*leading, *rows_at, *columns_at, *trailing]
    moved = perm != sorted(perm)
    height, width, channels = (math.prod(atoms[i].size for i in at) for at in (rows_at, columns_at, trailing))
    shifts = tuple(atoms[at[0]].shift if at else 0 for at in (rows_at, columns_at))
    flat = emit.reshape(emit.op("Transpose", view, perm=perm) if moved else view, [-1, height, width, channels])
    rows = _derivatives(emit, flat, (height, width, channels), (shifts[0], shifts[1]), action)
    rows = emit.reshape(rows, [len(action.generators), *(_dim(atoms[i]) for i in perm)])
    return emit.op("Transpose", rows, perm=[0, *(perm.index(i) + 1 for i in range(len(atoms)))]) if moved else rows


def _derivatives(
    emit: Emitter, flat: ir.Value, sizes: tuple[int, int, int], shifts: tuple[int, int], action: Action
) -> ir.Value:
    """Return v · ∇ of (B, h, w, c) for every generator: (G·B, h, w, c)."""
    height, width, channels = sizes
    whole = [-1, height, width, channels]
    velocities = action.velocities(height, width, shifts)
    gradient: list[ir.Value | None] = [None, None]
    if np.any(velocities[:, 0]):
        matrix = action.derivative(width, shifts[1])
        if channels == 1:
            lines = emit.reshape(flat, [-1, width])
            gradient[0] = emit.reshape(emit.op("MatMul", lines, emit.const(matrix.T)), whole)
        else:
            gradient[0] = emit.op("MatMul", emit.const(matrix), flat)
    if np.any(velocities[:, 1]):
        planes = emit.reshape(flat, [-1, height, width * channels])
        matrix = action.derivative(height, shifts[0])
        gradient[1] = emit.reshape(emit.op("MatMul", emit.const(matrix), planes), whole)
    rows = []
    for velocity, gain in zip(velocities, action.gains(), strict=True):
        if gain:
            rows.append(emit.scaled(flat, gain))
            continue
        terms = [
            emit.op("Mul", derivative, emit.const(_slim(component)))
            for derivative, component in zip(gradient, velocity, strict=True)
            if derivative is not None and np.any(component)
        ]
        # a velocity that is zero everywhere: one pixel
        rows.append(emit.op("Sum", *terms) if terms else emit.scaled(flat, 0.0))
    return _stack(rows, emit)


def _slim(component: Float32Array) -> Float32Array:
    """Return a velocity component as (h, w, 1), with size 1 along axes on which it does not depend."""
    if np.all(component == component[:1]):
        component = component[:1]
    if np.all(component == component[:, :1]):
        component = component[:, :1]
    return np.ascontiguousarray(component[:, :, None])


def _stack(rows: Sequence[ir.Value], emit: Emitter) -> ir.Value:
    return rows[0] if len(rows) == 1 else emit.op("Concat", *rows, axis=0)


def _dim(atom: Atom) -> int:
    return -1 if atom.role == "batch" else atom.size
