"""Markdown for step summaries and merge requests (GitHub's dialect, which GitLab renders as well).

A GitHub step summary holds 1 MiB, a comment 65,536 characters; the text is kept under the smaller one, and what is left
out is counted.
"""

from __future__ import annotations

import re

from lieaudit_api.v1 import gate_pb2

from lieaudit_client.formats.numbers import interval, number, short
from lieaudit_client.formats.outcome import Outcome, headline, judged, unit_of

LIMIT = 60_000
"""Characters; GitHub's 65,536 for a comment less what a job may add around it."""

_MARK = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "waived": "🏳️", "skipped": "➖"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_MOST_IN_A_CELL = 120
_MOST_IN_A_SENTENCE = 1500


def render(outcome: Outcome, limit: int = LIMIT) -> str:
    """Return the Markdown text, at most ``limit`` characters."""
    decision = outcome.decision
    head = [
        f"## {_MARK.get(decision.verdict, '')} lieaudit gate: {text(headline(decision))}",
        "",
        text(outcome.names(), 400),
        "",
    ]
    reasons = [f"- {_MARK.get(r.outcome, '')} {text(r.sentence)}" for r in outcome.rules() if r.outcome != "pass"]
    table = [
        "| | rule | generator | value | interval | limit | p (Holm) |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    rows = [_row(rule, outcome) for rule in outcome.rules()]
    foot = [
        "",
        f"Candidate `{short(decision.candidate_sha256)}`"
        + (f", baseline `{short(decision.baseline_sha256)}`" if decision.baseline_sha256 else "")
        + f", policy `{short(decision.policy_sha256)}`, {100 * decision.confidence:.4g} % intervals. "
        f"A version that meets every limit fails with probability at most {100 * decision.false_fail_rate:.2g} %.",
        "",
    ]
    fixed = sum(len(line) + 1 for line in [*head, *table, *foot]) + 200
    kept_reasons = _fit(reasons, (limit - fixed) // 2, "reasons")
    used = sum(len(line) + 1 for line in kept_reasons)
    kept_rows = _fit(rows, limit - fixed - used, "")
    left = len(rows) - len(kept_rows)
    note = ["", f"_{left} of {len(rows)} rows are left out to stay under {limit} characters._"] if left else []
    body = [*head, *kept_reasons, *([""] if kept_reasons else []), *table, *kept_rows, *note, *foot]
    return "\n".join(body)


def text(value: str, most: int = _MOST_IN_A_SENTENCE) -> str:
    """Escape a text that comes from outside, and keep it to one line of at most ``most`` characters."""
    line = " ".join(value.split())
    cut = line if len(line) <= most else line[: most - 1] + "…"
    # A zero-width space after "@" keeps a name in a waiver from notifying people.
    return _SPECIAL.sub(r"\\\1", cut).replace("@", "@\u200b")


def _row(rule: gate_pb2.RuleOutcome, outcome: Outcome) -> str:
    waiver = ""
    if rule.HasField("waiver"):
        waiver = f" (waiver {'expired' if rule.waiver.expired else 'until'} {text(rule.waiver.expires, 20)})"
    about = f" · {text(rule.subject, 60)}" if rule.subject else ""
    cells = [
        f"{_MARK.get(rule.outcome, '')} {rule.outcome}{waiver}",
        text(rule.id, _MOST_IN_A_CELL),
        text(judged(rule), _MOST_IN_A_CELL) + about,
        f"{number(rule.value)} {unit_of(rule, outcome)}".rstrip() if rule.HasField("value") else "not measured",
        text(interval(rule.interval)),
        f"≤ {number(rule.limit)}",
        number(rule.adjusted_p_value) if rule.HasField("adjusted_p_value") else "–",
    ]
    return "| " + " | ".join(cells) + " |"


def _fit(lines: list[str], room: int, what: str) -> list[str]:
    """Keep the first lines that fit; with ``what`` given, say how many were left out."""
    kept: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    left = len(lines) - len(kept)
    if left and what:
        kept.append(f"- _and {left} more {what} that do not fit here_")
    return kept
