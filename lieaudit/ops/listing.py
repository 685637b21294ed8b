"""The table of ops as documentation: what docs/coverage.md shows."""

from __future__ import annotations

from pathlib import Path

import onnx

from lieaudit.ops.op import INTEGER_RULE, Op, Rule
from lieaudit.ops.table import OPS

TITLE = "## Ops"
_HEAD = """\
## Ops

One row per op of the table in `lieaudit/ops/`, made from it; `lieaudit inspect MODEL` shows the rules for a model's own
ops. *Exact in*: operands whose tangents the rule takes; *steps in*: operands in which the output is piecewise constant;
*outputs*: those that get a tangent. An operand or output that moves and is in no column, or a form that the rule does
not take, goes to the next resort: the op's function body in the ONNX standard, else a central difference of that op
alone, which reports name with the reason. *Transposed in*: operands in which the op is linear and reverse mode turns it
around; the derivatives of other ops are products with values, which are turned around too. *Axes*: what the op does to
the layout is known. *Commutes*: a node can be proved, from its attributes and constants, to commute with the geometric
generators, or with a gain.

| op | rule | exact in | steps in | outputs | transposed in | axes | commutes | kind |
|---|---|---|---|---|---|---|---|---|
"""
_NEWEST = 25
"""Opset whose names of operands are shown."""


def section() -> str:
    """Return the section on ops of docs/coverage.md: one row per op, in alphabetical order."""
    rows = sorted(OPS.values(), key=lambda op: (op.domain, op.name))
    return _HEAD + "".join(_row(op) for op in rows)


def _row(op: Op) -> str:
    rule = op.tangent
    name = f"{op.domain}::{op.name}" if op.domain else op.name
    claims = [word for word, proof in (("geometric", op.geometric), ("gain", op.homogeneous)) if proof is not None]
    cells = [
        name,
        _rule(op),
        _operands(op, rule.operands) if rule is not None else "",
        _operands(op, rule.steps) if rule is not None else "",
        _outputs(op, rule) if rule is not None else "",
        _transposed(op),
        "tracked" if op.layout is not None else "",
        ", ".join(claims),
        op.kind or "",
    ]
    return f"| {' | '.join(cells)} |\n"


def _rule(op: Op) -> str:
    if op.tangent is not None:
        return op.tangent.name
    return "written out" if op.body is not None or op.expansion is not None else "its function body"


def _formal(op: Op, side: str) -> list[str]:
    try:
        schema = onnx.defs.get_schema(op.name, _NEWEST, op.domain)
    except onnx.defs.SchemaError:
        return []
    return [formal.name for formal in getattr(schema, side)]


def _operands(op: Op, indices: object) -> str:
    names = _formal(op, "inputs")
    found = [name for i, name in enumerate(names) if i in indices]  # type: ignore[operator]
    if not names:
        return ""
    return "all" if len(found) == len(names) > 1 else ", ".join(found)


def _transposed(op: Op) -> str:
    """Return the operands in which reverse mode turns an op around, of those in which it is linear."""
    if op.transpose is None or op.transpose.apply is None:
        return ""
    both = [i for i in range(len(_formal(op, "inputs"))) if i in op.transpose.operands and i in op.linear]
    return _operands(op, both)


def _outputs(op: Op, rule: Rule) -> str:
    names = _formal(op, "outputs")
    found = [name for i, name in enumerate(names) if i in rule.outputs]
    if rule.name == INTEGER_RULE:
        return "none"
    return "all" if len(found) == len(names) else ", ".join(found)


if __name__ == "__main__":
    _page = Path("docs/coverage.md")
    _text = _page.read_text(encoding="utf-8")
    _page.write_text(_text.partition(TITLE)[0] + section(), encoding="utf-8")
