"""Damaged bytes are read or refused with a DataError; nothing else ever comes out."""

import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieaudit.data import open_dataset, parse_preprocessing
from lieaudit.errors import DataError

UNIT = parse_preprocessing("unit")
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), min_size=1, max_size=4)
CUT = st.floats(0.5, 1)


def damaged(data, edits, cut):
    data = bytearray(data)
    for position, bytes_ in edits:
        start = int(position * len(data))
        data[start : start + len(bytes_)] = bytes_
    return bytes(data[: int(cut * len(data))])


def read_or_refuse(path):
    with contextlib.suppress(DataError):
        dataset = open_dataset(path)
        for index in range(min(dataset.count, 3)):
            dataset.raw(index)
        dataset.load(0, 1, preprocessing=UNIT, channels=3, height=9, width=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_files, members, pixels):
    folder = tmp_path_factory.mktemp("whole")
    write_files(folder / "set.tar", members)
    write_files(folder / "set.zip", members)
    np.savez_compressed(folder / "set.npz", x=pixels, y=np.arange(6))
    return folder


@pytest.mark.parametrize("kind", ["tar", "zip", "npz"])
@settings(max_examples=150)
@given(edits=EDITS, cut=CUT)
def test_archives(whole, kind, edits, cut):
    path = whole / f"damaged.{kind}"
    path.write_bytes(damaged((whole / f"set.{kind}").read_bytes(), edits, cut))
    read_or_refuse(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@settings(max_examples=60)
@given(edits=EDITS, cut=CUT)
def test_image_files(tmp_path_factory, encoded, pixels, kind, edits, cut):
    folder = tmp_path_factory.getbasetemp() / f"images-{kind}"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(damaged(encoded(pixels[0], kind), edits, cut))
    read_or_refuse(folder)


@settings(max_examples=100)
@given(header=st.text("{}()[]'descrfoanhp_:,<>|uifO0123456789 \\", max_size=80))
def test_npy_headers(tmp_path_factory, header):
    text = header.encode("latin1").ljust(118) + b"\n"
    path = tmp_path_factory.getbasetemp() / "header.npz"
    with zipfile.ZipFile(path, "w") as archive:
        content = io.BytesIO()
        content.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        archive.writestr("x.npy", content.getvalue())
    with pytest.raises(DataError):
        open_dataset(path)
