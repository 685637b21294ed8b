"""Every format gives the same images, labels and order."""

import hashlib
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from lieaudit.data import Dataset, open_dataset, parse_preprocessing
from lieaudit.errors import DataError
from lieaudit.spec import Preprocessing

UNIT = parse_preprocessing("unit")


@pytest.fixture
def unit_pixels(pixels):
    return (pixels.astype(np.float64) / 255).astype(np.float32).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["set.tar", "set.zip", "set"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_files_give_their_pixels_and_class_folders(
    tmp_path, write_files, members, unit_pixels, load_all, name, wrapped
):
    path = write_files(tmp_path / name, [(f"images/{n}" if wrapped else n, c) for n, c in reversed(members)])
    dataset = open_dataset(path)
    assert (dataset.count, dataset.dtype, dataset.name, dataset.image_shape) == (6, "uint8", name, (3, 9, 12))
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert dataset.notes == ("1 files without an image suffix were left out",)
    assert np.array_equal(load_all(dataset, UNIT, 3, 9, 12), unit_pixels)


def test_a_part_is_the_part_of_the_whole(tmp_path, write_files, members, unit_pixels):
    dataset = open_dataset(write_files(tmp_path / "set.zip", members))
    part = dataset.load(2, 5, preprocessing=UNIT, channels=3, height=9, width=12)
    assert np.array_equal(part, unit_pixels[2:5])
    with pytest.raises(IndexError, match="4:7 of 6"):
        dataset.load(4, 7, preprocessing=UNIT, channels=3, height=9, width=12)


def test_images_without_class_folders_have_no_labels(tmp_path, write_files, members):
    flat = [(name.replace("/", "_"), content) for name, content in members]
    assert open_dataset(write_files(tmp_path / "flat", flat)).labels is None
    beside = [*members, ("top.png", members[0][1])]
    assert open_dataset(write_files(tmp_path / "beside", beside)).labels is None


def test_hidden_files_are_not_images(tmp_path, write_files, members):
    hidden = [("._cat.png", b"resource fork"), (".cache/x.png", b"?"), ("__MACOSX/cat/0.png", b"?")]
    assert open_dataset(write_files(tmp_path / "set.zip", [*members, *hidden])).count == 6
    assert open_dataset(write_files(tmp_path / "set", [*members, *hidden[:2]])).count == 6


def test_npz_raw_and_as_the_model_takes_it(tmp_path, pixels, unit_pixels, load_all):
    labels = np.arange(6, dtype=np.uint8)
    np.savez_compressed(tmp_path / "raw.npz", x=pixels, y=labels)
    np.savez(tmp_path / "float.npz", x=np.asfortranarray(unit_pixels))
    raw, floats = open_dataset(tmp_path / "raw.npz"), open_dataset(tmp_path / "float.npz")
    assert raw.labels.tolist() == labels.tolist()
    assert raw.labels.dtype == np.int64
    assert floats.labels is None
    assert raw.image_shape == floats.image_shape == (3, 9, 12)
    assert np.array_equal(load_all(raw, UNIT, 3, 9, 12), load_all(floats, None, 3, 9, 12))
    assert np.array_equal(raw.raw(3), pixels[3])
    assert floats.raw(3) is None
    assert raw.sha256 == hashlib.sha256((tmp_path / "raw.npz").read_bytes()).hexdigest()


def test_loaded_arrays_are_copies(unit_pixels, load_all):
    dataset = Dataset.from_arrays(unit_pixels)
    load_all(dataset, None, 3, 9, 12)[:] = 7
    assert np.array_equal(load_all(dataset, None, 3, 9, 12), unit_pixels)


def test_digests_tell_sets_apart(tmp_path, write_files, members, pixels):
    same = [open_dataset(write_files(tmp_path / n, members)).sha256 for n in ("a", "b")]
    renamed = open_dataset(write_files(tmp_path / "c", [("cat/9.png", members[0][1]), *members[1:]])).sha256
    assert same[0] == same[1] != renamed
    digests = {
        Dataset.from_arrays(x, y).sha256
        for x, y in [(pixels, None), (pixels.reshape(6, 12, 9, 3), None), (pixels, np.arange(6))]
    }
    assert len(digests) == 3


def test_zero_point_is_what_raw_zero_becomes(pixels, unit_pixels, load_all):
    black = Dataset.from_arrays(np.zeros_like(pixels))
    preprocessing = parse_preprocessing("imagenet")
    zero = black.zero_point(preprocessing, 3)
    assert np.array_equal(load_all(black, preprocessing, 3, 9, 12)[0, :, 0, 0], zero)
    assert np.allclose(zero, -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rtol=1e-7)
    assert not Dataset.from_arrays(unit_pixels).zero_point(None, 3).any()


def test_sizes_are_known_before_loading(tmp_path, write_files, encoded, pixels):
    crop = Preprocessing(resize=8, crop=6)
    assert Dataset.from_arrays(pixels).size_after(None) == (9, 12)
    assert Dataset.from_arrays(pixels).size_after(Preprocessing(resize=6)) == (6, 8)
    mixed = [("a.png", encoded(pixels[0])), ("b.png", encoded(pixels[1, :, :10]))]
    dataset = open_dataset(write_files(tmp_path / "mixed", mixed))
    assert dataset.image_shape is None
    assert dataset.size_after(None) is None
    assert dataset.size_after(crop) == (6, 6)
    assert dataset.load(0, 2, preprocessing=crop, channels=3, height=6, width=6).shape == (2, 3, 6, 6)
    assert dataset.raw(1).shape == (9, 10, 3)
    assert dataset.raw(1, crop).shape == (6, 6, 3)
    with pytest.raises(DataError, match="image 1: 9×10 pixels, the model takes 9×12"):
        dataset.load(0, 2, preprocessing=UNIT, channels=3, height=9, width=12)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_files_are_converted_to_the_models_channels(tmp_path, pixels, mode, channels):
    image = Image.fromarray(pixels[0]).convert(mode)
    (tmp_path / "set").mkdir()
    image.save(tmp_path / "set" / "one.tiff")
    wanted = np.asarray(image.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])).reshape(9, 12, channels)
    loaded = open_dataset(tmp_path / "set").load(
        0, 1, preprocessing=parse_preprocessing("none"), channels=channels, height=9, width=12
    )
    assert np.array_equal(loaded[0].transpose(1, 2, 0), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "set" / "one.png", exif=exif)
    dataset = open_dataset(tmp_path / "set")
    upright = dataset.raw(0)
    # EXIF 2.3, tag 274: where the stored first row and first column lie in the upright picture.
    stored = pixels[0]
    expected = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    assert np.array_equal(upright, expected)
    assert dataset.image_shape == (3, *upright.shape[:2])


def test_one_image_is_a_dataset(pixels):
    assert len(Dataset.from_arrays(pixels[:1])) == 1


def test_arrays_of_any_layout_and_byte_order_are_the_same_images(tmp_path, load_all):
    x = np.random.default_rng(1).standard_normal((3, 2, 5, 4)).astype(np.float32)
    y = np.array([2, 0, 1])
    for number, (images, labels) in enumerate(
        (
            (np.asfortranarray(x), y),
            (x.astype(">f4"), y.astype(">i2")),
            (x[::-1, :, :, ::-1][::-1, :, :, ::-1], y[::-1][::-1]),
        )
    ):
        np.savez(tmp_path / f"{number}.npz", x=images, y=labels)
        for dataset in (open_dataset(tmp_path / f"{number}.npz"), Dataset.from_arrays(images, labels)):
            found = load_all(dataset, None, 2, 5, 4)
            assert found.dtype.isnative
            assert found.flags.c_contiguous
            assert np.array_equal(found, x)
            assert dataset.labels.tolist() == [2, 0, 1]


def test_class_folders_of_a_windows_archive(tmp_path, encoded, pixels):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, image in zip(("a\\1.png", "b\\1.png", "b\\2.png"), pixels, strict=False):
            archive.writestr(name, encoded(image))
    assert open_dataset(tmp_path / "set.zip").labels.tolist() == [0, 1, 1]


def test_file_names_that_are_no_utf8(tmp_path, encoded, pixels):
    folder = tmp_path / os.fsdecode(b"im\xe9ges")  # Latin-1
    folder.mkdir()
    try:
        (folder / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(encoded(pixels[0]))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = open_dataset(folder)
    assert dataset.name == "im\\udce9ges"
    assert len(dataset.sha256) == 64
    (folder / os.fsdecode(b"\xe8.png")).write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        open_dataset(folder)
    caught.value.subject.encode()
