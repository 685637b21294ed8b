"""What a transposition rule works with: emitting nodes, and the sizes of every tensor of the linear graph.

The derivative J v of a graph is a chain of ops that are linear in the tangents. Its transpose Jᵀ u runs through the
same ops in reverse, each turned around: ⟨u, J v⟩ = ⟨Jᵀ u, v⟩ ("linearise and transpose", Radul et al., POPL 2023).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.extents import Extent, Symbol
from lieaudit.errors import UnsupportedOpError

COTANGENT_NODES = "cotangent/"
"""What the names of emitted nodes begin with."""

OPSET = 16
"""Oldest opset of transposed graphs: the first whose scatters can add."""

Extents = tuple[Extent, ...]


class Adjoint(Context):
    """Emits the transposed nodes of one linear graph.

    Parameters
    ----------
    graph
        The graph that is extended in place.
    opset
        Its version of the default domain, 16 or newer.
    linear
        The tensors that carry the linear map: tangents.
    measured
        Sizes of the graph's tensors; None where they could not be told.
    """

    def __init__(
        self,
        graph: ir.Graph,
        *,
        opset: int,
        linear: Collection[ir.Value],
        measured: Mapping[ir.Value, Extents | None],
    ) -> None:
        super().__init__(graph, opset=opset, lead=0, prefix=COTANGENT_NODES)
        self.linear = frozenset(linear)
        self.measured = measured
        self.symbols: dict[Symbol, ir.Value] = {}
        """int64 tensors of shape (1,) that hold what a symbol stands for in a run."""

    # ---- sizes ----------------------------------------------------------------------------------------------------

    def sizes_of(self, value: ir.Value) -> Extents:
        """Return the sizes of a tensor of the linear graph."""
        found = self.measured.get(value)
        if found is None:
            raise UnsupportedOpError(
                f"the sizes of tensor {value.name!r} follow the input's values, or sizes of it that are not fixed",
                reason="DYNAMIC_SHAPE",
                subject=value.name or "",
                hint="export the model with fixed sizes",
            )
        return found

    def rank_of(self, value: ir.Value) -> int:
        """Return the rank of a tensor of the linear graph."""
        return len(self.sizes_of(value))

    def fixed(self, value: ir.Value, axis: int) -> int:
        """Return a size that has to be a number."""
        size = self.sizes_of(value)[axis]
        if not isinstance(size, int):
            raise UnsupportedOpError(
                f"axis {axis} of tensor {value.name!r} has no fixed size",
                reason="DYNAMIC_SHAPE",
                subject=value.name or "",
                hint="export the model with fixed sizes",
            )
        return size

    def size(self, extent: Extent) -> ir.Value:
        """Return a size as an int64 tensor of shape (1,)."""
        if isinstance(extent, int):
            return self.ints([extent])
        total: ir.Value | None = None
        for symbol, offset in extent.factors:
            factor = self.symbols[symbol]
            if offset:
                factor = self.op("Add", factor, self.ints([offset]))
            total = factor if total is None else self.op("Mul", total, factor)
        if total is None:
            return self.ints([extent.times // extent.over])
        if extent.times != 1:
            total = self.op("Mul", total, self.ints([extent.times]))
        return self.op("Div", total, self.ints([extent.over])) if extent.over != 1 else total

    def shape(self, extents: Sequence[Extent]) -> ir.Value:
        """Return a shape as an int64 tensor."""
        fixed = [e for e in extents if isinstance(e, int)]
        if len(fixed) == len(extents):
            return self.ints(fixed)
        return self.op("Concat", *(self.size(e) for e in extents), axis=0)

    # ---- emitting -------------------------------------------------------------------------------------------------

    def reshape(self, u: ir.Value, extents: Sequence[Extent]) -> ir.Value:
        """Reshape to sizes; −1 is what is left."""
        free = [i for i, e in enumerate(extents) if not isinstance(e, int)]
        if len(free) == 1 and 0 not in extents and -1 not in extents:
            target = self.ints(-1 if i in free else int(e) for i, e in enumerate(extents))  # type: ignore[arg-type]
        else:
            target = self.shape(extents)
        return self.op("Reshape", u, target)

    def expand(self, u: ir.Value, extents: Sequence[Extent]) -> ir.Value:
        """Broadcast to sizes."""
        return self.op("Expand", u, self.shape(extents))

    def scalar(self, number: int) -> ir.Value:
        """Return an int64 initializer without axes."""
        return self.const(np.array(number, np.int64))

    def zeros(self, extents: Sequence[Extent], like: ir.Value) -> ir.Value:
        """Return zeros of these sizes."""
        return self.expand(self.number(0, like), extents)

    def sum_to(self, u: ir.Value, made: Sequence[Extent], operand: Sequence[Extent]) -> ir.Value:
        """Turn broadcasting around: sum over the axes along which an operand was repeated."""
        missing = len(made) - len(operand)
        if missing > 0:
            u = self.reduce("Sum", u, list(range(missing)), keepdims=False)
        repeated = [i for i, size in enumerate(operand) if size == 1 and made[missing + i] != 1]
        return self.reduce("Sum", u, repeated) if repeated else u

    def pad(self, u: ir.Value, rank: int, before: Mapping[int, int], after: Mapping[int, int]) -> ir.Value:
        """Put zeros around; negative numbers cut."""
        pads = [before.get(i, 0) for i in range(rank)] + [after.get(i, 0) for i in range(rank)]
        return self.op("Pad", u, self.ints(pads)) if any(pads) else u

    def reverse(self, u: ir.Value, axes: Iterable[int]) -> ir.Value:
        """Turn axes around."""
        axes = list(axes)
        ends = self.ints([-(1 << 62)] * len(axes))
        steps = self.ints([-1] * len(axes))
        return self.op("Slice", u, self.ints([-1] * len(axes)), ends, self.ints(axes), steps) if axes else u

    def transpose(self, u: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Permute axes; nothing where they stay."""
        return u if list(perm) == sorted(perm) else self.op("Transpose", u, perm=list(perm))

    def along(self, u: ir.Value, rank: int, axis: int, matrix: ir.Value) -> ir.Value:
        """Multiply axis ``axis`` by a matrix (made, there)."""
        if axis == rank - 2:
            return self.op("MatMul", matrix, u)
        turned = self.op("Transpose", matrix, perm=[1, 0])
        if axis == rank - 1:
            return self.op("MatMul", u, turned)
        perm = [*(i for i in range(rank) if i != axis), axis]
        back = [perm.index(i) for i in range(rank)]
        return self.transpose(self.op("MatMul", self.transpose(u, perm), turned), back)

    def total(self, parts: Sequence[ir.Value]) -> ir.Value:
        """Add up cotangents of one tensor."""
        return parts[0] if len(parts) == 1 else self.op("Add" if len(parts) == 2 else "Sum", *parts)
