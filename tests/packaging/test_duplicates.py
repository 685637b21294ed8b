"""No function of the numerics is written twice: equal but for the names of its parameters and variables."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "lieaudit"
SMALLEST = 40
"""Nodes of a syntax tree: one line of code is no duplicate."""


def body_of(function: ast.FunctionDef) -> str:
    """Return a function's code with its own names numbered, without docstring, annotations and decorators."""
    own = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(own, ast.FunctionDef)
    own.name, own.returns, own.decorator_list = "f", None, []
    if ast.get_docstring(own):
        own.body = own.body[1:]
    stored = (n.id for n in ast.walk(own) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    bound = dict.fromkeys([*(n.arg for n in ast.walk(own) if isinstance(n, ast.arg)), *stored])
    numbers = {name: f"n{number}" for number, name in enumerate(bound)}
    for node in ast.walk(own):
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = numbers[node.arg], None
    return ast.dump(own) if sum(1 for _ in ast.walk(own)) >= SMALLEST else ""


def test_no_function_is_written_twice():
    found: dict[str, set[str]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(body_of(node), set()).add(f"{file.relative_to(ROOT).as_posix()}:{node.name}")
    twice = [sorted(places) for body, places in found.items() if body and len(places) > 1]
    assert not twice


def test_renamed_variables_do_not_hide_a_duplicate():
    first, second = (
        ast.parse(f"def f({a}, {b}: int) -> int:\n    '''Doc.'''\n    {c} = sorted({a}, key=lambda x: -x.unit)\n"
                  f"    return [({b}, i, {c}[i].size, {c}[i].role) for i in range(len({c}))]").body[0]
        for a, b, c in (("atoms", "role", "out"), ("values", "other", "found"))
    )  # fmt: skip
    assert body_of(first) == body_of(second) != ""
