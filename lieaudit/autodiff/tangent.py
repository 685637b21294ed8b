"""A tangent inside the rewritten graph: the derivative of one tensor along D directions at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from lieaudit.autodiff.sizes import Dims


@dataclass(eq=False, slots=True)
class Tangent:
    """The derivative of a tensor y along D directions: factor ⊙ rows.

    The rows exist in one or both of two forms that hold the same bytes: `stacked` (D, *shape of y), on which values
    broadcast, and `folded` (D·N, *shape of y without its first axis), which ops with a batch axis take as it is.

    The factor is a tensor of values (no D axis) that broadcasts to the shape of y. A chain of pointwise functions only
    multiplies factors, at the cost of values; the D rows are multiplied once, by `Context.stack` or `Context.fold`,
    when an op needs them. So Gelu written as five ops costs one pass over the rows, as a Relu does.
    """

    dims: Dims
    stacked: ir.Value | None = None
    folded: ir.Value | None = None
    factor: ir.Value | None = None
    factor_dims: Dims = ()
    product: Tangent | None = field(default=None, repr=False)
    """The rows multiplied by the factor, once an op has asked for them."""

    @property
    def rank(self) -> int:
        """Rank of y."""
        return len(self.dims)
