"""The table of rules: one per op family, the derivative of an op given the derivatives of its inputs.

To add one: write a function ``(context, node) -> tangents of the outputs`` in a module of this package and decorate it
with `rule`; import the module in ``rules/families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir

from lieaudit.graph.forward.context import Context
from lieaudit.graph.forward.tangent import Tangent

Outputs = Tangent | Sequence[Tangent | None] | None
Apply = Callable[[Context, ir.Node], Outputs]
OpName = tuple[str, str]
"""(domain, op type); the default domain is the empty string."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How an op is differentiated.

    Attributes
    ----------
    name
        The family, as coverage and reports name it.
    apply
        Emits the tangents of the node's outputs. A node none of whose inputs carries a tangent never gets here.
    exact
        False: an approximation (the generic central difference).
    accepts
        Says whether the rule holds for this node; where it does not, the next resort is taken: the op's function body
        from the ONNX standard, then the generic rule.
    differentiable
        False: the op is piecewise constant, its derivative is zero almost everywhere and says nothing about finite t.
    note
        What a reader of the report should know.
    """

    name: str
    apply: Apply
    exact: bool = True
    accepts: Callable[[Context, ir.Node], bool] = lambda _context, _node: True
    differentiable: bool = True
    note: str = ""


RULES: dict[OpName, Rule] = {}


def rule(
    *ops: str,
    name: str,
    domain: str = "",
    accepts: Callable[[Context, ir.Node], bool] = lambda _context, _node: True,
    note: str = "",
) -> Callable[[Apply], Apply]:
    """Enter a function in the table as the exact rule of these ops."""

    def enter(apply: Apply) -> Apply:
        for op_type in ops:
            if (domain, op_type) in RULES:
                raise ValueError(f"{domain}::{op_type} has a rule already")
            RULES[domain, op_type] = Rule(name, apply, accepts=accepts, note=note)
        return apply

    return enter


@contextmanager
def replaced_rule(op_type: str, new: Rule | None, domain: str = "") -> Iterator[None]:
    """Use another rule for an op inside the ``with`` block (None: no own rule, as if the op were unknown)."""
    key = (domain, op_type)
    before = RULES.get(key)
    try:
        if new is None:
            RULES.pop(key, None)
        else:
            RULES[key] = new
        yield
    finally:
        if before is None:
            RULES.pop(key, None)
        else:
            RULES[key] = before
