"""SARIF 2.1.0 (OASIS): one result per rule and generator that is open, located at its line of the policy.

Passed rules are no results, as a clean scan has none; waived and skipped ones are notifications of the run, since code
scanning makes an alert of every result, suppressed or not. An expired waiver is a rejected ``suppression`` of its
result.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from lieaudit_api.v1 import gate_pb2

from lieaudit_client.formats.outcome import Outcome, headline, judged

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
HOME = "https://github.com/lieaudit/lieaudit"
_NOTED = frozenset({"waived", "skipped"})
_GATE_PAGE = f"{HOME}/blob/main/docs/gate.md"
_KINDS = {
    "limit": (
        "The local equivariance error stays below a limit",
        "Find the layers that cause the error with `--layerwise module`, and see docs/mending.md for what helps.",
    ),
    "noninferiority": (
        "The local equivariance error is no worse than the baseline's, up to a margin",
        "Compare the layers of the two versions, and see what changed in their data, augmentation and architecture.",
    ),
    "relative": (
        "The model answers less to its symmetry than to an equally large other change",
        (
            "The output moves as much along the symmetry as along any other change of that size: training with that "
            "transform, or LieLoss, lowers it."
        ),
    ),
    "kind_share": (
        "Layers of one kind cause no more than a share of the error",
        "The report's layer table names the layers of this kind and what each contributes.",
    ),
    "gap": (
        "The local equivariance error is no worse than on another dataset, up to a margin",
        "Look at the images with the largest error on both datasets: the page shows them.",
    ),
    "worst_direction": (
        "The local equivariance error along the worst of all affine directions stays below a limit",
        (
            "The report's `affine.worst` is that direction: the page draws it, and `--generator` measures it. Training "
            "with transforms along it lowers it."
        ),
    ),
}


def render(outcome: Outcome) -> str:
    """Return the SARIF text."""
    decision = outcome.decision
    used: dict[str, gate_pb2.RuleOutcome] = {}
    for rule in decision.rules:
        used.setdefault(rule.id, rule)
    order = {name: index for index, name in enumerate(used)}
    rules = outcome.rules()
    run = {
        "tool": {
            "driver": {
                "name": "lieaudit",
                "organization": "lieaudit",
                "fullName": "lieaudit, the equivariance gate",
                "informationUri": HOME,
                "semanticVersion": outcome.candidate.environment.lieaudit or "0.0.0",
                "rules": [_descriptor(rule) for rule in used.values()],
            }
        },
        "artifacts": [{"location": {"uri": _uri(outcome.policy_file)}, "description": {"text": "the gate's policy"}}],
        "results": [_result(rule, order[rule.id], outcome) for rule in rules if rule.outcome not in {"pass", *_NOTED}],
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    _notification(rule, order[rule.id], outcome) for rule in rules if rule.outcome in _NOTED
                ],
            }
        ],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdict": decision.verdict,
            "headline": headline(decision),
            "policySha256": decision.policy_sha256,
            "candidate": outcome.candidate.model.name,
            "candidateSha256": decision.candidate_sha256,
            "baselineSha256": decision.baseline_sha256,
        },
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _descriptor(rule: gate_pb2.RuleOutcome) -> dict[str, Any]:
    short, advice = _KINDS.get(rule.kind, (rule.kind, "See the report."))
    full = (
        f"{short}. Rule {rule.id!r} of the policy, of kind {rule.kind}; the gate decides it on images, by statistics."
    )
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.kind.split("_")),
        "shortDescription": {"text": f"{short}."},
        "fullDescription": {"text": full},
        "help": {"text": advice, "markdown": f"{advice}\n\n[How the gate decides]({_GATE_PAGE})."},
        "helpUri": _GATE_PAGE,
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["equivariance", rule.kind], "precision": "high"},
    }


def _result(rule: gate_pb2.RuleOutcome, index: int, outcome: Outcome) -> dict[str, Any]:
    identity = f"{rule.id}/{judged(rule)}/{rule.subject}"
    result: dict[str, Any] = {
        "ruleId": rule.id,
        "ruleIndex": index,
        "kind": "review" if rule.outcome == "inconclusive" else "fail",
        # The standard allows a level other than "none" only on results of kind "fail" (section 3.27.10).
        "level": "none" if rule.outcome == "inconclusive" else "error",
        "message": {"text": rule.sentence},
        "locations": [_location(rule, outcome)],
        "partialFingerprints": {"rule/v1": hashlib.sha256(identity.encode()).hexdigest()},
        "properties": _properties(rule),
    }
    if rule.HasField("waiver"):  # one that holds makes no result: this one has expired
        result["suppressions"] = [{"kind": "external", "status": "rejected", "justification": _justification(rule)}]
    return result


def _notification(rule: gate_pb2.RuleOutcome, index: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "level": "note",
        "message": {"text": rule.sentence},
        "associatedRule": {"id": rule.id, "index": index},
        "locations": [_location(rule, outcome)],
        "properties": _properties(rule) | ({"waiver": _justification(rule)} if rule.HasField("waiver") else {}),
    }


def _location(rule: gate_pb2.RuleOutcome, outcome: Outcome) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(outcome.policy_file), "index": 0},
            "region": {"startLine": max(1, rule.line)},
        },
        "logicalLocations": [{"name": judged(rule), "kind": "member"}],
    }


def _justification(rule: gate_pb2.RuleOutcome) -> str:
    return f"{rule.waiver.reason} ({rule.waiver.owner}, until {rule.waiver.expires})"


def _properties(rule: gate_pb2.RuleOutcome) -> dict[str, Any]:
    found: dict[str, Any] = {"outcome": rule.outcome, "generator": rule.generator, "limit": rule.limit}
    for name in ("value", "baseline_value", "candidate_value", "adjusted_p_value", "images_needed"):
        if rule.HasField(name):
            found[name] = getattr(rule, name)
    if rule.interval:
        found["interval"] = list(rule.interval)
    return found


def _uri(path: str) -> str:
    """Return a relative reference for a relative path, and a file URI for an absolute one (RFC 3986)."""
    pure = PurePath(path)
    if pure.is_absolute():
        return pure.as_uri()
    return quote(str(PurePosixPath(*pure.parts)) or ".")
