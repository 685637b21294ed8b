"""Specifications from mappings and from the command's options."""

import dataclasses

import click
import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from lieaudit_api.v1 import spec_pb2
from lieaudit_client import InvalidInputError, parse_preprocessing
from lieaudit_client.command import options
from lieaudit_client.specification import to_spec

from lieaudit.feeds import Feed
from lieaudit.spec import CHOICES, GENERATORS, AuditSpec


def test_a_mapping_is_the_message():
    spec = to_spec(
        {"generators": ["rotation"], "seed": 3, "layouts": {"t": "NCHW"}, "step": 0.5, "preprocessing": "imagenet"}
    )
    assert spec == spec_pb2.AuditSpec(
        generators=["rotation"], seed=3, layouts={"t": "NCHW"}, step=0.5, preprocessing=parse_preprocessing("imagenet")
    )
    assert to_spec(spec) is spec
    assert to_spec(None) == spec_pb2.AuditSpec()
    same = to_spec({"preprocessing": {"scale": 255, "mean": [0.5], "std": [1], "order": "rgb", "name": "custom"}})
    assert same == to_spec({"preprocessing": parse_preprocessing("scale=255,mean=.5")})


@pytest.mark.parametrize(
    "values",
    [{"colour": 1}, {"seed": "x"}, {"preprocessing": {"gamma": 1}}, {"generators": 1}, AuditSpec(), 5, "rotation"],
)
def test_an_unknown_name_or_type_is_refused(values):
    with pytest.raises(InvalidInputError) as caught:
        to_spec(values)
    assert caught.value.reason == "INVALID_SPEC"


def test_the_library_s_specification_is_understood_whole():
    """`AuditSpec.to_dict()` of the Python library is a mapping the client takes: same names on both sides."""
    spec = AuditSpec(
        generators=("scale",),
        step=0.1,
        max_images=5,
        layouts={"a": "NCHW"},
        input="x",
        feeds={"s": [2, 3]},
        size=(4, 5),
        parts=("p=y:points,anchors=a.npy",),
        anchors={"a.npy": [[1.0, 2.0]]},
    )
    message = to_spec(spec.to_dict())
    for field in dataclasses.fields(AuditSpec):
        value = getattr(spec, field.name)
        if value is None:
            assert not message.HasField(field.name)
        elif field.name == "feeds":
            tensor = message.feeds["s"]
            assert Feed(tensor.dtype, tuple(tensor.shape), tensor.data) == Feed.of([2, 3])
        elif field.name == "anchors":
            tensor = message.anchors["a.npy"]
            assert Feed(tensor.dtype, tuple(tensor.shape), tensor.data) == Feed.of([[1.0, 2.0]])
        elif field.name in {"generators", "layouts", "classes", "size", "parts"}:
            assert type(value)(getattr(message, field.name)) == value
        else:
            assert getattr(message, field.name) == value
    assert {f.name for f in dataclasses.fields(AuditSpec)} == {f.name for f in message.DESCRIPTOR.fields}


def _parse(*arguments):
    """Run a command that has the options of a specification, and give what it makes of them."""
    found = []

    @click.command()
    @options.spec_options
    def command(**values):
        found.append(options.spec_from(values))

    result = CliRunner().invoke(command, arguments)
    return found[0] if found else result


def test_no_option_is_no_field():
    assert _parse() == spec_pb2.AuditSpec()


def test_every_option_reaches_its_field():
    text = (
        "--generators rotation,scale --method finite_difference --head identity --convention reference --interpolation "
        "bicubic --padding circular --layerwise op --depth 2 --layout a=b=NLC --layout c=NCHW --input x --output y "
        "--input-layout NHWC --preprocess cifar10 --max-images 7 --seed 0 --bootstrap 100 --relative-images 0 "
        "--feed sizes=640,480 --feed on=true --size 32x48 --generator turn=0,1,0;-1,0,0 "
        "--part a=y[:4]:xyxy --part b=y[4:]:invariant "
        "--classes -3 --provider cuda:1 --allow-fallback --threads 0 --budget 16 --step 0.25 --torch-factory f"
    )
    spec = _parse(*text.split())
    expected = {
        "generators": ["rotation", "scale"],
        "method": "finite_difference",
        "head": "identity",
        "convention": "reference",
        "interpolation": "bicubic",
        "padding": "circular",
        "layerwise": "op",
        "depth": 2,
        "layouts": {"a=b": "NLC", "c": "NCHW"},
        "input": "x",
        "output": "y",
        "input_layout": "NHWC",
        "preprocessing": "cifar10",
        "feeds": {"sizes": [640, 480], "on": True},
        "size": [32, 48],
        "custom": {"turn": [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]},
        "parts": ["a=y[:4]:xyxy", "b=y[4:]:invariant"],
        "class_offset": -3,
        "max_images": 7,
        "seed": 0,
        "bootstrap": 100,
        "relative_images": 0,
        "provider": "cuda:1",
        "allow_fallback": True,
        "threads": 0,
        "budget_mib": 16,
        "step": 0.25,
        "torch_factory": "f",
    }
    assert spec == to_spec(expected)
    # those that are left are read from files (tests/cases/test_labels.py) or name files to upload; a step has one size
    assert {f.name for f, _ in spec.ListFields()} == set(expected)
    assert {f.name for f in spec.DESCRIPTOR.fields} - set(expected) == {
        "anchors",
        "classes",
        "torch_source",
        "torch_weights",
        "secant_px",
    }


def test_anchors_come_from_the_file_that_a_part_names(tmp_path):
    file, anchors = tmp_path / "a.npy", np.arange(8.0).reshape(2, 4)
    np.save(file, anchors)
    part = f"b=y:cxcywh,unit=grid,anchors={file},decode=exp"
    spec = _parse("--part", part)
    assert spec == to_spec({"parts": [part]}) == to_spec({"parts": [part], "anchors": {str(file): anchors}})
    assert AuditSpec.from_dict(
        json_format.MessageToDict(spec, preserving_proto_field_name=True)
    ).anchors == {str(file): Feed.of(anchors)}  # fmt: skip
    with pytest.raises(InvalidInputError, match=r"none.npy: there is no file") as caught:
        to_spec({"parts": ["b=y:points,anchors=none.npy"]})
    assert caught.value.reason == "INVALID_PART"


def test_a_step_in_pixels_is_a_secant():
    assert _parse("--step", "0.5px") == to_spec({"secant_px": 0.5})
    assert _parse("--step", "0.5 PX") == to_spec({"secant_px": 0.5})
    assert _parse("--step", "1e-2") == to_spec({"step": 0.01})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--generators", "rotation,spin"], "'spin' is not one of translation_x"),
        (["--head", "relu"], "softmax"),
        (["--layout", "x"], "TENSOR=LAYOUT"),
        (["--seed", "-1"], "0<=x"),
        (["--step", "small"], "like 0.5px"),
        (["--size", "224"], "HxW"),
        (["--size", "0x4"], "HxW"),
        (["--feed", "a"], "NAME=VALUE"),
        (["--feed", "a=b"], "is no value"),
        (["--feed", "a=[[1],[2,3]]"], "different lengths"),
        (["--feed", "a=1,true"], "numbers, or true and false"),
        (["--feed", "a=1", "--feed", "a=2"], "given twice"),
        (["--feed", "a=none.npy"], "cannot read"),
    ],
)
def test_bad_options_are_usage_errors(arguments, said):
    result = _parse(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_choices_are_those_of_the_library():
    assert CHOICES == options.CHOICES
    assert GENERATORS == options.GENERATORS
