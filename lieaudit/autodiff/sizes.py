"""Sizes of tensors that follow the batch and the number of directions."""

from __future__ import annotations

import math
import re

Dims = tuple[int | str, ...]
"""Sizes of a tensor, leading batch included; a size that follows the batch is a string such as ``N`` or ``64N``."""

_SIZE = re.compile(r"(?P<directions>D\*)?(?P<multiple>\d*)(?P<batch>N?)")


def size_of(size: int | str, images: int, directions: int) -> int:
    """Return a size for so many images and directions; a symbol that follows neither counts as its first number."""
    if isinstance(size, int):
        return max(size, 1)
    if size == "D":
        return directions
    match = _SIZE.match(size)
    directional, multiple, batch = match.groups() if match is not None else ("", "", "")
    return int(multiple or 1) * (images if batch else 1) * (directions if directional else 1)


def elements(dims: Dims) -> int:
    """Count the elements at one image and direction."""
    return math.prod(size_of(size, 1, 1) for size in dims)


def broadcast_dims(left: Dims, right: Dims) -> Dims:
    """Return the sizes of the broadcast of two shapes."""
    rank = max(len(left), len(right))
    a, b = (1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))
