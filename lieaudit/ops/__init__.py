"""One entry per ONNX op, holding everything the project knows of it.

To add an op: write its entry (`Op`) in the module of its family, and a case for it in tests/ops. Everything else reads
the table: forward mode, layer kinds, layouts, the proofs of commuting, ``lieaudit inspect`` and docs/coverage.md.
"""

from lieaudit.ops.op import ALL, FLOATS, MICROSOFT, Kind, Op, OpName, Rule, Use, is_op, name_of
from lieaudit.ops.table import OPS, is_random, lookup, rearranges, replaced_rule

__all__ = [
    "ALL",
    "FLOATS",
    "MICROSOFT",
    "OPS",
    "Kind",
    "Op",
    "OpName",
    "Rule",
    "Use",
    "is_op",
    "is_random",
    "lookup",
    "name_of",
    "rearranges",
    "replaced_rule",
]
