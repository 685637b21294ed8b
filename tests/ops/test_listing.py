"""The table in docs/coverage.md is the table in lieaudit/ops."""

from __future__ import annotations

from pathlib import Path

from lieaudit.ops import OPS
from lieaudit.ops.listing import TITLE, section

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"


def test_the_page_shows_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(TITLE) :] == section(), "run: python -m lieaudit.ops.listing"


def test_every_op_has_a_row():
    rows = {line.split("|")[1].strip() for line in section().splitlines() if line.startswith("| ")}
    assert {f"{o.domain}::{o.name}" if o.domain else o.name for o in OPS.values()} <= rows
