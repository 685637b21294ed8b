"""Row buffers that are used again, so that the operating system need not clear fresh pages for every stage."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

_STEPS = 8
"""Size classes between two powers of two: a block is at most an eighth larger than what was asked for."""


class Buffers:
    """Arrays from blocks that were given back.

    Parameters
    ----------
    limit
        Bytes that blocks given back are kept up to, those in use included; beyond it they are freed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._free: dict[int, list[Float32Array]] = {}

    @property
    def held_bytes(self) -> int:
        """Memory of the blocks in use and of those kept."""
        return self._held

    def take(self, shape: tuple[int, ...]) -> Float32Array:
        """Return an array whose contents are arbitrary."""
        size = math.prod(shape)
        block_size = _class_of(size)
        free = self._free.get(block_size)
        if free:
            block = free.pop()
        else:
            self._shrink(self._limit - np.dtype(np.float32).itemsize * block_size)
            block = np.empty(block_size, np.float32)
            self._held += block.nbytes
        return block[:size].reshape(shape)

    def give(self, array: Float32Array) -> None:
        """Take back an array that `take` made; nothing may read it any more."""
        block = array
        while isinstance(block.base, np.ndarray):
            block = block.base
        self._free.setdefault(block.size, []).append(block)
        self._shrink(self._limit)

    def _shrink(self, limit: int) -> None:
        """Free blocks, the smallest first: what comes next is mostly larger than what was before."""
        for size in sorted(self._free):
            free = self._free[size]
            while free and self._held > limit:
                self._held -= free.pop().nbytes


def _class_of(size: int) -> int:
    step = max(1, (1 << max(0, size.bit_length() - 1)) // _STEPS)
    return max(1, math.ceil(size / step) * step)
