"""The verdict for a terminal or a CI log: a line per rule, and the reasons in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lieaudit_api.v1 import gate_pb2
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from lieaudit_client.formats.columns import Column, Fitted
from lieaudit_client.formats.numbers import interval, number
from lieaudit_client.formats.outcome import Outcome, headline, judged, unit_of
from lieaudit_client.printable import printable, printable_copy

_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "bold yellow", "waived": "magenta", "skipped": "dim"}
_MARK = {"pass": "✓", "fail": "✗", "inconclusive": "?", "waived": "⚑", "skipped": "–"}
_COLUMNS = (
    Column("state"),
    Column("rule", 2, wraps=True),
    Column("generator", wraps=True),
    Column("value", right=True),
    Column("limit", right=True),
    Column("interval", 1, right=True),
    Column("p (Holm)", 3, right=True),
    Column("candidate", 4, right=True),
    Column("compared with", 5, right=True),
    Column("unit", 6, wraps=True, bare=True),
)


def view(outcome: Outcome) -> Iterable[RenderableType]:
    """Return what is printed, without anything that a terminal could obey."""
    names = printable(outcome.names())
    decision = printable_copy(outcome.decision)
    outcome = replace(outcome, decision=decision)
    yield Text(names)
    yield Text("")
    yield Fitted(_COLUMNS, [_cells(rule, outcome) for rule in outcome.rules()])
    for rule in outcome.rules():
        if rule.outcome != "pass" or rule.HasField("waiver"):
            said = rule.sentence + (_unneeded(rule) if rule.outcome == "pass" else "")
            line = Text(f"{_MARK.get(rule.outcome, ' ')} {rule.id}: ", style=_STYLE.get(rule.outcome, ""))
            yield Padding(line.append(said, style="default not bold"), (0, 0, 0, 1))
    yield Text(f"\n{headline(decision)}", style=_STYLE.get(decision.verdict, ""))


def _cells(rule: gate_pb2.RuleOutcome, outcome: Outcome) -> list[Text]:
    state = Text(f"{_MARK.get(rule.outcome, ' ')} {rule.outcome}", style=_STYLE.get(rule.outcome, ""))
    values = [
        number(rule.value) if rule.HasField("value") else "not measured",
        f"≤ {number(rule.limit)}",
        interval(rule.interval),
        number(rule.adjusted_p_value) if rule.HasField("adjusted_p_value") else "",
        number(rule.candidate_value) if rule.HasField("candidate_value") else "",
        number(rule.baseline_value) if rule.HasField("baseline_value") else "",
        unit_of(rule, outcome),
    ]
    return [state, Text(rule.id), Text(judged(rule)), *map(Text, values)]


def _unneeded(rule: gate_pb2.RuleOutcome) -> str:
    return f" The waiver by {rule.waiver.owner} is no longer needed."
