"""The first hour of docs/tutorial.md, command by command, as a newcomer would type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = ("python3 -m venv", "pip install")
"""What tests/packaging does with the real distributions."""


@dataclass
class Step:
    command: str
    shown: list[str]


def _steps(text: str) -> list[Step]:
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:], []))
        elif line.strip():
            found[-1].shown.append(line)
    return found


@pytest.fixture(scope="module")
def blocks(repo_root: Path) -> list[tuple[str, str]]:
    return BLOCK.findall((repo_root / "docs" / "tutorial.md").read_text(encoding="utf-8"))


def _words(text: str) -> list[str]:
    """Words of a line without its numbers, which are the training's and the processor's."""
    return re.findall(r"[^\W\d_]\w*|[✓✗]|exit code \d", re.sub(r"(?<!code )(?<![\w])[\d.]+", " ", text))


def test_the_first_hour(blocks: list[tuple[str, str]], tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the tutorial trains on scikit-learn's digits")
    (tmp_path / "bin").mkdir()
    for name, module in (("lieaudit", "lieaudit_client"), ("python", "")):
        tool = tmp_path / "bin" / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {f"-m {module}" if module else ""} "$@"\n')
        tool.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LIEAUDIT_")}
    environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CI": "1", "OMP_NUM_THREADS": "1"}
    ran = []
    for language, text in blocks:
        head = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if head is not None:
            (tmp_path / head[1]).write_text(text, encoding="utf-8")
        if language != "console":
            continue
        for step in _steps(text):
            if step.command.startswith(INSTALLS):
                continue
            shell = ["/bin/sh", "-c", step.command]
            done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{step.command}\n{done.stdout}\n{done.stderr[-3000:]}"
            ran.append(step.command)
            printed = [_words(line) for line in done.stdout.splitlines()]
            for line in step.shown:
                wanted = _words(line)
                assert any(_in_order(wanted, words) for words in printed), f"{line!r} is not in\n{done.stdout}"
    assert len(ran) == 10
    for name in ("v1.json", "v2.json", "v1.html", "v2.html", "v3.html"):
        assert (tmp_path / name).stat().st_size > 10_000


def _in_order(wanted: list[str], words: list[str]) -> bool:
    rest = iter(words)
    return bool(wanted) and all(word in rest for word in wanted)
