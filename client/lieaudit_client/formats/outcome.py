"""What the gate's formats render: the decision with the reports it stands on."""

from __future__ import annotations

from dataclasses import dataclass, field

from lieaudit_api.v1 import gate_pb2, report_pb2

from lieaudit_client.formats.numbers import per_unit

ORDER = {"fail": 0, "inconclusive": 1, "waived": 2, "skipped": 3, "pass": 4}
"""Every outcome of a rule, the worst first."""


@dataclass(frozen=True)
class Outcome:
    """A decision and what it was made on; ``policy_file`` is the path as the user gave it."""

    decision: gate_pb2.Decision
    candidate: report_pb2.Report
    baseline: report_pb2.Report | None
    policy_file: str
    datasets: dict[str, report_pb2.Report] = field(default_factory=dict)

    def rules(self) -> list[gate_pb2.RuleOutcome]:
        """Return the rules, the worst first."""
        return sorted(self.decision.rules, key=lambda rule: ORDER.get(rule.outcome, 0))

    def names(self) -> str:
        """Say what was compared, in one line."""
        images = f"{self.candidate.data.count} images of {self.candidate.data.name or 'unnamed data'}"
        against = f" against {self.baseline.model.name or 'the baseline'}" if self.baseline is not None else ""
        spec = self.candidate.spec
        size = f", secants of {spec.secant_px:g} px" if spec.HasField("secant_px") else ""
        return f"{self.candidate.model.name or 'the model'}{against}, {images}{size}"


def headline(decision: gate_pb2.Decision) -> str:
    """Return the verdict in words, as the service says it; an older service says the verdict alone."""
    return decision.headline or decision.verdict.upper()


def name_of(rule: gate_pb2.RuleOutcome) -> str:
    """Return a rule's name together with its generator: unique within a decision."""
    return f"{rule.id} [{judged(rule)}]"


def judged(rule: gate_pb2.RuleOutcome) -> str:
    """Say what a rule was decided on: a generator, and the part of the outputs where it is about one."""
    return f"{rule.part} {rule.generator}" if rule.HasField("part") else rule.generator


def unit_of(rule: gate_pb2.RuleOutcome, outcome: Outcome) -> str:
    """Say what the unit of a rule's value is: a LEE's; every ratio and share has none."""
    report = outcome.candidate
    results = report.parts[rule.part].results if rule.HasField("part") and rule.part in report.parts else report.results
    if rule.kind != "limit" or rule.generator not in results:
        return ""
    if rule.subject:  # another measure than LEE
        return "per px²" if rule.subject == "lee_per_px2" else ""
    return per_unit(results[rule.generator].unit)
