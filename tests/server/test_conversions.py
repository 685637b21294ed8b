"""Dataclasses, JSON and protobuf hold the same fields: every one goes there and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping

import numpy as np
import pytest
from google.protobuf import json_format
from lieaudit_api.v1 import model_pb2, report_pb2, spec_pb2
from lieaudit_server.conversions import (
    into,
    parse_report,
    report_from_proto,
    report_to_proto,
    spec_from_proto,
    spec_to_proto,
)

from lieaudit.errors import DataError
from lieaudit.inspection import Inspection
from lieaudit.report import Report
from lieaudit.spec import AuditSpec, Preprocessing


class Filler:
    """Makes a value for every field of a dataclass, different from its default and from every other."""

    def __init__(self, *, optional: bool) -> None:
        self.optional = optional
        self.count = 0

    def make(self, kind):
        self.count += 1
        origin = typing.get_origin(kind)
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            return kind(**{field.name: self.make(hints[field.name]) for field in dataclasses.fields(kind)})
        if origin in {typing.Union, types.UnionType}:
            inner = next(a for a in typing.get_args(kind) if a is not type(None))
            return self.make(inner) if self.optional else None
        if origin is tuple:
            arguments = [a for a in typing.get_args(kind) if a is not ...]
            return tuple(self.make(a) for a in (arguments if len(arguments) > 1 else arguments * 2))
        if origin is not None and issubclass(origin, Mapping):
            value = typing.get_args(kind)[1]
            return {f"key{self.count}": self.make(value)} if value is not typing.Any else {}
        simple = {str: f"text{self.count}", int: self.count, float: self.count + 0.25, bool: True}
        return simple.get(kind, b"\x00\xff" + bytes([self.count % 256]))


def full_spec(*, optional):
    values = {"layouts": {"t": "NCHW"}, "generators": ("rotation", "scale"), "bootstrap": 777, "allow_fallback": True}
    if optional:
        values |= {
            "depth": 3,
            "input": "in",
            "output": "out",
            "preprocessing": Preprocessing(2.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr", 7, 8, "own"),
            "classes": ("cat", "dog"),
            "class_offset": -1,
            "feeds": {"threshold": [0.5], "mask": [[True, False]], "sizes": [640, 480]},
            "size": (32, 48),
            "custom": {"turn": [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]], "bend": np.ones((2, 3, 2), np.float32)},
            "max_images": 9,
            "step": 0.125,
            "torch_source": "a",
            "torch_factory": "b",
            "torch_weights": "c",
        }
    choices = {"method": "forward", "head": "sigmoid", "convention": "reference", "interpolation": "bilinear"}
    values |= choices | {"padding": "circular", "layerwise": "op", "input_layout": "NHWC", "provider": "cuda:1"}
    return AuditSpec(**values, seed=5, relative_images=6, threads=2, budget_mib=99)


def full_report(*, optional):
    report = Filler(optional=optional).make(Report)
    # a step has one size, and parts take no head: no specification holds all of them, a message does
    anchors = {"a.npy": {"dtype": "float64", "shape": [1, 2], "data": "AAAAAAAA8D8AAAAAAAAAQA=="}}
    beside = {"secant_px": 0.5, "parts": ["p=y:points,anchors=a.npy"], "anchors": anchors}
    spec = full_spec(optional=optional).to_dict() | (beside if optional else {})
    return dataclasses.replace(report, schema="lieaudit.report/1", spec=spec)


@pytest.mark.parametrize("optional", [True, False])
def test_every_field_of_a_report_survives_proto_and_json(optional):
    report = full_report(optional=optional)
    message = report_to_proto(report)
    assert report_from_proto(message) == report
    assert parse_report(message.SerializeToString()) == report
    assert Report.from_json(report.to_json()) == report


def test_the_messages_have_no_field_that_the_dataclasses_lack():
    message = report_to_proto(full_report(optional=True))
    assert unset(message) == []


def unset(message, prefix=""):
    """Names of the fields, down the tree, that hold nothing."""
    empty = []
    for field in message.DESCRIPTOR.fields:
        value, name = getattr(message, field.name), prefix + field.name
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            if not value:
                empty.append(name)
            inner = list(value.values()) if field.message_type is not None else []
            empty += [n for v in inner if hasattr(v, "DESCRIPTOR") for n in unset(v, f"{name}.")]
        elif field.message_type.file.package == "google.protobuf":  # a plain list
            empty += [] if value else [name]
        elif field.is_repeated:
            empty += [n for v in value for n in unset(v, f"{name}.")] if len(value) else [name]
        elif not message.HasField(field.name):
            empty.append(name)
        else:
            empty += unset(value, f"{name}.")
    return empty


@pytest.mark.parametrize("optional", [True, False])
def test_every_field_of_a_spec_survives(optional):
    spec = full_spec(optional=optional)
    message = spec_to_proto(spec)
    assert spec_from_proto(message) == spec
    if optional:
        assert unset(message) == ["secant_px", "parts", "anchors"]  # refused beside a step, and beside a head
    for other in (AuditSpec(secant_px=0.5), AuditSpec(parts=("p=y:points,anchors=a",), anchors={"a": [[1.0, 2.0]]})):
        assert spec_from_proto(spec_to_proto(other)) == other


def test_an_empty_spec_message_is_the_default():
    assert spec_from_proto(spec_pb2.AuditSpec()) == AuditSpec()
    only = spec_pb2.AuditSpec(preprocessing=spec_pb2.Preprocessing(mean=[0.5]))
    assert spec_from_proto(only).preprocessing == Preprocessing(mean=(0.5,))


@pytest.mark.parametrize("optional", [True, False])
def test_every_field_of_an_inspection_has_a_place(optional):
    inspection = Filler(optional=optional).make(Inspection)
    message = into(model_pb2.Inspection(), inspection.to_dict())
    assert unset(message) == ([] if optional else ["top1"])
    plain = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert set(plain) == set(inspection.to_dict())


def test_the_results_keep_the_order_of_the_spec():
    report = full_report(optional=True)
    result = next(iter(report.results.values()))
    names = ("scale", "brightness", "rotation", "shear_x", "translation_x", "stretch_y")
    spec = {**report.spec, "generators": list(names)}
    report = dataclasses.replace(report, spec=spec, results=dict.fromkeys(names, result))
    assert tuple(parse_report(report_to_proto(report).SerializeToString()).results) == names


def test_what_is_no_report_is_said_so():
    for data in (b"\xff\xff\xff", b"", report_pb2.Report(schema="other").SerializeToString()):
        with pytest.raises(DataError) as caught:
            parse_report(data)
        assert caught.value.reason == "NOT_A_REPORT"
