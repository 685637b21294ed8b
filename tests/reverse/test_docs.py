"""The examples of docs/differentiate.md, run as they stand there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "differentiate.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
EXAMPLES = {s.splitlines()[0]: re.findall(r"```python\n(.*?)```", s, re.DOTALL) for s in SECTIONS}


@pytest.mark.parametrize("title", EXAMPLES)
def test_example(title, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES[title]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the exporter
        exec(compile(EXAMPLES[title][0], title, "exec"), {"__name__": "example"})  # noqa: S102 - our own page
    assert capsys.readouterr().out


def test_there_are_three_of_them():
    assert len(EXAMPLES) == 3
