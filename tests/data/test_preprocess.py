"""Preprocessing: what is written down, and what becomes of the pixels."""

import contextlib

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.preprocessing import PRESETS as CLIENT_PRESETS
from lieaudit_client.preprocessing import parse_preprocessing as client_parse
from lieaudit_client.sources import IMAGE_SUFFIXES
from PIL import Image

from lieaudit.data import PRESETS, Dataset, parse_preprocessing
from lieaudit.data.images import SUFFIXES
from lieaudit.errors import DataError
from lieaudit.spec import Preprocessing

INLINE = "scale=255,mean=.485:.456:.406,std=.229:.224:.225,order=bgr,resize=256,crop=224"


def one(pixels, text, channels=3):
    height, width = Dataset.from_arrays(pixels).size_after(parse_preprocessing(text))
    return Dataset.from_arrays(pixels).load(
        0, len(pixels), preprocessing=parse_preprocessing(text), channels=channels, height=height, width=width
    )


def test_presets_inline_text_and_yaml_say_the_same(tmp_path):
    wanted = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), order="bgr", resize=256, crop=224)
    values = {name: value for name, value in wanted.to_dict().items() if name != "name"}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    for text in (INLINE, yaml.safe_dump(values), str(tmp_path / "p.yaml"), "imagenet, order=bgr, resize=256, crop=224"):
        assert parse_preprocessing(text) == wanted
    assert parse_preprocessing("{preset: imagenet}") == parse_preprocessing(" imagenet ") == PRESETS["imagenet"]


def test_the_client_reads_the_same(tmp_path):
    """The client may import no numpy and so has a parser of its own; this keeps the two one."""
    (tmp_path / "p.yaml").write_text("preset: mnist\ncrop: 24\n")
    assert list(CLIENT_PRESETS) == list(PRESETS)
    assert IMAGE_SUFFIXES == SUFFIXES
    for text in (*PRESETS, INLINE, "cifar10,crop=24", "mean=.5", "scale=2", str(tmp_path / "p.yaml")):
        ours, theirs = parse_preprocessing(text), client_parse(text)
        sizes = tuple(getattr(theirs, f) if theirs.HasField(f) else None for f in ("resize", "crop"))
        assert sizes == (ours.resize, ours.crop)
        assert (theirs.scale, tuple(theirs.mean), tuple(theirs.std)) == (ours.scale, ours.mean, ours.std)
        assert (theirs.order, theirs.name) == (ours.order, ours.name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "imagenette",
        "scale=0",
        "scale=nan",
        "std=0",
        "std=-1:1:1",
        "mean=a",
        "order=rbg",
        "resize=0",
        "crop=1e9",
        "crop=99999",
        "scale=1,scale=2",
        "mean=,crop=3",
        "colour=red",
        "imagenet,crop",
        "missing.yaml",
        "x" * 70_000,
    ],
)
def test_bad_text_is_refused_by_both(text):
    with pytest.raises(DataError) as caught:
        parse_preprocessing(text)
    assert caught.value.reason == "INVALID_PREPROCESSING"
    assert "imagenet" in caught.value.hint
    with pytest.raises(InvalidInputError) as refused:
        client_parse(text)
    assert refused.value.reason == "INVALID_PREPROCESSING"


@pytest.mark.parametrize("text", ["[1, 2]", "{mean: {a: b}}", "resize: 224.5", "crop: true", "- \n- [", "a: &a [*a]\n"])
def test_bad_yaml_is_refused(text):
    with pytest.raises(DataError, match="preprocessing is unusable"):
        parse_preprocessing(text)


@given(st.text(max_size=60) | st.text("scaemnstdorize=:,.0123456789{}[]&*-\n ", max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(DataError):
        assert isinstance(parse_preprocessing(text), Preprocessing)


def test_every_raw_value_is_the_rounded_exact_one():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    exact = (ramp.astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Equal, not close: computed in float64 and rounded once.
    assert np.array_equal(one(ramp, "imagenet"), exact.astype(np.float32).transpose(0, 3, 1, 2))


def test_order_is_the_models_and_so_are_mean_and_std():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert one(red, "scale=1,mean=1:2:3,order=bgr")[0, :, 0, 0].tolist() == [-1, -2, 197]
    assert one(red, "scale=1,mean=1:2:3")[0, :, 0, 0].tolist() == [199, -2, -3]


@pytest.mark.parametrize(("height", "width"), [(9, 14), (14, 9), (13, 13)])
def test_resize_is_pillows_and_the_crop_is_central(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    short, long = min(height, width), max(height, width)
    size = (10, 10 * long // short) if height <= width else (10 * long // short, 10)
    whole = np.asarray(Image.fromarray(pixels[0]).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = round((size[0] - 7) / 2), round((size[1] - 7) / 2)
    cropped = one(pixels, "scale=1,resize=10,crop=7")[0].transpose(1, 2, 0)
    assert np.array_equal(cropped, whole[top : top + 7, left : left + 7])


def test_transparency_does_not_weigh_colours_when_resized():
    pixels = np.full((1, 8, 8, 4), 100, np.uint8)
    pixels[..., 3] = np.arange(8, dtype=np.uint8) * 30
    assert (one(pixels, "scale=1,resize=4", channels=4)[0, :3] == 100).all()


@pytest.mark.parametrize("text", ["mean=1:2", "std=1:1", "order=bgr", "scale=1e-300"])
def test_what_does_not_fit_the_model_is_refused(text):
    with pytest.raises(DataError) as caught:
        one(np.ones((1, 4, 4, 1), np.uint8), text, channels=1)
    assert caught.value.reason == "INVALID_PREPROCESSING"


def test_a_strip_is_not_blown_up():
    with pytest.raises(DataError) as caught:
        one(np.zeros((1, 1, 60_000, 3), np.uint8), "resize=16000")
    assert caught.value.reason == "TOO_LARGE"
