"""The documentation site builds without a warning, and its reference names everything that the code has."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from google.protobuf.descriptor import Descriptor
from lieaudit_api.v1 import report_pb2
from lieaudit_client.command import COMMANDS, command
from lieaudit_policy import schema

pytest.importorskip("mkdocs", reason="the site's builder is not installed")


@pytest.fixture(scope="module")
def reference(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", repo_root / "docs" / "site" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


def _rows(page: str) -> dict[str, dict[str, str]]:
    """Read the tables of a page: heading → name of the row → its last cell."""
    found: dict[str, dict[str, str]] = {}
    title = ""
    for line in page.splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("| `"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            found.setdefault(title, {})[cells[0].strip().replace("`", "")] = cells[-1].strip()
    return found


@pytest.mark.slow
def test_it_builds_without_a_warning(repo_root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=repo_root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(path.relative_to(tmp_path / "site").parent) for path in (tmp_path / "site").rglob("index.html")}
    written = {path.stem for path in (repo_root / "docs").glob("*.md")} - {"index"}
    assert written <= pages, "every page of docs/ is on the site"
    assert "lieaudit.audit" in (tmp_path / "site" / "api" / "lieaudit" / "index.html").read_text(encoding="utf-8")


def test_every_page_can_be_reached(repo_root: Path) -> None:
    menu = (repo_root / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(repo_root / "docs") for path in (repo_root / "docs").rglob("*.md")]
    assert [str(page) for page in pages if f": {page}\n" not in menu] == []


def test_every_option_of_every_command_is_explained(reference: ModuleType) -> None:
    rows = _rows(reference.options_page())
    context = click.Context(command)
    for name in COMMANDS:
        found = command.get_command(context, name)
        inner = {f"{name} {n}": sub for n, sub in found.commands.items()} if isinstance(found, click.Group) else {}
        for path, sub in (inner or {name: found}).items():
            options = [p for p in sub.params if isinstance(p, click.Option) and not p.hidden]
            for option in options:
                assert rows[f"lieaudit {path}"][", ".join(option.opts)], f"{path} {option.opts}"


def _messages(kind: Descriptor, seen: dict[str, Descriptor]) -> dict[str, Descriptor]:
    if kind.full_name.startswith("lieaudit.") and kind.name not in seen:
        if not kind.GetOptions().map_entry:
            seen[kind.name] = kind
        for field in kind.fields:
            if field.message_type is not None:
                _messages(field.message_type, seen)
    return seen


def test_every_field_of_a_report_is_explained(reference: ModuleType) -> None:
    rows = _rows(reference.report_page())
    for name, kind in _messages(report_pb2.Report.DESCRIPTOR, {}).items():
        for field in kind.fields:
            assert rows[name][field.name], f"{name}.{field.name} has no comment in its .proto file"


def test_every_key_of_a_policy_is_explained(reference: ModuleType) -> None:
    page = reference.policy_page()
    meanings = [meaning for rows in _rows(page).values() for meaning in rows.values()]
    assert meanings
    assert all(meanings), page
    for key in re.findall(r'"(\w+)": \{', schema()):
        if key not in {"properties", "items", "if", "then", "rule", "waiver", "generator", "defs", "images"}:
            assert f"`{key}`" in page or f".{key}`" in page, key
