"""Presets and texts: the client's reading equals that of the Python library."""

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from lieaudit_client import PRESETS, InvalidInputError, parse_preprocessing

from lieaudit.data.preprocess import PRESETS as LIBRARY_PRESETS
from lieaudit.data.preprocess import parse_preprocessing as library_parse
from lieaudit.errors import LieauditError


def _plain(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def test_presets_are_those_of_the_library():
    assert list(PRESETS) == list(LIBRARY_PRESETS)
    for name, preset in LIBRARY_PRESETS.items():
        assert _plain(PRESETS[name]) == preset.to_dict()


TEXTS = [
    "imagenet",
    "imagenet,resize=256,crop=224",
    "scale=255,mean=.485:.456:.406,std=.229:.224:.225,order=bgr,resize=256,crop=224",
    "scale=127.5,mean=1",
    " unit ",
    "none,order=BGR",
    # refused
    "imagnet",
    "",
    "scale=0",
    "scale=nan",
    "std=0",
    "std=-1",
    "mean=a",
    "mean=",
    "order=rbg",
    "resize=0",
    "resize=99999",
    "crop=2.5",
    "unit,unit",
    "scale=1,scale=2",
    "gamma=2",
    "scale",
    "imagenet,,",
    "missing.yaml",
]


def _client(text):
    try:
        return _plain(parse_preprocessing(text))
    except InvalidInputError as error:
        return error.reason


def _library(text):
    try:
        return library_parse(text).to_dict()
    except LieauditError as error:
        return error.reason


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_read_as_the_library_reads_them(text):
    assert _client(text) == _library(text)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["scale", "mean", "std", "order", "resize", "crop", "preset", "bogus"]),
            st.sampled_from(["1", "0", "-2.5", "nan", "1e400", ".1:.2:.3", "rgb", "bgr", "unit", "16385", "7", ""]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_inline_text_is_read_as_the_library_reads_it(items):
    text = ",".join(f"{name}={value}" for name, value in items)
    assert _client(text) == _library(text)


@pytest.mark.parametrize(
    "content",
    [
        "imagenet",
        "preset: cifar10\nresize: 32\n",
        "scale: 255\nmean: [0.1, 0.2, 0.3]\nstd: 0.5\norder: bgr\n",
        "preset: unit\r\nresize: 32\r\ncrop: null\r\n",
        # refused
        "[1, 2]",
        "scale: [1]",
        "scale: {a: 1}",
        "preset: nothing",
        "preset: [1]",
        "a: b: c",
        "unknown: 1",
        "mean: []",
        "resize: true",
        "crop: 224.5",
        "scale: true",
        "mean: [true]",
        "std: null",
        "",
    ],
)
def test_yaml_files_are_read_as_the_library_reads_them(tmp_path, content):
    path = tmp_path / "p.yaml"
    path.write_text(content)
    assert _client(str(path)) == _library(str(path))


def test_the_error_names_presets_and_field():
    with pytest.raises(InvalidInputError, match=r"presets: none, unit.*fields: scale") as caught:
        parse_preprocessing("std=0")
    assert caught.value.subject == "preprocessing.std"


def test_the_documented_table_is_the_presets(repo_root):
    text = (repo_root / "docs" / "client.md").read_text()
    table = text[text.index("| preset |") :].split("\n\n")[0].splitlines()[2:]

    def numbers(values):
        return ", ".join(f"{value:.12g}" for value in values)

    expected = [
        f"| {name} | {p.scale:g} | {numbers(p.mean)} | {numbers(p.std)} | {p.order} |" for name, p in PRESETS.items()
    ]
    assert table == expected
