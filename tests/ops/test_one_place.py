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
    ("graph/endings.py", ("Expand", "Identity", "Unsqueeze")): (
        "what spreads a sum over the axis that it is divided along: a part of the pattern of a softmax written out, "
        "in which a Squeeze or a Reshape would make another function"
    ),
    (
        "graph/endings.py",
        (
            "Div",
            "Exp",
            "Log",
            "LogSoftmax",
            "Mul",
            "QLinearSigmoid",
            "QLinearSoftmax",
            "Reciprocal",
            "Sigmoid",
            "Softmax",
            "Sub",
        ),
    ): "the last ops of patterns of several nodes: a head is a pattern, and what these ops are stands in their entries",
}


def _names(node: ast.expr | None) -> list[str]:
    """The op that an element of a literal names, alone or behind its domain."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str) and p.value in NAMES]


def tables(source: str) -> list[tuple[str, ...]]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            elements = node.elts
        elif isinstance(node, ast.Dict):
            elements = node.keys
        else:
            continue
        names = tuple(name for element in elements for name in _names(element))
        if len(set(names)) >= MANY:
            found.append(names)
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
        (path.relative_to(HOME).as_posix(), tuple(sorted(names)))
        for path in sorted(HOME.rglob("*.py"))
        if "ops" not in path.relative_to(HOME).parts
        for names in tables(path.read_text(encoding="utf-8"))
    }
    allowed = {(path, tuple(sorted(names))) for path, names in ALLOWED}
    assert found - allowed == set(), "make it a property of the ops' entries in lieaudit/ops"
    assert allowed - found == set(), "this table is gone: drop its reason"
