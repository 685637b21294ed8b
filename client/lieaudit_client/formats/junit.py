"""JUnit XML: a test case per rule and generator.

A failed rule is a ``failure``, an inconclusive one an ``error`` (something that could not be decided is not a clean
result), a waived one ``skipped`` with the waiver in its text, and so is one that had no baseline to compare with.
Elements and attributes are those of the schema that the Jenkins xUnit plugin publishes, which GitLab, GitHub actions
and Azure read as well.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from lieaudit_api.v1 import gate_pb2

from lieaudit_client.formats.numbers import number
from lieaudit_client.formats.outcome import Outcome, headline, judged, name_of

_NOT_RUN = frozenset({"waived", "skipped"})
# What XML 1.0 cannot hold, however it is escaped: it may come from a model's name.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(outcome: Outcome) -> str:
    """Return the XML text."""
    rules = outcome.decision.rules
    counts = {
        "tests": len(rules),
        "failures": sum(rule.outcome == "fail" for rule in rules),
        "errors": sum(rule.outcome == "inconclusive" for rule in rules),
    }
    plain = {name: str(value) for name, value in counts.items()}
    root = ET.Element("testsuites", {"name": "lieaudit gate", **plain})
    skipped = sum(rule.outcome in _NOT_RUN for rule in rules)
    suite = ET.SubElement(root, "testsuite", {"name": "lieaudit gate", **plain, "skipped": str(skipped)})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(outcome).items():
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for rule in rules:
        _case(suite, rule)
    out = ET.SubElement(suite, "system-out")
    out.text = _clean("\n".join([outcome.names(), f"verdict: {headline(outcome.decision)}", *outcome.decision.reasons]))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, rule: gate_pb2.RuleOutcome) -> None:
    attributes = {"name": _clean(name_of(rule)), "classname": _clean(f"lieaudit.{rule.kind}")}
    case = ET.SubElement(suite, "testcase", attributes)
    if rule.outcome in _NOT_RUN:
        ET.SubElement(case, "skipped").text = _clean(rule.sentence)
    elif rule.outcome != "pass":
        kind = "failure" if rule.outcome == "fail" else "error"
        value = number(rule.value) if rule.HasField("value") else "not measured"
        message = f"{judged(rule)}: {value}, limit {number(rule.limit)}"
        element = ET.SubElement(case, kind, {"type": _clean(rule.reason or rule.kind), "message": _clean(message)})
        element.text = _clean(rule.sentence)
    else:
        ET.SubElement(case, "system-out").text = _clean(rule.sentence)


def _properties(outcome: Outcome) -> dict[str, str]:
    found = {
        "verdict": outcome.decision.verdict,
        "headline": headline(outcome.decision),
        "policy": outcome.policy_file,
        "policy_sha256": outcome.decision.policy_sha256,
        "candidate": outcome.candidate.model.name,
        "candidate_sha256": outcome.candidate.model.sha256,
        "data_sha256": outcome.candidate.data.sha256,
    }
    if outcome.baseline is not None:
        found |= {"baseline": outcome.baseline.model.name, "baseline_sha256": outcome.baseline.model.sha256}
    return found


def _clean(value: str) -> str:
    return _FORBIDDEN.sub("\ufffd", value)
