"""What operations do to the axes of a whole tensor.

Nothing here knows of a framework: the entries of ONNX ops (`lieaudit.ops`) and of torch's operators
(`lieaudit.torch.layout_rules`) read their operands and call these functions, so that a network has the same layouts
whichever way it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from lieaudit.layouts.axes import (
    GRID,
    Axes,
    Axis,
    concat,
    coordinate,
    has_grid,
    normalise,
    plain,
    reshape,
    size_of,
    slice_axis,
    unify,
    without_position,
)

# ---- elementwise --------------------------------------------------------------------------------------------------


def broadcast(operands: Sequence[Axes]) -> Axes:
    """Return the axes of an elementwise combination, aligned from the last axis."""
    rank = max(map(len, operands))
    out: Axes = ((),) * rank
    for operand in operands:
        padded = ((),) * (rank - len(operand)) + operand
        out = tuple(
            unify(a, b) if not a or not b or size_of(a) == size_of(b) else plain("unknown", max(size_of(a), size_of(b)))
            for a, b in zip(out, padded, strict=True)
        )
    return out


def expanded(axes: Axes, sizes: Sequence[int]) -> Axes:
    """Return the axes of a tensor that was repeated to these sizes, aligned from the last axis."""
    padded = ((),) * (len(sizes) - len(axes)) + axes
    return tuple(_repeated(axis, size) for axis, size in zip(padded, sizes, strict=True))


def _repeated(axis: Axis, size: int) -> Axis:
    """Return an axis whose entries were repeated: channels are channels still, positions are not known any more."""
    if size_of(axis) == size:
        return axis
    if size_of(axis) == 1:
        return plain("free", size)
    return plain("channel" if without_position(axis) else "unknown", size)


def differs_over_grid(axes: Axes, sizes: Sequence[int], values: Callable[[], npt.NDArray[np.generic] | None]) -> bool:
    """Say whether a constant of these sizes differs between the pixels of the tensor it is combined with.

    ``axes`` are that tensor's; ``values`` is asked where the sizes do not tell, and None counts as different.
    """
    ahead = len(axes) - len(sizes)
    at = [i - ahead for i, axis in enumerate(axes) if has_grid(axis) and i >= ahead]
    if all(sizes[i] == 1 for i in at):
        return False
    array = values()
    return array is None or any(np.any(array != np.take(array, [0], axis=i)) for i in at if sizes[i] > 1)


# ---- rearranging --------------------------------------------------------------------------------------------------


def permuted(axes: Axes, perm: Sequence[int]) -> Axes:
    """Return the axes in another order."""
    return tuple(axes[i] for i in perm)


def squeezed(axes: Axes, gone: Collection[int]) -> Axes:
    """Leave out axes of size 1."""
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def unsqueezed(axes: Axes, at: Collection[int]) -> Axes:
    """Insert axes of size 1 at these places of the result."""
    rest = iter(axes)
    return tuple(() if i in at else next(rest) for i in range(len(axes) + len(at)))


def joined(operands: Sequence[Axes], at: int) -> Axes:
    """Return the axes of a concatenation along one of them."""
    rest: list[Axis] = []
    for i, first in enumerate(operands[0]):
        axis = first
        for operand in operands[1:]:
            axis = unify(axis, operand[i]) if i != at else axis
        rest.append(axis)
    elsewhere = any(has_grid(axis) for i, axis in enumerate(rest) if i != at)
    rest[at] = concat([operand[at] for operand in operands], grid_elsewhere=elsewhere)
    return tuple(rest)


# ---- picking ------------------------------------------------------------------------------------------------------


def replaced(axes: Axes, at: int, *new: Axis) -> Axes:
    """Put these axes in the place of one, and rescale coordinates that lost digits."""
    return normalise((*axes[:at], *new, *axes[at + 1 :]))


def sliced(axis: Axis, start: int, step: int, size: int) -> Axis:
    """Return the axis after taking ``size`` entries from ``start`` on; a negative step reverses their order."""
    if step < 1:
        return plain("channel" if without_position(axis) else "unknown", size)
    return slice_axis(axis, start, step, size)


def taken(axis: Axis, indices: Sequence[int]) -> Axis:
    """Return the axis after picking these entries: a slice, a cyclic roll, or nothing known."""
    count, size = len(indices), size_of(axis)
    first = indices[0] if count else 0
    if count and all(index == first + i for i, index in enumerate(indices)):
        return slice_axis(axis, first, 1, count)
    if count == size and all(index == (first + i) % size for i, index in enumerate(indices)):
        return rolled(axis, first)
    return plain("channel" if without_position(axis) else "unknown", count)


def rolled(axis: Axis, start: int) -> Axis:
    """Return the axis after a cyclic roll that puts entry ``start`` first."""
    size = size_of(axis)
    if start % size == 0:
        return axis
    head, tail = slice_axis(axis, start % size, 1, size - start % size), slice_axis(axis, 0, 1, start % size)
    return concat([head, tail], grid_elsewhere=True)


def reduced(axes: Axes, gone: Collection[int], *, keep: bool) -> Axes:
    """Return the axes after sums, means or extrema over some of them; ``keep`` leaves axes of size 1 in their place."""
    return normalise(tuple(() if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone))


# ---- grids --------------------------------------------------------------------------------------------------------


def resized(axis: Axis, size: int) -> Axis:
    """Return the axis of a grid that was padded, cropped, pooled or resampled to another size."""
    return axis if size_of(axis) == size else regridded(axis, size)


def regridded(axis: Axis, size: int) -> Axis:
    """Return the axis of a grid whose pixels are others now, also where their number is the same."""
    role = grid_role(axis)
    if role is not None:
        return coordinate(role, size)
    return plain("channel", size) if axis and without_position(axis) else plain("unknown" if axis else "free", size)


def grid_role(axis: Axis) -> str | None:
    """Return ``height`` or ``width`` where neighbours on the axis are neighbours in the image, else None.

    Channels woven into a coordinate, ``(h r)``, are read as sub-pixels once an op treats the axis as space.
    """
    if len(axis) == 1 and axis[0].whole:
        return axis[0].role
    if len(axis) == 2 and axis[0].whole and axis[1].role == "channel":
        return axis[0].role
    return None


def padded(axes: Axes, sizes: Sequence[int], changes: Sequence[tuple[int, int]]) -> Axes:
    """Return the axes of a padded or cropped tensor, given what is added before and after each axis."""
    return tuple(
        regridded(axis, size) if any(change) else axis for axis, size, change in zip(axes, sizes, changes, strict=True)
    )


def resampled(axes: Axes, sizes: Sequence[int]) -> Axes:
    """Return the axes of a tensor resampled to these sizes."""
    return tuple(resized(axis, size) for axis, size in zip(axes, sizes, strict=True))


def window(axis: Axis, size: int) -> Axis:
    """Return the spatial axis after a sliding window."""
    if grid_role(axis) is not None or size == 1:
        return resized(axis, size) if grid_role(axis) is not None and size > 1 else ()
    if not axis:
        return plain("free", size)
    if without_position(axis):
        return plain("channel", size)
    return plain("mixed" if any(a.role == "tokens" or a.role in GRID for a in axis) else "unknown", size)


def pooled(axes: Axes, sizes: Sequence[int]) -> Axes:
    """Return the axes after pooling over windows: batch and channels stay."""
    space = (window(a, s) if a else plain("free", s) for a, s in zip(axes[2:], sizes[2:], strict=True))
    return (*axes[:2], *space)


def convolved(axes: Axes, sizes: Sequence[int], *, groups: int, pointwise: bool) -> Axes:
    """Return the axes after a convolution: a grid of another size, and its channels contracted.

    ``pointwise``: it looks at one pixel only and keeps the grid, whatever this is.
    """
    space = tuple(axis if pointwise else window(axis, size) for axis, size in zip(axes[2:], sizes[2:], strict=True))
    if groups == 1:
        return contracted((axes[0], (), *space), axes[1], at=1, size=sizes[1])
    channels = axes[1] if size_of(axes[1]) == sizes[1] == groups else plain("channel", sizes[1])
    if has_grid(axes[1]) and channels is not axes[1]:
        channels = plain("mixed", sizes[1])
    return (axes[0], channels, *space)


def depth_to_space(axes: Axes, block: int, *, channels_first: bool) -> Axes:
    """Return the axes after blocks of channels became pixels; ``channels_first``: (c r r), else (r r c)."""
    n, c, h, w = map(size_of, axes)
    sizes = (n, c // block**2, h * block, w * block)
    if without_position(axes[1]):
        return (axes[0], plain("channel", sizes[1]), resized(axes[2], sizes[2]), resized(axes[3], sizes[3]))
    split, perm = ((n, sizes[1], block, block, h, w), (0, 1, 4, 2, 5, 3)) if channels_first else (
        (n, block, block, sizes[1], h, w), (0, 3, 4, 1, 5, 2))  # fmt: skip
    return reshape(permuted(reshape(axes, split), perm), sizes)


def space_to_depth(axes: Axes, block: int, *, channels_first: bool) -> Axes:
    """Return the axes after blocks of pixels became channels; ``channels_first``: (c r r), else (r r c)."""
    n, c, h, w = map(size_of, axes)
    split = reshape(axes, (n, c, h // block, block, w // block, block))
    perm = (0, 1, 3, 5, 2, 4) if channels_first else (0, 3, 5, 1, 2, 4)
    return reshape(permuted(split, perm), (n, c * block * block, h // block, w // block))


# ---- products -----------------------------------------------------------------------------------------------------


def contracted(kept: Axes, gone: Axis, *, at: int, size: int) -> Axes:
    """Return the axes after one was multiplied by a constant matrix into a new one of ``size`` at position ``at``.

    A new axis made of positions is channels where whole digits were used up (patch embedding) or nothing but the
    batch is left (flatten and classify); otherwise positions are mixed: token mixing.
    """
    rest = normalise((*kept[:at], (), *kept[at + 1 :]))
    role = "channel"
    if any(atom.role == "unknown" for atom in gone):
        role = "unknown"
    elif has_grid(gone):
        inner = any(has_grid(axis) for axis in rest)
        digits = all(atom.role in GRID or without_position((atom,)) for atom in gone)
        lonely = all(atom.role in {"batch", "free"} for axis in rest for atom in axis)
        partial = {atom.role for atom in gone if atom.role in GRID}
        left = {atom.role for axis in rest for atom in axis if atom.role in GRID}
        role = "channel" if lonely or (inner and digits and partial <= left) else "mixed"
    return (*rest[:at], plain(role, size), *rest[at + 1 :])


def multiplied(first: Axes, second: Axes, sizes: Sequence[int], *, varies: tuple[bool, bool]) -> Axes:
    """Return the axes of a matrix product; ``varies`` says which operands depend on the image."""
    batch = broadcast([first[:-2], second[:-2]])
    if not varies[1]:
        return contracted((*batch, first[-2], ()), first[-1], at=len(batch) + 1, size=sizes[-1])
    if not varies[0]:
        return contracted((*batch, (), second[-1]), second[-2], at=len(batch), size=sizes[-2])
    return normalise((*batch, first[-2], second[-1]))
