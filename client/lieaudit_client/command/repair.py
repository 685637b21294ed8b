"""``lieaudit repair``: write a mended model, and gate it against the original."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from lieaudit_api.v1 import report_pb2
from lieaudit_policy import GENERATORS

from lieaudit_client.command import exits, streams
from lieaudit_client.command.gate import decide
from lieaudit_client.command.grouping import GroupedCommand
from lieaudit_client.command.options import check_writable, server_options, spec_from, spec_options
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.formats.numbers import number, wilson
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.gate.run import Request

_POLICY = """\
version: 1
statistic: mean
images: {{min: 16}}
rules:
  - {{id: repaired, kind: noninferiority, generators: [{generators}], margin: 0.0}}
"""
"""A repair has to lower the error it is made for; the gate's intervals say whether it did."""


@click.command(cls=GroupedCommand)
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--average", required=True, metavar="shifts:HxW", help="Average the logits over so many shifts.")
@click.option("--out", "out", required=True, metavar="F.onnx", help="Where the mended model is written.")
@click.option("--data", type=click.Path(exists=True), help="Images to gate it on; without them nothing is measured.")
@click.option("--policy", "policy_file", metavar="FILE", help="Another policy than: no generator's LEE may rise.")
@server_options
@spec_options
def repair(model: str, average: str, out: str, data: str | None, policy_file: str | None, **options: Any) -> int:
    """Write MODEL with its logits averaged over shifts of the image, gate it against MODEL, and show the trade.

    The weights are shared and nothing is trained; the mended model costs as many forward passes as there are shifts.
    Without --data it is written, but called no repair.
    """
    check_writable(out)
    slower = _write(model, average, out, options)
    if data is None:
        streams.say(f"{out} is written and takes {slower} the time; give --data to see whether it is a repair")
        return exits.OK
    measured = options["generators"] or GENERATORS
    with tempfile.TemporaryDirectory(prefix="lieaudit-repair-") as folder:
        policy = Path(folder, "policy.yaml")
        policy.write_text(_POLICY.format(generators=", ".join(measured)), encoding="utf-8")
        request = Request(out, data, policy_file or str(policy), model, {}, spec_from(options), power=False)
        code, outcome = decide(request, options)
    streams.out(f"trade     {trade(outcome, slower)}\n")
    return code


def _write(model: str, average: str, out: str, options: dict[str, Any]) -> str:
    """Write the averaged model; return how many times the original's time it takes, in words."""
    try:
        from lieaudit.averaging import Shifts, slowdown
        from lieaudit.averaging import average as averaged
        from lieaudit.errors import LieauditError
        from lieaudit.spec import AuditSpec
    except ModuleNotFoundError as problem:
        raise InvalidInputError(
            f"a model cannot be rewritten here: {problem.name} is not installed",
            reason="LIEAUDIT_NOT_INSTALLED",
            subject=str(problem.name),
            hint="pip install 'lieaudit[cpu]'",
        ) from problem
    names = ("input", "output", "head", "input_layout", "size")
    try:
        spec = AuditSpec(**{name: options[name] for name in names if options[name]})
        mended = averaged(model, Shifts.parse(average), spec)
        Path(out).write_bytes(mended.SerializeToString())
        cost = slowdown(mended, model, spec)
    except LieauditError as problem:
        raise InvalidInputError(
            str(problem), reason=problem.reason, subject=problem.subject, hint=problem.hint
        ) from problem
    return f"{cost.median:.2g} ({cost.low:.2g} … {cost.high:.2g}) times"


def trade(outcome: Outcome, slower: str) -> str:
    """Say in one line what was won and what it costs: LEE ratios with their intervals, accuracy, time."""
    parts = []
    before, after = outcome.baseline, outcome.candidate
    for rule in outcome.decision.rules:
        if rule.HasField("value"):
            between = f" ({' … '.join(number(end) for end in rule.interval)})" if rule.interval else ""
            pixels = _per_pixel(before, after, rule.generator)
            parts.append(f"{rule.generator} LEE × {number(rule.value)}{between}{pixels}")
    if before is not None and after.data.HasField("top1"):
        parts.append(f"top-1 {_accuracy(before.data)} → {_accuracy(after.data)}")
    return "; ".join([*parts, f"{slower} the time"])


def _per_pixel(before: report_pb2.Report | None, after: report_pb2.Report, generator: str) -> str:
    """Say LEE per square pixel before and after, which compares generators and models."""
    sides = [report.results[generator] for report in (before, after) if report and generator in report.results]
    if len(sides) < 2 or not all(side.HasField("lee_per_px2") for side in sides):
        return ""
    return f", {number(sides[0].lee_per_px2)} → {number(sides[1].lee_per_px2)} per px²"


def _accuracy(data: report_pb2.ReportData) -> str:
    low, high = wilson(data.top1, data.count)
    return f"{data.top1:.1%} ({low:.1%} … {high:.1%})"
