"""What an op is stands in its entry: no module outside lieaudit/ops keeps a list of ops of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import onnx
import pytest

import lieaudit
from lieaudit.ops import OPS

HOME = Path(lieaudit.__file__).parent
NAMES = {op.name for op in OPS.values()} | {schema.name for schema in onnx.defs.get_all_schemas()}
MANY = 3
"""So many names of ops in one literal are a table; two may be the two ends of a pattern."""

ALLOWED = {
    ("graph/endings.py", "_unchanged"): (
        "what spreads a sum over the axis that it is divided along: a part of the pattern of a softmax written out, "
        "in which a Squeeze or a Reshape would make another function"
    ),
    ("graph/endings.py", "_RECOGNISED"): "the last ops of patterns of several nodes, which are no property of one op",
    ("graph/reverse/transpose.py", "_turned"): "products of two operands that move, which no transposition takes",
    ("torch/operators.py", "_ONNX"): "what torch calls the ops: it leads to their entries",
}
"""By module and the name that holds the table, or the function that it stands in."""


def _names(node: ast.expr | None) -> list[str]:
    """The op that an element of a literal names, alone or behind its domain."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str) and p.value in NAMES]


def tables(source: str) -> list[str]:
    """Where the tables of a module stand."""
    found = []
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        named = [target.id for target in targets if isinstance(target, ast.Name)]
        where = named[0] if named else getattr(statement, "name", "")
        for node in ast.walk(statement):
            if isinstance(node, ast.Set | ast.Tuple | ast.List):
                elements = node.elts
            elif isinstance(node, ast.Dict):
                elements = node.keys
            else:
                continue
            if len({name for element in elements for name in _names(element)}) >= MANY:
                found.append(where)
    return found


@pytest.mark.parametrize(
    "source",
    [
        '_X = {"Relu", "Conv", "Add"}',
        '_X = frozenset(("Relu", "Conv", "Add"))',
        '_X = {"Relu": 1, "Conv": 2, "Add": 3}',
        '_X = {("", "Relu"): 1, ("", "Conv"): 2, ("com.microsoft", "Gelu"): 3}',
        'if op_type in ("Relu", "Conv", "Add"): pass',
        'if op_type in ["Relu", "Conv", "Add"]: pass',
    ],
)
def test_a_table_is_found(source):
    assert len(tables(source)) == 1


def test_two_names_are_no_table():
    assert tables('if op_type in {"Relu", "Conv"}: pass') == []


def test_no_module_keeps_a_table_of_ops_of_its_own():
    found = {
        (path.relative_to(HOME).as_posix(), where)
        for path in sorted(HOME.rglob("*.py"))
        if path.relative_to(HOME).parts[0] != "ops"
        for where in tables(path.read_text(encoding="utf-8"))
    }
    assert found - set(ALLOWED) == set(), "make it a property of the ops' entries in lieaudit/ops"
    assert set(ALLOWED) - found == set(), "this table is gone: drop its reason"
