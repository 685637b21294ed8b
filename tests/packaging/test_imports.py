"""The import graph of every distribution: no circle, no arrow upward, imports inside functions only where listed.

docs/architecture.md states the order and the list; an import for type checkers alone is none.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "lieaudit": ROOT / "lieaudit",
    "lieaudit_server": ROOT / "server" / "lieaudit_server",
    "lieaudit_client": ROOT / "client" / "lieaudit_client",
    "lieaudit_policy": ROOT / "policy" / "lieaudit_policy",
}
ABOVE = {
    "lieaudit": {"lieaudit_server", "lieaudit_client", "lieaudit_api"},
    "lieaudit_server": {"lieaudit_client"},
    "lieaudit_client": set(),
    "lieaudit_policy": {"lieaudit", "lieaudit_server", "lieaudit_client", "lieaudit_api"},
}
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


class Import(NamedTuple):
    source: str
    target: str
    inside: bool


def modules(package: str) -> dict[str, Path]:
    found = {}
    for file in DISTRIBUTIONS[package].rglob("*.py"):
        parts = [package, *file.relative_to(DISTRIBUTIONS[package]).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


ALL = {name: path for package in DISTRIBUTIONS for name, path in modules(package).items()}


def imports(name: str) -> Iterator[Import]:
    def walk(node: ast.AST, *, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(name, alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name} imports relatively"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    yield Import(name, whole if whole in ALL else str(child.module), inside)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, inside=inside or function)

    yield from walk(ast.parse(ALL[name].read_text(encoding="utf-8")), inside=False)


GRAPH = [edge for name in ALL for edge in imports(name)]


def floors(package: str) -> dict[str, int]:
    """Return room → floor, as the document states it."""
    section = re.search(rf"^### {package}\n(.*?)^#", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/architecture.md states no order for {package}"
    found: dict[str, int] = {}
    for floor, line in re.findall(r"^(\d+)\. (.*)$", section[1], re.MULTILINE):
        for room in re.findall(r"`([^`]+)`", line):
            assert room not in found, f"{room} is on two floors"
            found[package if room == package else f"{package}.{room}"] = int(floor)
    return found


def room_of(module: str, rooms: dict[str, int]) -> str:
    fitting = [room for room in rooms if module == room or module.startswith(f"{room}.")]
    # the package itself is the room of its own __init__ alone
    fitting = [room for room in fitting if "." in room or module == room]
    assert fitting, f"docs/architecture.md has no floor for {module}"
    return max(fitting, key=len)


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_no_arrow_points_upward(package):
    rooms = floors(package)
    wrong = []
    for edge in GRAPH:
        if edge.source.split(".")[0] != package:
            continue
        top = edge.target.split(".")[0]
        if top != package:
            assert top not in ABOVE[package] or edge.inside, f"{edge.source} imports {edge.target}"
            continue
        if edge.target not in ALL:
            continue
        source, target = room_of(edge.source, rooms), room_of(edge.target, rooms)
        if source != target and rooms[target] >= rooms[source]:
            wrong.append(f"{edge.source} (floor {rooms[source]}) imports {edge.target} (floor {rooms[target]})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_no_room_is_listed_that_is_not_there(package):
    empty = [room for room in floors(package) if room not in ALL]
    assert not empty


def test_the_graph_has_no_circle():
    targets: dict[str, set[str]] = {}
    for edge in GRAPH:
        if edge.target in ALL and edge.target != edge.source:
            targets.setdefault(edge.source, set()).add(edge.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(targets.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in ALL:
        visit(module, ())


def test_imports_inside_functions_are_listed_with_a_reason():
    listed = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
    used: set[tuple[str, str]] = set()
    unlisted = []
    for edge in GRAPH:
        if not edge.inside:
            continue
        rows = [
            (module, target)
            for module, target, _ in listed
            if f"{edge.source}.".startswith(f"{module}.") and f"{edge.target}.".startswith(f"{target}.")
        ]
        used.update(rows)
        if not rows:
            unlisted.append(f"{edge.source} imports {edge.target}")
    assert not unlisted, "\n".join(unlisted)
    assert used == {(module, target) for module, target, _ in listed}, "a row without an import"


def test_the_commands_version_loads_no_more_than_it_needs():
    """What a quarter of a second has no room for; the time itself is measured in bench."""
    heavy = ("grpc", "lieaudit_api", "rich", "numpy", "onnx", "onnxruntime", "torch")
    code = (
        "import sys\nfrom lieaudit_client.command import run\nrun(['--version'])\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stdout
