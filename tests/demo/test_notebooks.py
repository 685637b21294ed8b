"""The notebooks of the documentation run, and what they show is what their files hold."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = ("audit", "gate")


@pytest.fixture(scope="module")
def executor(repo_root: Path) -> Any:
    path = repo_root / "docs" / "notebooks" / "execute.py"
    spec = importlib.util.spec_from_file_location("execute", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_notebooks_are_run(repo_root: Path) -> None:
    assert sorted(path.stem for path in (repo_root / "docs" / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_is_written_in_it(executor: Any, repo_root: Path, name: str) -> None:
    """Texts are compared without their numbers, whose last digits are the processor's; pictures by being there."""
    pytest.importorskip("pandas", reason="the notebooks show data frames and plots")
    pytest.importorskip("matplotlib", reason="the notebooks show data frames and plots")
    path = repo_root / "docs" / "notebooks" / f"{name}.ipynb"
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    outputs = executor.execute(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "written as executed"
    for cell, found in zip(cells, outputs, strict=True):
        assert [_shape(output) for output in found] == [_shape(output) for output in cell["outputs"]], cell["source"]


def _shape(output: dict[str, Any]) -> Any:
    if output["output_type"] == "stream":
        return _words(output["text"])
    return {kind: _words(text) if kind == "text/plain" else "" for kind, text in output["data"].items()}


def _words(lines: list[str]) -> list[str]:
    return re.findall(r"[A-Za-z_]{2,}", re.sub(r"[-+]?\d[\w.+-]*", " ", "".join(lines)))
