"""What is kept with a verdict: numbers for charts, settings, files."""

from __future__ import annotations

from typing import Any

from lieaudit_client.formats import decision_json
from lieaudit_client.formats import html as page
from lieaudit_client.formats.outcome import Outcome, judged
from lieaudit_client.report_json import dump_report, report_to_json

_MEASURED = ("lee", "lee_per_px2", "relative")
_LONG = {"feeds", "layouts", "classes"}
"""Fields of a specification that are no setting to compare runs by."""


def metrics(outcome: Outcome) -> dict[str, float]:
    """Return the candidate's numbers by name: ``lee/GENERATOR``, ``lee_per_px2/…``, ``relative/…``, and ``top1``.

    What was not measured has no entry.
    """
    report = outcome.candidate
    found = {
        f"{name}/{generator}": getattr(result, name)
        for name in _MEASURED
        for generator, result in sorted(report.results.items())
        if name == "lee" or result.HasField(name)
    }
    return found | ({"top1": report.data.top1} if report.data.HasField("top1") else {})


def rule_metrics(outcome: Outcome) -> dict[str, float]:
    """Return what the rules decided on by name: ``rule/ID/GENERATOR``, e.g. the ratio to the baseline.

    ``rule/ID/PART/GENERATOR`` where a rule is about a part of the outputs.
    """
    decided = [rule for rule in outcome.decision.rules if rule.HasField("value")]
    return {f"rule/{r.id}/{judged(r).replace(' ', '/')}": r.value for r in decided}


def params(outcome: Outcome) -> dict[str, str]:
    """Return the settings: the specification, the digests of what was compared, and the versions that computed it."""
    report, decision = outcome.candidate, outcome.decision
    found = {
        "model_sha256": report.model.sha256,
        "data_sha256": report.data.sha256,
        "images": str(report.data.count),
        "policy": outcome.policy_file,
        "policy_sha256": decision.policy_sha256,
        "metric_version": str(report.metric_version),
        "lieaudit": report.environment.lieaudit,
        "onnxruntime": report.environment.onnxruntime,
        "provider": report.environment.provider,
    }
    if outcome.baseline is not None:
        found["baseline_sha256"] = outcome.baseline.model.sha256
    spec = report_to_json(report)["spec"]
    return {name: value for name, value in {**found, **_flat("spec", spec)}.items() if value}


def _flat(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {
            k: v for key, item in value.items() if key not in _LONG for k, v in _flat(f"{name}.{key}", item).items()
        }
    return {name: ",".join(map(str, value)) if isinstance(value, list) else str(value)}


def artefacts(outcome: Outcome, alias: str | None = None) -> dict[str, str]:
    """Return the files by name; ``alias`` is the one that a pass is to move."""
    found = {
        "decision.json": decision_json.render(outcome),
        "report.json": dump_report(outcome.candidate),
        "page.html": page.render(outcome.candidate, outcome.baseline, outcome.decision, promote=alias),
    }
    if outcome.baseline is not None:
        found["baseline.json"] = dump_report(outcome.baseline)
    return found
