"""What a rule works with: emitting nodes, tangents and their two forms, attributes that became inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from lieaudit.autodiff.sizes import Dims, broadcast_dims, elements
from lieaudit.autodiff.tangent import Tangent
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.names import called

TANGENT_NODES = "tangent/"
"""What the names of emitted nodes begin with."""

RELATIVE_STEP = 2.0**-9
"""Step of the central difference of a single op, relative to its operand's scale."""

_SMALL = {ir.DataType.INT64, ir.DataType.INT32}
"""Dtypes of shapes and axes."""


class Context:
    """Emits the tangent nodes of one graph.

    Parameters
    ----------
    graph
        The graph that is extended in place.
    opset
        Its version of the default domain; nodes are emitted in that version's form.
    lead
        1: tangents have a leading axis of D directions. 0: they have the shape of the value (one direction each).
    count
        int64 tensor of shape (1,): the number of directions D.
    prefix
        What the names of emitted nodes and initializers begin with.
    """

    def __init__(
        self,
        graph: ir.Graph,
        *,
        opset: int,
        lead: int,
        count: ir.Value | None = None,
        prefix: str = TANGENT_NODES,
    ) -> None:
        self.graph = graph
        self.prefix = prefix
        self.opset = opset
        self.lead = lead
        self.count = count
        self.lanes: list[dict[ir.Value, Tangent]] = [{}]
        """Tangent of every active value: one lane with a leading axis, or one lane per direction without."""
        self.tangents = self.lanes[0]
        """The lane that the rule at work sees."""
        self.difference_step = RELATIVE_STEP
        """Step of the central differences of single ops."""
        self.extents: dict[ir.Value, Dims] = {}
        """Sizes of emitted tensors, for the estimate of memory; an upper bound inside a rule."""
        self._anchor: ir.Node | None = None
        self._emitted: dict[tuple[object, ...], tuple[ir.Value, ...]] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._serial = 0

    # ---- emitting -------------------------------------------------------------------------------------------------

    def move_after(self, node: ir.Node | None) -> None:
        """Emit the next nodes after this one (None: at the start of the graph)."""
        self._anchor = node

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        dtype: ir.DataType | None = None,
        attributes: Mapping[str, ir.Attr] | None = None,
        **values: Any,
    ) -> ir.Value:
        """Emit a node with one output; an equal node emitted before is used again."""
        return self.ops(op_type, *inputs, domain=domain, dtype=dtype, attributes=attributes, **values)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int = 1,
        domain: str = "",
        dtype: ir.DataType | None = None,
        attributes: Mapping[str, ir.Attr] | None = None,
        **values: Any,
    ) -> tuple[ir.Value, ...]:
        """Emit a node with several outputs."""
        made = dict(attributes or {})
        made.update(
            {a.name: a for a in ir.convenience.convert_attributes({k: v for k, v in values.items() if v is not None})}
        )
        key = (domain, op_type, inputs, outputs, tuple(sorted((n, _frozen(a)) for n, a in made.items())))
        if key in self._emitted:
            return self._emitted[key]
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        node = ir.Node(domain, op_type, inputs, list(made.values()), num_outputs=outputs)
        node.name = f"{self.serial()}/{op_type}"
        kind = dtype or next((v.dtype for v in inputs if v is not None), None)
        for i, value in enumerate(node.outputs):
            value.name = f"{node.name}:{i}"
            value.type = ir.TensorType(kind) if kind is not None else None
        self.insert(node)
        if kind not in _SMALL and (known := [e for v in inputs if v is not None and (e := self.extent(v))]):
            widest = max(known, key=elements)
            self.extents.update(dict.fromkeys(node.outputs, widest))
        self._emitted[key] = tuple(node.outputs)
        return self._emitted[key]

    def serial(self) -> str:
        """Return a name prefix that was not given before."""
        self._serial += 1
        return f"{self.prefix}{self._serial}"

    def insert(self, node: ir.Node) -> None:
        """Put a node where emission is."""
        if self._anchor is None:
            first = next(iter(self.graph), None)
            if first is None:
                self.graph.append(node)
            else:
                self.graph.insert_before(first, node)
        else:
            self.graph.insert_after(self._anchor, node)
        self._anchor = node

    def const(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """Return an initializer; equal arrays share one."""
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            value = ir.Value(name=f"{self.prefix}constant_{len(self._constants)}")
            value.const_value = ir.Tensor(array, name=value.name)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(array.shape)
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """Return a 1-D int64 initializer."""
        return self.const(np.array(list(values), np.int64))

    def number(self, value: float, like: ir.Value | None) -> ir.Value:
        """Return a scalar of the dtype of another tensor."""
        dtype = np.dtype(np.float32) if like is None or like.dtype is None else like.dtype.numpy()
        return self.const(np.array(value, dtype))

    def extent(self, value: ir.Value) -> Dims | None:
        """Return the sizes of a tensor, original or emitted, as far as they are known."""
        if value in self.extents:
            return self.extents[value]
        return None if value.shape is None or value.is_initializer() else self.dims(value)

    # ---- reading --------------------------------------------------------------------------------------------------

    def dims(self, value: ir.Value) -> Dims:
        """Return the sizes of a tensor of the original graph."""
        if value.shape is None:
            raise UnsupportedOpError(
                f"the rank of tensor {value.name!r} is not known",
                reason="UNKNOWN_SHAPE",
                subject=value.name or "",
                hint="use --method finite_difference",
            )
        return tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)

    def rank(self, value: ir.Value) -> int:
        """Return the rank of a tensor of the original graph."""
        return len(self.dims(value))

    def length(self, value: ir.Value) -> int:
        """Return the length of a one-dimensional tensor of the original graph."""
        size = self.dims(value)[0]
        if not isinstance(size, int):
            raise UnsupportedOpError(
                f"the length of tensor {value.name!r} follows the batch",
                reason="DYNAMIC_SHAPE",
                subject=value.name or "",
                hint="export the model with fixed height and width",
            )
        return size

    def tangent(self, value: ir.Value | None) -> Tangent | None:
        """Return the tangent of a value, or None where it does not depend on the active inputs."""
        return None if value is None else self.tangents.get(value)

    def moving(self, node: ir.Node, index: int = 0) -> Tangent:
        """Return the tangent of an input that carries one."""
        tangent = self.tangent(node.inputs[index])
        if tangent is None:
            raise UnsupportedOpError(
                f"input {index} of {called(node)} has no tangent",
                reason="NO_RULE",
                subject=node.name or node.op_type,
                hint="use --method finite_difference",
            )
        return tangent

    def blocked(self, value: ir.Value) -> bool:
        """Say whether a tensor probably lives in onnxruntime's blocked layout, between convolutions on CPU."""
        return self.lead == 0 and value.dtype == ir.DataType.FLOAT and value.shape is not None and len(value.shape) == 4

    # ---- tangents -------------------------------------------------------------------------------------------------

    def stacked(self, rows: ir.Value, dims: Dims) -> Tangent:
        """Make a tangent of rows (D, *dims)."""
        self.extents[rows] = ("D", *dims) if self.lead else dims
        return Tangent(dims, stacked=rows, folded=None if self.lead else rows)

    def folded(self, rows: ir.Value, dims: Dims) -> Tangent:
        """Make a tangent of rows (D·N, *dims[1:])."""
        self.extents[rows] = (f"D*{dims[0]}", *dims[1:]) if self.lead else dims
        return Tangent(dims, folded=rows, stacked=None if self.lead else rows)

    def scaled(self, tangent: Tangent, factor: ir.Value, dims: Dims) -> Tangent:
        """Multiply a tangent by a value that broadcasts to its shape, lazily."""
        if tangent.factor is not None:
            dims = broadcast_dims(tangent.factor_dims, dims)
            factor = self.op("Mul", tangent.factor, factor)
        return Tangent(tangent.dims, tangent.stacked, tangent.folded, factor, dims)

    def multiplied(self, tangent: Tangent) -> Tangent:
        """Return the same tangent without a factor: the one pass over its rows."""
        if tangent.factor is None:
            return tangent
        if tangent.product is None:
            bare = Tangent(tangent.dims, tangent.stacked, tangent.folded)
            if bare.folded is not None and len(tangent.factor_dims) < tangent.rank:
                # No batch axis in the factor: it multiplies the folded rows, and onnxruntime fuses it into a Conv.
                tangent.product = self.folded(self.op("Mul", bare.folded, tangent.factor), tangent.dims)
            else:
                tangent.product = self.stacked(self.op("Mul", self.stack(bare), tangent.factor), tangent.dims)
        return tangent.product

    def stack(self, tangent: Tangent) -> ir.Value:
        """Return the rows as (D, *dims)."""
        bare = self.multiplied(tangent)
        if bare.stacked is None:
            bare.stacked = self.op("Reshape", bare.folded, self._stacked_shape(bare.dims))
        return bare.stacked

    def fold(self, tangent: Tangent) -> ir.Value:
        """Return the rows as (D·N, *dims[1:])."""
        bare = self.multiplied(tangent)
        if bare.folded is None:
            rest = bare.dims[1:]
            if all(isinstance(d, int) for d in rest):
                shape = self.ints([-1, *(int(d) for d in rest)])
            else:
                sizes = self.op("Shape", bare.stacked, dtype=ir.DataType.INT64)
                shape = self.op("Concat", self.ints([-1]), self.slice(sizes, [2], [len(bare.dims) + 1], [0]), axis=0)
            bare.folded = self.op("Reshape", bare.stacked, shape)
        return bare.folded

    def _stacked_shape(self, dims: Dims) -> ir.Value:
        fixed = [d if isinstance(d, int) else -1 for d in dims]
        if fixed.count(-1) == 0:
            return self.ints([-1, *fixed])
        if fixed.count(-1) == 1:
            return self.op("Concat", self.count, self.ints(fixed), axis=0)
        raise UnsupportedOpError(
            "more than one size of a tensor is open, or follows the image",
            reason="DYNAMIC_SHAPE",
            subject="shape",
            hint="export the model with fixed height and width, or use --method finite_difference",
        )

    def add(self, left: Tangent | None, right: Tangent | None) -> Tangent | None:
        """Add two tangents of the same shape; None is zero."""
        if left is None or right is None:
            return left or right
        if _same_rows(left, right) and (left.factor is not None or right.factor is not None):
            one = self.number(1.0, left.factor or right.factor)
            factor = self.op("Add", left.factor or one, right.factor or one)
            dims = broadcast_dims(left.factor_dims, right.factor_dims)
            return Tangent(left.dims, left.stacked, left.folded, factor, dims)
        return self._combine("Add", left, right)

    def subtract(self, left: Tangent | None, right: Tangent | None) -> Tangent | None:
        """Subtract two tangents of the same shape; None is zero."""
        if right is None:
            return left
        if left is None or _same_rows(left, right):
            return self.add(left, self.negate(right))
        return self._combine("Sub", left, right)

    def _combine(self, op_type: str, left: Tangent, right: Tangent) -> Tangent:
        left, right = self.multiplied(left), self.multiplied(right)
        if left.folded is not None and right.folded is not None:
            return self.folded(self.op(op_type, left.folded, right.folded), left.dims)
        return self.stacked(self.op(op_type, self.stack(left), self.stack(right)), left.dims)

    def negate(self, tangent: Tangent) -> Tangent:
        """Return the tangent of −y."""
        like = tangent.stacked or tangent.folded
        return self.scaled(tangent, self.number(-1.0, like), ())

    def broadcast(self, tangent: Tangent, value: ir.Value) -> Tangent:
        """Broadcast a tangent to the shape of a value of the original graph (a copy only where the shapes differ)."""
        dims = self.dims(value)
        if tangent.dims == dims:
            return tangent
        rows = self.align(tangent, len(dims))
        shape = self.op("Shape", value, dtype=ir.DataType.INT64)
        if self.lead:
            shape = self.op("Concat", self.ints([1]), shape, axis=0)
        return self.stacked(self.op("Expand", rows, shape), dims)

    def repeat(self, value: ir.Value) -> ir.Value:
        """Repeat a value for every direction, as folded rows (D·N, …)."""
        if not self.lead:
            return value
        sizes = self.op("Shape", value, dtype=ir.DataType.INT64)
        rows = self.op("Expand", value, self.op("Concat", self.count, sizes, axis=0))
        return self.fold(self.stacked(rows, self.dims(value)))

    def align(self, tangent: Tangent, rank: int) -> ir.Value:
        """Return the rows with axes of size 1 inserted so that they broadcast against a value of the given rank."""
        rows = self.stack(tangent)
        missing = rank - tangent.rank
        if missing <= 0 or not self.lead:
            return rows
        return self.unsqueeze(rows, range(1, 1 + missing))

    def shift(self, axes: Iterable[int], rank: int) -> list[int]:
        """Return the axes of the stacked rows for axes of a value of the given rank."""
        return [(a + rank if a < 0 else a) + self.lead for a in axes]

    # ---- ops whose form changed over the opsets -------------------------------------------------------------------

    def unsqueeze(self, value: ir.Value, axes: Iterable[int]) -> ir.Value:
        """Insert axes of size 1."""
        if self.opset >= 13:
            return self.op("Unsqueeze", value, self.ints(axes))
        return self.op("Unsqueeze", value, axes=list(axes))

    def squeeze(self, value: ir.Value, axes: Iterable[int]) -> ir.Value:
        """Drop axes of size 1."""
        if self.opset >= 13:
            return self.op("Squeeze", value, self.ints(axes))
        return self.op("Squeeze", value, axes=list(axes))

    def reduce(self, kind: str, value: ir.Value, axes: Sequence[int], *, keepdims: bool = True) -> ir.Value:
        """Reduce over axes; ``kind`` is Sum, Mean or Max."""
        since = 13 if kind == "Sum" else 18
        if self.opset >= since:
            reduced = self.op(f"Reduce{kind}", value, self.ints(axes), keepdims=int(keepdims))
        else:
            reduced = self.op(f"Reduce{kind}", value, axes=list(axes), keepdims=int(keepdims))
        if extent := self.extent(value):
            gone = {axis % len(extent) for axis in axes}
            self.extents[reduced] = tuple(1 if i in gone else size for i, size in enumerate(extent))
        return reduced

    def slice(self, value: ir.Value, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> ir.Value:
        """Slice with step 1."""
        if self.opset >= 10:
            return self.op("Slice", value, self.ints(starts), self.ints(ends), self.ints(axes))
        return self.op("Slice", value, starts=list(starts), ends=list(ends), axes=list(axes))

    def sizes(self, value: ir.Value, start: int, end: int) -> ir.Value:
        """Return sizes start … end − 1 of a value as a 1-D int64 tensor."""
        shape = self.op("Shape", value, dtype=ir.DataType.INT64)
        return self.slice(shape, [start], [end], [0])

    def cast(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Cast to the dtype of another tensor."""
        dtype = like.dtype or ir.DataType.FLOAT
        return self.op("Cast", value, dtype=dtype, to=int(dtype))


def _same_rows(left: Tangent, right: Tangent) -> bool:
    return (left.stacked is not None and left.stacked is right.stacked) or (
        left.folded is not None and left.folded is right.folded
    )


def _frozen(attribute: ir.Attr) -> object:
    value = attribute.value
    if isinstance(value, str | bytes | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, str | bytes | int | float) for v in value):
        return tuple(value)
    return id(value)
