"""Between the library's dataclasses and the protobuf messages; both hold the same fields under the same names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from lieaudit_api.v1 import report_pb2, spec_pb2

from lieaudit.errors import DataError
from lieaudit.report import Report
from lieaudit.runtime.budget import automatic_budget
from lieaudit.spec import AuditSpec
from lieaudit_server.config import WORKER_MIB

M = TypeVar("M", bound=Message)


def spec_from_proto(message: spec_pb2.AuditSpec) -> AuditSpec:
    """Read a spec; absent fields take the defaults. Raises `SpecError`."""
    return AuditSpec.from_dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def within_memory(spec: AuditSpec, memory_mib: int) -> AuditSpec:
    """State the budget that nobody asked for: a share of what is free now, and what such a worker can give at most."""
    return dataclasses.replace(spec, budget_mib=automatic_budget(spec.provider, limit=memory_mib - WORKER_MIB))


def spec_to_proto(spec: AuditSpec) -> spec_pb2.AuditSpec:
    """Write a spec with all its fields."""
    return into(spec_pb2.AuditSpec(), spec.to_dict())


def report_to_proto(report: Report) -> report_pb2.Report:
    """Write a report."""
    return into(report_pb2.Report(), report.to_dict())


def report_from_proto(message: report_pb2.Report) -> Report:
    """Read a report. Raises `DataError` where fields are missing."""
    values = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # A protobuf map has no order; the report's is that of the spec.
    order = {name: position for position, name in enumerate(values.get("spec", {}).get("generators", ()))}
    for name in ("results", "layerwise"):
        kept = values.get(name, {})
        values[name] = {generator: kept[generator] for generator in sorted(kept, key=lambda g: (order.get(g, 99), g))}
    named = [text.partition("=")[0].strip() for text in values.get("spec", {}).get("parts", ())]
    parts = values.get("parts", {})
    values["parts"] = {
        name: parts[name] | {"results": dict(sorted(parts[name]["results"].items(), key=lambda g: order.get(g[0], 99)))}
        for name in sorted(parts, key=lambda name: (_place(named, name.partition(".")[0]), name))
    }
    return Report.from_dict(values)


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def parse_report(data: bytes) -> Report:
    """Read a serialized report. Raises `DataError`."""
    try:
        return report_from_proto(report_pb2.Report.FromString(data))
    except DecodeError as problem:
        raise DataError("not a serialized report", reason="NOT_A_REPORT", subject="report") from problem


def into(message: M, values: Mapping[str, Any]) -> M:
    """Fill a message from plain values of the same names.

    Lists and maps of texts, which may be long, are taken as they are: that is fifty times as fast.
    """
    rest = {}
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and isinstance(value, dict) and _is_map_of_texts(field):
            getattr(message, name).update(value)
        elif field is not None and isinstance(value, list) and field.cpp_type == field.CPPTYPE_STRING:
            getattr(message, name).extend(value)
        else:
            rest[name] = value
    return json_format.ParseDict(rest, message)


def _is_map_of_texts(field: Any) -> bool:
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return False
    return all(part.type == part.TYPE_STRING for part in entry.fields)


def timestamp(seconds: float | None) -> Timestamp | None:
    """Turn seconds since the epoch into a Timestamp; None stays None."""
    if seconds is None:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp
