"""The decision as JSON: ``lieaudit.decision/1``, with the names of the protobuf message."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from lieaudit_client.formats.outcome import Outcome

SCHEMA = "lieaudit.decision/1"


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the decision and what it was made on; values that were not measured are absent."""
    decision = json_format.MessageToDict(
        outcome.decision, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    compared = {"candidate": outcome.candidate, "baseline": outcome.baseline, **outcome.datasets}
    return {
        "schema": SCHEMA,
        **decision,
        "compared": {
            role: {"model": report.model.name, "model_sha256": report.model.sha256}
            | {"data": report.data.name, "data_sha256": report.data.sha256, "images": report.data.count}
            for role, report in compared.items()
            if report is not None
        },
    }


def render(outcome: Outcome) -> str:
    """Return the JSON text."""
    return json.dumps(to_dict(outcome), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
