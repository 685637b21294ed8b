# noqa: INP001 - a script
"""Makes ``lieaudit_client/report.schema.json`` from the dataclasses of lieaudit; ``--check`` fails on drift."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lieaudit.report import SCHEMA, Report
from lieaudit.spec import CHOICES, AuditSpec

TARGET = Path(__file__).with_name("lieaudit_client") / "report.schema.json"
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "contentEncoding": "base64"},
}
_STATUS = {"type": "string", "enum": ["ok", "inconclusive"]}


def schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a type; dataclasses are collected in ``definitions`` and referred to."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = kind.__name__ if isinstance(kind, type) else type(kind).__name__
        if name not in definitions:
            definitions[name] = {}  # ends recursion
            definitions[name] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin in {typing.Union, types.UnionType}:  # absent, never null, where it was not measured
        return schema_of(next(a for a in inner if a is not types.NoneType), definitions)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return {"type": "array", "items": schema_of(inner[0], definitions)}
        item = schema_of(inner[0], definitions)
        return {"type": "array", "items": item, "minItems": len(inner), "maxItems": len(inner)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(inner[1], definitions)}
    return dict(_PLAIN[kind])


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(kind):
        if (kind, field.name) == (Report, "spec"):
            properties[field.name] = schema_of(AuditSpec, definitions)
        elif (kind, field.name) == (Report, "schema"):
            properties[field.name] = {"const": SCHEMA}
        elif kind is AuditSpec and field.name in CHOICES:
            properties[field.name] = {"type": "string", "enum": list(CHOICES[field.name])}
        elif field.name == "status":
            properties[field.name] = dict(_STATUS)
        else:
            properties[field.name] = schema_of(hints[field.name], definitions)
        unset = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if unset and types.NoneType not in typing.get_args(hints[field.name]):
            required.append(field.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def make() -> str:
    """Return the schema's text."""
    definitions: dict[str, Any] = {}
    schema_of(Report, definitions)
    top = definitions.pop("Report")
    top["required"] = ["schema", "metric_version", *top["required"]]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        "title": SCHEMA,
        "description": "Report of one lieaudit audit. A value that was not measured is absent; `skipped` says why.",
    }
    return json.dumps(head | top | {"$defs": dict(sorted(definitions.items()))}, indent=2) + "\n"


def main() -> int:
    """Write the schema, or compare it with what is there."""
    text = make()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET} has drifted: run `python {Path(__file__).name}`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
