"""The report as JSON (``lieaudit.report/1``): the names of the protobuf message and of `lieaudit.Report`."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from lieaudit_api.v1 import report_pb2

from lieaudit_client.exceptions import ReportError
from lieaudit_client.parts import in_order

SCHEMA = "lieaudit.report/1"
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
_MAX_BYTES = 1024 * 1024 * 1024


def report_to_json(report: report_pb2.Report) -> dict[str, Any]:
    """Return the JSON form of a report: the same dict as ``lieaudit.Report.to_dict()`` of the same content.

    Values that were not measured are absent, never 0. The order of ``results`` and ``layerwise`` is that of
    ``spec.generators`` and that of ``parts`` of ``spec.parts``, which protobuf maps do not keep.

    Raises
    ------
    ReportError
        Where a number is NaN or infinite, which no report may hold and JSON cannot.
    """
    _refuse_non_finite(report)
    values = json_format.MessageToDict(
        report, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    order = {name: position for position, name in enumerate(report.spec.generators)}
    for name in ("results", "layerwise"):
        values[name] = dict(sorted(values[name].items(), key=lambda item: order.get(item[0], len(order))))
    parts = values["parts"] = {name: values["parts"][name] for name in in_order(report)}
    for part in parts.values():
        part["results"] = dict(sorted(part["results"].items(), key=lambda item: order.get(item[0], len(order))))
    for results in (values["results"], *(part["results"] for part in parts.values())):
        for result in results.values():
            result["quantiles"] = dict(sorted(result["quantiles"].items()))
    return {field.name: values[field.name] for field in report.DESCRIPTOR.fields if field.name in values}


def report_from_json(values: Mapping[str, Any] | str | bytes) -> report_pb2.Report:
    """Read the JSON form, parsed or as text. Raises `ReportError` where it is not a report of this schema."""
    if isinstance(values, str | bytes):
        try:
            values = json.loads(values)
        except (ValueError, RecursionError) as problem:
            raise _not_a_report(f"not JSON: {problem}") from problem
    if not isinstance(values, Mapping):
        raise _not_a_report("not a JSON object")
    if values.get("schema") != SCHEMA:
        raise _not_a_report(f"its schema is {values.get('schema')!r:.80}, not {SCHEMA!r}")
    _check_required(_schema(), values, "")
    try:
        # Fields are only ever added: a report by a newer service is read for what this client knows.
        report = json_format.ParseDict(dict(values), report_pb2.Report(), ignore_unknown_fields=True)
    except json_format.ParseError as problem:
        raise _not_a_report(f"malformed: {problem}") from problem
    _refuse_non_finite(report)
    return report


def read_report(path: str | Path) -> report_pb2.Report:
    """Read a report file. Raises `ReportError` where it is missing, larger than 1 GiB or not a report."""
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _not_a_report(f"larger than {_MAX_BYTES} bytes", str(path))
        text = path.read_bytes()
    except OSError as problem:
        raise ReportError(
            f"cannot read {path}: {problem.strerror}", reason="UNREADABLE_FILE", subject=str(path)
        ) from problem
    try:
        return report_from_json(text)
    except ReportError as problem:
        raise ReportError(
            f"{path.name}: {problem.message}", reason=problem.reason, subject=str(path), hint=problem.hint
        ) from problem


def dump_report(report: report_pb2.Report) -> str:
    """Return the JSON text of a report, as it is written to files."""
    return json.dumps(report_to_json(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def report_from_bytes(data: bytes) -> report_pb2.Report:
    """Read a serialised report. Raises `ReportError` where it is none."""
    try:
        return report_pb2.Report.FromString(data)
    except DecodeError as problem:
        raise _not_a_report("the service sent bytes that are no report") from problem


def _check_required(schema: Mapping[str, Any], values: Any, path: str) -> None:
    """Refuse a document in which a required field is missing: protobuf would read it as 0."""
    if "$ref" in schema:
        schema = _schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(values, Mapping):
        for name in schema.get("required", ()):
            if name not in values:
                raise _not_a_report(f"{path}{name} is missing")
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in values.items():
            inner = properties.get(name, others)
            if isinstance(inner, Mapping):
                _check_required(inner, item, f"{path}{name}.")
    elif isinstance(values, list) and "items" in schema:
        for position, item in enumerate(values):
            _check_required(schema["items"], item, f"{path}{position}.")


@functools.cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _refuse_non_finite(message: Message, path: str = "") -> None:
    for field, value in message.ListFields():
        here = f"{path}{field.name}"
        if field.message_type is None:
            if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
                _refuse_numbers(value if isinstance(value, Sequence) else [value], here)
        elif field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                if isinstance(item, Message):
                    _refuse_non_finite(item, f"{here}.{key}.")
                elif isinstance(item, float):
                    _refuse_numbers([item], f"{here}.{key}")
        else:
            for item in [value] if isinstance(value, Message) else value:
                _refuse_non_finite(item, f"{here}.")


def _refuse_numbers(values: Iterable[float], path: str) -> None:
    for number in values:
        if not math.isfinite(number):
            raise ReportError(f"not a report: it holds {number} at {path}", reason="NON_FINITE", subject=path)


def _not_a_report(problem: str, subject: str = "report") -> ReportError:
    return ReportError(f"not a report: {problem}", reason="NOT_A_REPORT", subject=subject)
