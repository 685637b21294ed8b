"""No hand-written module is longer than 400 lines, no function than 60 (its docstring aside), tests included."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("lieaudit", "server", "client", "policy", "tests", "bench", "examples")
MODULE, FUNCTION = 400, 60

LONG_MODULES = {
    "tests/cases/test_fused.py": "one table of cases",
    "tests/cases/test_heads.py": "to be split by kind of head",
    "tests/cases/test_intake.py": "to be split by kind of input",
    "tests/gate/test_decide.py": "to be split by kind of rule",
    "tests/gate/test_formats.py": "to be split by format",
    "tests/gate/test_mlflow.py": "to be split by call",
    "tests/reverse/test_rules.py": "one table of cases",
}
LONG_FUNCTIONS = {
    ("bench/forward.py", "measure"): "one measurement from model to row",
    ("lieaudit/graph/load.py", "load_model"): "the steps of reading in their order",
    ("lieaudit/torch/auditing.py", "audit"): "arguments handed on",
    ("server/lieaudit_server/server.py", "start"): "the parts of the service in the order in which they start",
    ("tests/client/test_display.py", "report"): "a report, field by field",
    ("tests/ops/cases/grids.py", "cases"): "one table of cases",
}


def sources() -> list[tuple[str, str]]:
    files = (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")))
    own = (file for file in files if "_pb2" not in file.name and not any(part.startswith(".") for part in file.parts))
    return [(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in own]


def test_modules_are_short():
    long = {name for name, text in sources() if text.count("\n") > MODULE}
    assert long - set(LONG_MODULES) == set(), "split them"
    assert set(LONG_MODULES) - long == set(), "short now: leave them out of the list"


def test_functions_are_short():
    long = set()
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
                if (node.end_lineno or 0) - first + 1 > FUNCTION:
                    long.add((name, node.name))
    assert long - set(LONG_FUNCTIONS) == set(), "split them"
    assert set(LONG_FUNCTIONS) - long == set(), "short now: leave them out of the list"
