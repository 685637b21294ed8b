"""What an entry of the table holds: everything the project knows of one ONNX op.

An entry says how the op is differentiated, operand by operand and output by output; what it does to axes; when it
provably commutes with a symmetry; and what kind of op it is. What an entry does not say is not assumed: an operand that
moves, or an output that is read, without being covered goes to the next resort, and reports name it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx
import onnx_ir as ir

from lieaudit.autodiff.adjoint import Adjoint
from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.layouts.axes import Axes
from lieaudit.layouts.tracker import Tracker
from lieaudit.ops.body import Expansion
from lieaudit.ops.elementwise_axes import nary, unary
from lieaudit.ops.held import Resolve

OpName = tuple[str, str]
"""(domain, op type); the default domain is the empty string."""

ALL = range(sys.maxsize)
"""Every operand or output, however many there are."""

MICROSOFT = "com.microsoft"
"""Domain of onnxruntime's own ops."""

INTEGER_RULE = "integer or constant"
"""Name of the rule of ops that make integers or truth values: nothing to differentiate, and nothing that could move."""

QUANTISATION_RULE = "quantisation"
"""Name of the rule of ops that quantise, or compute with what was quantised."""

STEP_NOTE = "derivative zero almost everywhere; jumps are not seen"
"""What a reader should know of a piecewise constant op."""

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Dtypes whose tensors can carry a tangent."""

Outputs = Tangent | Sequence[Tangent | None] | None
Apply = Callable[[Context, ir.Node], Outputs]
Layout = Callable[[Tracker, ir.Node], "list[Axes | None]"]
"""Axes of the outputs from those of the inputs; None: not known."""
Proof = Callable[[Tracker, ir.Node], bool]
"""Whether a node provably commutes, from its attributes, constants and axes."""
Body = Callable[[ir.Node, int], "onnx.ModelProto | None"]
"""(node, opset) → the op written in other ops, from ``in0`` … to ``out0`` …; None where it has no such form."""


def name_of(node: ir.Node) -> OpName:
    """Return the op of a node; ``ai.onnx`` is the default domain spelled out."""
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


class Kind(StrEnum):
    """What an op is, from which the kind of a layer is read."""

    ATTENTION = "attention"
    CONVOLUTION = "convolution"
    MATRIX_PRODUCT = "matrix product"
    NORMALISATION = "normalisation"
    NONLINEARITY = "nonlinearity"
    POOLING = "pooling"
    REDUCTION = "reduction"
    UPSAMPLING = "upsampling"
    DOWNSAMPLING = "downsampling"
    SUM = "sum"
    PRODUCT = "product"
    AFFINE = "affine"
    PADDING = "padding"
    REARRANGEMENT = "rearrangement"


@dataclass(frozen=True, slots=True)
class Use:
    """A node as it stands in a graph.

    Attributes
    ----------
    node, opset
        The node, and the version of the default domain.
    active
        Indices of the operands that carry a tangent.
    used
        Indices of the outputs that a node or the graph's outputs read.
    """

    node: ir.Node
    opset: int
    active: frozenset[int]
    used: frozenset[int]

    @classmethod
    def of(cls, node: ir.Node, opset: int, moving: Container[ir.Value]) -> Use:
        """Describe a node, given the values that carry a tangent."""
        active = frozenset(i for i, value in enumerate(node.inputs) if value is not None and value in moving)
        used = frozenset(i for i, value in enumerate(node.outputs) if value.uses() or value.is_graph_output())
        return cls(node, opset, active, used)


def every_form(_use: Use) -> str:
    """Accept every attribute."""
    return ""


def draws(_use: Use) -> str:
    """Say that an op draws random numbers in every form."""
    return "draws random numbers"


def _called(use: Use, index: int, side: str) -> str:
    """Return what the ONNX standard calls an operand or output."""
    domain, name = name_of(use.node)
    try:
        formal = getattr(onnx.defs.get_schema(name, use.opset, domain), side)
    except onnx.defs.SchemaError:
        return str(index)
    return formal[min(index, len(formal) - 1)].name if formal else str(index)


@dataclass(frozen=True, slots=True)
class Rule:
    """How an op is differentiated.

    Attributes
    ----------
    name
        The family, as coverage and reports name it.
    apply
        Emits the tangents of the node's outputs; called where an operand it covers carries a tangent.
    operands, outputs
        Operands whose tangents the rule takes, and floating-point outputs whose tangents it makes. Outputs of integers
        and truth values have none.
    steps
        Operands in which the output is piecewise constant: zero almost everywhere, and the jumps are not seen.
    nearest
        Operands in which it is where the op's mode is nearest.
    mode
        The mode where a node states none.
    ignored
        Operands on which the output provably does not depend, or that are integers, such as a shape.
    accepts
        Says why the rule does not hold for a form of the op (an attribute, an operand that the graph computes); empty
        where it holds.
    exact
        False: an approximation (the generic central difference).
    differentiable
        False: where one of `steps` moves, the derivative says nothing about finite t.
    note
        What a reader of the report should know where the rule is not exact, or one of `steps` moves.
    """

    name: str
    apply: Apply | None = None
    operands: Container[int] = (0,)
    outputs: Container[int] = (0,)
    steps: Container[int] = ()
    nearest: Container[int] = ()
    mode: str = ""
    ignored: Container[int] = ()
    accepts: Callable[[Use], str] = every_form
    exact: bool = True
    differentiable: bool = True
    note: str = ""

    def refuses(self, use: Use) -> str:
        """Say why the rule does not cover a node as it is used; empty where it does."""
        for i in sorted(use.active):
            known = i in self.operands or i in self.steps or i in self.ignored
            if not known and (self.moves(use) or not self._steps(use, i)):
                return f"its input {_called(use, i, 'inputs')} follows the image"
        for i in sorted(use.used):
            value = use.node.outputs[i]
            if i not in self.outputs and (value.dtype is None or value.dtype in FLOATS):
                return f"its output {_called(use, i, 'outputs')} is read"
        return self.accepts(use)

    def moves(self, use: Use) -> bool:
        """Say whether an operand that the rule differentiates carries a tangent."""
        return any(i in self.operands and not self._steps(use, i) for i in use.active)

    def jumps(self, use: Use) -> bool:
        """Say whether an operand in which the output is piecewise constant carries a tangent."""
        return any(self._steps(use, i) for i in use.active)

    def covers(self, use: Use) -> bool:
        """Say whether the rule knows of every operand that carries a tangent what the output does in it."""
        known = (self.operands, self.steps, self.ignored)
        return all(any(i in group for group in known) or self._steps(use, i) for i in use.active)

    def _steps(self, use: Use, i: int) -> bool:
        nearest = i in self.nearest and use.node.attributes.get_string("mode", self.mode) == "nearest"
        return i in self.steps or nearest


TransposeApply = Callable[[Adjoint, ir.Node, int, Sequence["ir.Value | None"]], ir.Value]
"""(adjoint, node, operand, cotangents of the outputs) → the cotangent of the operand, of its shape."""


@dataclass(frozen=True, slots=True)
class Transpose:
    """How an op is turned around in operands in which it is linear.

    Attributes
    ----------
    apply
        Emits the cotangent of one operand.
    operands
        Operands that it takes.
    without
        Of the other operands in which the op is linear, why there is no rule; empty where there are none.
    """

    apply: TransposeApply | None = None
    operands: Container[int] = (0,)
    without: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """Everything the project knows of one op.

    Attributes
    ----------
    name, domain
        Op type and domain; the default domain is the empty string.
    tangent
        How it is differentiated. None: by its body, or else by the generic central difference.
    body
        The op written in other ops, where the ONNX standard has no function body for it.
    expansion
        Writes an op that the standard does not have, or not at the graph's opset, in ops that it has. That is done as
        the model is read, so that heads and layouts meet only those.
    layout
        What it does to axes. None: the axes of its outputs are unknown.
    geometric, homogeneous
        Whether a node commutes with every geometric generator, and with a gain of every grid tensor. None: never.
    kind
        What kind of op it is.
    view
        Its output is its first operand's memory under another shape.
    copies
        Its outputs are elements of its first operand, whatever these are.
    kinked
        Its slope jumps: at a bound, at zero, or where another operand takes over.
    shape_only
        It reads the shapes of its operands, never their elements.
    sized_by
        Operands whose values decide the size of its outputs.
    shaped_by
        Operands whose sizes do.
    linear
        Operands in which it is linear while the others are held.
    transpose
        How a reverse mode turns it around in these.
    head
        The function that it is, where it makes what a head shows of raw values: ``softmax`` or ``sigmoid``.
    of_classes
        Reads class scores: a softmax over them, or the largest.
    scale
        Operand that holds the scale of the integers that it makes; the zero point follows it. None: it makes none.
    resolve
        Follows sequences and optionals through it while a graph is read.
    makes
        ``sequence`` or ``optional``, where that is what its first output is.
    random
        Says how a node's output is no function of one image: it draws numbers, or looks at the whole batch. Empty
        where it is one.
    """

    name: str
    domain: str = ""
    tangent: Rule | None = None
    body: Body | None = None
    expansion: Expansion | None = None
    layout: Layout | None = None
    geometric: Proof | None = None
    homogeneous: Proof | None = None
    kind: Kind | None = None
    view: bool = False
    copies: bool = False
    kinked: bool = False
    shape_only: bool = False
    sized_by: Container[int] = ()
    shaped_by: Container[int] = ALL
    linear: Container[int] = ()
    transpose: Transpose | None = None
    head: str = ""
    of_classes: bool = False
    scale: int | None = None
    resolve: Resolve | None = None
    makes: str = ""
    random: Callable[[Use], str] = every_form

    @property
    def elementwise(self) -> bool:
        """Whether its output has the axes of its operands: it tells no axis from another."""
        return self.layout in {unary, nary}

    @property
    def sums_products(self) -> bool:
        """Whether it sums long products of its first operand with weights, which is where rounding is made."""
        return self.kind in {Kind.CONVOLUTION, Kind.MATRIX_PRODUCT, Kind.UPSAMPLING} and 1 in self.linear

    @property
    def key(self) -> OpName:
        """Its place in the table."""
        return self.domain, self.name


def is_op(node: ir.Node, *names: str) -> bool:
    """Say whether a node is one of these ops of the default domain."""
    domain, name = name_of(node)
    return not domain and name in names
