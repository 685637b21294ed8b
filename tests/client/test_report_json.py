"""Report: protobuf message, JSON, dataclasses and JSON Schema hold the same."""

import dataclasses
import json
import subprocess
import sys
import types
import typing
from collections.abc import Mapping

import jsonschema
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from lieaudit_api.v1 import report_pb2
from lieaudit_client import ReportError, dump_report, read_report, report_from_json, report_to_json
from lieaudit_client.report_json import SCHEMA_FILE

from lieaudit.report import SCHEMA, Report
from lieaudit.spec import AuditSpec

MESSAGES = json.loads(SCHEMA_FILE.read_text())
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def values_of(draw, kind):
    """Any value of a type of the report, every optional field now present, now absent."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        drawn = {}
        for field in dataclasses.fields(kind):
            if field.name == "schema":
                drawn[field.name] = SCHEMA
            elif field.name == "status":
                drawn[field.name] = draw(st.sampled_from(["ok", "inconclusive"]))
            elif field.name == "spec":
                drawn[field.name] = draw(SPECS).to_dict()
            else:
                drawn[field.name] = draw(values_of(hints[field.name]))
        return kind(**drawn)
    if origin in {typing.Union, types.UnionType}:
        return draw(st.none() | values_of(inner[0]))
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return tuple(draw(st.lists(values_of(inner[0]), max_size=3)))
        return tuple(draw(values_of(item)) for item in inner)
    if origin is not None and issubclass(origin, Mapping):
        return draw(st.dictionaries(st.text("ab.1", min_size=1, max_size=4), values_of(inner[1]), max_size=2))
    plain = {
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        int: st.integers(-(2**31), 2**31 - 1),
        float: FLOATS,
        bool: st.booleans(),
        bytes: st.binary(max_size=8),
    }
    return draw(plain[kind])


SPECS = st.builds(
    AuditSpec,
    layouts=st.dictionaries(st.text("abc", min_size=1), st.just("NCHW"), max_size=2),
    max_images=st.none() | st.integers(1, 10**9),
    step=st.none() | st.floats(1e-6, 1),
    allow_fallback=st.booleans(),
    input=st.none() | st.text(max_size=3),
    depth=st.none() | st.integers(1, 100),
)


@settings(max_examples=15)
@given(values_of(Report))
def test_message_json_and_dataclasses_hold_the_same(report):
    plain = report.to_dict()
    message = report_from_json(plain)
    # through the wire, as the service sends it
    again = report_pb2.Report.FromString(message.SerializeToString())
    assert report_to_json(again) == plain
    assert Report.from_dict(report_to_json(again)) == report
    assert Report.from_json(dump_report(again)) == report
    jsonschema.validate(plain, MESSAGES, cls=jsonschema.Draft202012Validator)


def _full(kind):
    """A value with every field set, none at its default."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        values = {field.name: _full(hints[field.name]) for field in dataclasses.fields(kind)}
        if kind is Report:
            spec = {field.name: _full(hint) for field, hint in _spec_fields()}
            values |= {"schema": SCHEMA, "spec": spec}
        for name, choice in (("status", "inconclusive"), ("order", "bgr")):
            if name in values:
                values[name] = choice
        return kind(**values)
    if origin in {typing.Union, types.UnionType}:
        return _full(inner[0])
    if origin is tuple:
        return tuple(_full(item) for item in inner if item is not Ellipsis)
    if origin is not None and issubclass(origin, Mapping):
        return {"key": _full(inner[1])}
    return {str: "text", int: 7, float: 0.1, bool: True, bytes: b"\xff\x00", typing.Any: 1}[kind]


def _spec_fields():
    hints = typing.get_type_hints(AuditSpec)
    for field in dataclasses.fields(AuditSpec):
        yield field, hints[field.name]


def test_no_field_is_missing_anywhere():
    """Every field of the dataclasses, set to something that is no default, comes back; and the message has no other."""
    plain = json.loads(json.dumps(_full(Report).to_dict(), default=lambda item: item.to_dict()))
    message = report_from_json(plain)
    assert report_to_json(message) == plain
    unset = list(_unset(message))
    assert unset == []


def _unset(message, path=""):
    """Every field of the message and its sub-messages that is unset: one the dataclasses do not know."""
    present = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        if field.name not in present:
            yield f"{path}{field.name}"
            continue
        value = present[field.name]
        if field.message_type is None or field.message_type.file.package == "google.protobuf":  # a plain list
            continue
        if field.message_type.GetOptions().map_entry:
            items = list(value.values())
        else:
            items = list(value) if not hasattr(value, "DESCRIPTOR") else [value]
        for item in items:
            if hasattr(item, "DESCRIPTOR"):
                yield from _unset(item, f"{path}{field.name}.")


@pytest.fixture
def plain():
    values = _full(Report).to_dict()
    return values | {"spec": AuditSpec(generators=("scale", "rotation")).to_dict()}


def test_schema_is_that_of_the_dataclasses(repo_root):
    done = subprocess.run(
        [sys.executable, repo_root / "client" / "report_schema.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    jsonschema.Draft202012Validator.check_schema(MESSAGES)


def test_order_is_that_of_the_specification(plain):
    result = plain["results"]["key"]
    plain["results"] = {"rotation": result, "scale": result}
    message = report_from_json(plain)
    assert list(report_to_json(message)["results"]) == ["scale", "rotation"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("results", "key", "lee"), "results.key.lee"),
        (("results", "key", "per_image"), "results.key.per_image"),
        (("results", "key", "quantiles", "key"), "results.key.quantiles.key"),
        (("layerwise", "key", "segments", 0, "share"), "layerwise.key.segments.share"),
        (("timing", "rows"), "timing.rows"),
    ],
)
def test_no_number_may_be_nan_or_infinite(plain, value, path, where):
    inner = plain
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = [value] if isinstance(inner[path[-1]], list) else value
    message = json_format.ParseDict(plain, report_pb2.Report())
    with pytest.raises(ReportError) as caught:
        report_to_json(message)
    assert (caught.value.reason, caught.value.subject) == ("NON_FINITE", where)
    for text in (json.dumps(plain), json.dumps(plain).replace(f'"{value}"', value)):  # in quotes, and bare
        with pytest.raises(ReportError):
            report_from_json(text)


@pytest.mark.parametrize(
    "path",
    [
        ("results",),
        ("model",),
        ("results", "key", "lee"),
        ("results", "key", "error_bar"),
        ("results", "key", "agreement", "agrees"),
        ("layerwise", "key", "segments", 0, "share"),
    ],
)
def test_a_missing_number_is_refused_and_never_zero(plain, path):
    inner = plain
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    with pytest.raises(ReportError, match=rf"{path[-1]} is missing") as caught:
        report_from_json(plain)
    assert caught.value.reason == "NOT_A_REPORT"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, MESSAGES)


def test_what_a_newer_service_adds_is_ignored(plain):
    newer = plain | {"colour": "blue"}
    assert report_to_json(report_from_json(newer)) == plain


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '"x"', "{}", '{"schema": "other/1"}', "[" * 100_000, '{"schema": 3}']
)
def test_what_is_no_report_is_said(text, tmp_path):
    with pytest.raises(ReportError) as caught:
        report_from_json(text)
    assert caught.value.reason == "NOT_A_REPORT"
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(ReportError, match=r"r\.json"):
        read_report(file)


@pytest.mark.parametrize("depth", [500, 900, 5000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deep_nesting_in_a_known_field_is_refused(plain, depth, pair):
    deep = "[" * depth + "]" * depth if pair == "[]" else '{"a":' * depth + "1" + "}" * depth
    text = json.dumps(plain)[:-1]
    with pytest.raises(ReportError) as caught:
        report_from_json(f'{text}, "results": {deep}}}')
    assert caught.value.reason == "NOT_A_REPORT"


@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deep_nesting_in_an_unknown_field_is_ignored(plain, pair):
    deep = "[" * 500 + "]" * 500 if pair == "[]" else '{"a":' * 500 + "1" + "}" * 500
    assert report_to_json(report_from_json(f'{json.dumps(plain)[:-1]}, "new": {deep}}}')) == plain


def test_a_wrong_type_is_said(plain):
    plain["results"]["key"]["lee"] = "much"
    with pytest.raises(ReportError, match="malformed"):
        report_from_json(plain)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ReportError) as caught:
        read_report(tmp_path / "none.json")
    assert caught.value.reason == "UNREADABLE_FILE"
