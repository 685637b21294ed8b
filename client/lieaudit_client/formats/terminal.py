"""The verdict for a terminal or a CI log: a line per rule, and the reasons in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lieaudit_api.v1 import gate_pb2
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.numbers import interval, number
from lieaudit_client.formats.outcome import Outcome, headline
from lieaudit_client.printable import printable, printable_copy

_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "bold yellow", "waived": "magenta"}
_MARK = {"pass": "✓", "fail": "✗", "inconclusive": "?", "waived": "⚑"}


def view(outcome: Outcome) -> Iterable[RenderableType]:
    """Give what is printed, without anything that a terminal could obey."""
    names = printable(outcome.names())
    decision = printable_copy(outcome.decision)
    outcome = replace(outcome, decision=decision)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("", "rule", "generator"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "interval", "limit", "candidate", "compared with", "p (Holm)"):
        table.add_column(name, justify="right")
    for rule in outcome.rules():
        table.add_row(*_cells(rule))
    yield Text(names)
    yield table
    for rule in outcome.rules():
        if rule.outcome != "pass" or rule.HasField("waiver"):
            said = rule.sentence + (_unneeded(rule) if rule.outcome == "pass" else "")
            line = Text(f"{_MARK.get(rule.outcome, ' ')} {rule.id}: ", style=_STYLE.get(rule.outcome, ""))
            yield Padding(line.append(said, style="default not bold"), (0, 0, 0, 1))
    yield Text(f"\n{headline(decision)}", style=_STYLE.get(decision.verdict, ""))


def _cells(rule: gate_pb2.RuleOutcome) -> list[Text]:
    state = Text(f"{_MARK.get(rule.outcome, ' ')} {rule.outcome}", style=_STYLE.get(rule.outcome, ""))
    values = [
        number(rule.value) if rule.HasField("value") else "not measured",
        interval(rule.interval),
        f"≤ {number(rule.limit)}",
        number(rule.candidate_value) if rule.HasField("candidate_value") else "",
        number(rule.baseline_value) if rule.HasField("baseline_value") else "",
        number(rule.adjusted_p_value) if rule.HasField("adjusted_p_value") else "",
    ]
    return [state, Text(rule.id), Text(rule.generator), *map(Text, values)]


def _unneeded(rule: gate_pb2.RuleOutcome) -> str:
    return f" The waiver by {rule.waiver.owner} is no longer needed."
