"""How every op of a graph will be differentiated, for ``lieaudit inspect`` and for reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lieaudit.graph.forward.rewrite import Applied, rewrite
from lieaudit.ops.op import INTEGER_RULE
from lieaudit.report import Skipped


@dataclass(frozen=True, slots=True)
class OpCoverage:
    """One op type of the graph that depends on the image.

    Attributes
    ----------
    op
        ``domain::OpType``, the default domain left out.
    count
        Number of nodes.
    rule
        How forward mode differentiates it.
    exact
        Exact to rounding. False for central differences and for ops that have no meaningful derivative.
    note
        What a reader should know; may be empty.
    """

    op: str
    count: int
    rule: str
    exact: bool
    note: str


def coverage(model: ir.Model) -> list[OpCoverage]:
    """Give, per op type, how it will be differentiated; approximate ones first, then by count.

    Raises
    ------
    ModelError, UnsupportedOpError
        As `rewrite` does.
    """
    return summarise(rewrite(model).applied)


def summarise(applied: Iterable[Applied]) -> list[OpCoverage]:
    """Count nodes by op and rule."""
    counts = Counter((a.op, a.rule, a.exact and a.differentiable, a.note) for a in applied)
    rows = [OpCoverage(op, count, rule, exact, note) for (op, rule, exact, note), count in counts.items()]
    return sorted(rows, key=lambda row: (row.exact, -row.count, row.op))


def exact_share(covered: Sequence[OpCoverage]) -> float:
    """Return the share of nodes differentiated exactly, among those whose output could move; 1 where there are none."""
    moving = [row for row in covered if row.rule != INTEGER_RULE]
    total = sum(row.count for row in moving)
    return sum(row.count for row in moving if row.exact) / total if total else 1.0


def caveats(applied: Iterable[Applied]) -> tuple[Skipped, ...]:
    """Return one entry per op type that is not differentiated exactly: which nodes, what was done, what it means."""
    nodes: dict[tuple[str, str, str], list[str]] = {}
    for a in applied:
        if not (a.exact and a.differentiable):
            nodes.setdefault((a.op, a.rule, a.note), []).append(a.node)
    found = []
    for (op, rule, note), names in nodes.items():
        named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        found.append(Skipped(f"op.{op}", f"{rule} ({named}): {note}"))
    return tuple(found)
