"""Every unusable input is a DataError with its own reason."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from lieaudit.data import PRESETS, Dataset, Limits, open_dataset, parse_preprocessing
from lieaudit.errors import DataError

UNIT = parse_preprocessing("unit")


def reason(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    assert caught.value.subject
    assert len(str(caught.value)) < 1000
    return caught.value.reason


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def tar_with(path, **fields):
    info = tarfile.TarInfo(fields.pop("name", "a.png"))
    for name, value in fields.items():
        setattr(info, name, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def zip_with(path, name, content=b"x", **fields):
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content)
    return path


def test_paths_that_are_no_dataset(tmp_path):
    assert reason(open_dataset, tmp_path / "nowhere.npz") == "NOT_FOUND"
    assert reason(open_dataset, "nul\0byte.npz") == "NOT_FOUND"
    (tmp_path / "a.txt").write_text("x")
    assert reason(open_dataset, tmp_path / "a.txt") == "UNKNOWN_FORMAT"
    assert reason(open_dataset, tmp_path / "a.txt", "folder") == "UNKNOWN_FORMAT"
    assert reason(open_dataset, tmp_path, "npz") == "UNKNOWN_FORMAT"
    assert reason(open_dataset, tmp_path / "a.txt", "exe") == "UNKNOWN_FORMAT"


@pytest.mark.parametrize("kind", ["npz", "zip", "tar"])
def test_empty_and_foreign_files(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"")
    assert reason(open_dataset, path) == "EMPTY_FILE"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    assert reason(open_dataset, path) == "DAMAGED_ARCHIVE"


def test_nothing_to_audit(tmp_path, write_files, pixels):
    (tmp_path / "empty").mkdir()
    assert reason(open_dataset, tmp_path / "empty") == "NO_IMAGES"
    for name in ("no.tar", "no.zip", "no"):
        assert reason(open_dataset, write_files(tmp_path / name, [("readme.txt", b"x")])) == "NO_IMAGES"
    assert reason(open_dataset, saved(tmp_path / "no.npz", x=pixels[:0])) == "NO_IMAGES"


def test_truncated_archives(tmp_path, write_files, members, pixels):
    for name in ("set.tar", "set.zip"):
        whole = write_files(tmp_path / name, members).read_bytes()
        for cut in (len(whole) // 3, len(whole) - 11 if name == "set.zip" else len(whole) // 2):
            (tmp_path / name).write_bytes(whole[:cut])
            assert reason(open_dataset, tmp_path / name) in {"TRUNCATED", "DAMAGED_ARCHIVE"}
    saved(tmp_path / "set.npz", x=pixels)
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:500])
    assert reason(open_dataset, tmp_path / "set.npz") == "DAMAGED_ARCHIVE"


def test_a_tar_cut_between_two_members_is_truncated(tmp_path, write_files, members):
    path = write_files(tmp_path / "set.tar", members)
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    path.write_bytes(path.read_bytes()[:second])
    assert reason(open_dataset, path) == "TRUNCATED"


def test_an_array_shorter_than_its_header_says(tmp_path, pixels):
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    path = zip_with(tmp_path / "a.npz", "x.npy", buffer.getvalue()[:-5])
    assert reason(open_dataset, path) == "TRUNCATED"
    header = buffer.getvalue().replace(b"(6, 9, 12, 3)", b"(9**9, 9, 1)")
    assert reason(open_dataset, zip_with(tmp_path / "b.npz", "x.npy", header)) == "DAMAGED_ARCHIVE"
    huge = buffer.getvalue().replace(b"(6, 9, 12, 3)", b"(9999999999,)")
    assert reason(open_dataset, zip_with(tmp_path / "c.npz", "x.npy", huge)) == "TRUNCATED"


def test_a_flipped_bit_is_found(tmp_path, pixels):
    path = saved(tmp_path / "a.npz", x=pixels)
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert reason(open_dataset, path) == "DAMAGED_ARCHIVE"


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "C:\\a.png", "..\\a.png"])
def test_names_that_leave_the_archive(tmp_path, name):
    assert reason(open_dataset, tar_with(tmp_path / "a.tar", name=name)) == "UNSAFE_ARCHIVE"
    assert reason(open_dataset, zip_with(tmp_path / "a.zip", name)) == "UNSAFE_ARCHIVE"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    path = tar_with(tmp_path / "a.tar", type=kind, linkname="/etc/passwd")
    assert reason(open_dataset, path) == "UNSAFE_ARCHIVE"


def test_links_and_passwords_in_a_zip(tmp_path):
    link = zip_with(tmp_path / "a.zip", "a.png", b"/etc/passwd", external_attr=0o120777 << 16)
    assert reason(open_dataset, link) == "UNSAFE_ARCHIVE"
    locked = bytearray(zip_with(tmp_path / "b.zip", "a.png").read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(locked)
    assert reason(open_dataset, tmp_path / "b.zip") == "UNSAFE_ARCHIVE"


def test_compression_that_is_not_read(tmp_path, encoded, pixels):
    path = zip_with(tmp_path / "a.zip", "a.png", encoded(pixels[0]), compress_type=zipfile.ZIP_LZMA)
    assert reason(open_dataset, path) == "DAMAGED_ARCHIVE"
    packed = tmp_path / "b.tar"
    packed.write_bytes(gzip.compress(tar_with(tmp_path / "a.tar", size=3).read_bytes()))
    assert reason(open_dataset, packed) == "DAMAGED_ARCHIVE"


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, encoded):
    bomb = zip_with(tmp_path / "a.npz", "x.npy", bytes(70 * 2**20), compress_type=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    assert reason(open_dataset, bomb) == "TOO_LARGE"
    picture = encoded(np.zeros((9000, 9000), np.uint8))
    assert reason(open_dataset, zip_with(tmp_path / "b.zip", "a.png", picture)) == "TOO_LARGE"
    large = tmp_path / "large.png"  # a header that claims 100,000 × 100,000
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zipfile.crc32(header))
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + picture[33:])
    assert reason(open_dataset, tmp_path.rename(tmp_path.with_name("pictures"))) == "TOO_LARGE"


def test_limits_on_members_and_bytes(tmp_path, write_files, members):
    for name in ("set.tar", "set.zip", "set"):
        path = write_files(tmp_path / name, members)
        assert reason(open_dataset, path, limits=Limits(members=3)) == "TOO_LARGE"
    for name in ("set.tar", "set.zip"):
        assert reason(open_dataset, tmp_path / name, limits=Limits(unpacked_bytes=1000)) == "TOO_LARGE"


def test_a_tar_header_that_claims_a_huge_name(tmp_path):
    # A PAX header of 8 GiB in a 10 KiB file: must not be allocated.
    path = tar_with(tmp_path / "a.tar", size=3)
    data = bytearray(path.read_bytes())
    data[156:157] = b"x"
    data[124:136] = b"77777777777\0"
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    assert reason(open_dataset, path) in {"TRUNCATED", "DAMAGED_ARCHIVE"}


def test_arrays_that_are_not_images(tmp_path, pixels):
    floats = np.zeros((2, 3, 4, 4), np.float32)
    holed = floats.copy()
    holed[1, 2, 3, 3] = np.nan
    infinite = floats.copy()
    infinite[0, 0, 0, 0] = np.inf
    cases = {
        "MISSING_ARRAY": {"images": pixels},
        "PICKLED_OBJECTS": {"x": np.array([{"a": 1}, None], object)},
        "WRONG_DTYPE": {"x": floats.astype(np.float64)},
        "WRONG_SHAPE": {"x": pixels[0]},
        "NON_FINITE": {"x": holed},
        "BAD_LABELS": {"x": floats, "y": np.arange(3)},
    }
    for expected, arrays in cases.items():
        assert reason(open_dataset, saved(tmp_path / "a.npz", **arrays)) == expected
    assert reason(Dataset.from_arrays, infinite) == "NON_FINITE"
    pickled = saved(tmp_path / "a.npz", x=floats, y=np.array(["cat", None], object))
    assert reason(open_dataset, pickled) == "PICKLED_OBJECTS"
    for labels in (np.array([0.0, 1.0]), np.array([-1, 0]), np.array([0, 2**40]), np.array(["a", "b"])):
        assert reason(Dataset.from_arrays, floats, labels) == "BAD_LABELS"


def test_nan_images_are_named(tmp_path):
    x = np.zeros((200, 1, 4, 4), np.float32)
    x[150, 0, 1, 1] = np.nan
    with pytest.raises(DataError, match="image 150 holds NaN"):
        open_dataset(saved(tmp_path / "a.npz", x=x))


def test_images_that_do_not_fit_the_model(pixels, tmp_path, write_files, members):
    size = {"height": 9, "width": 12}
    raw, floats = Dataset.from_arrays(pixels), Dataset.from_arrays(np.zeros((2, 3, 9, 12), np.float32))
    files = open_dataset(write_files(tmp_path / "set", members))
    transposed = Dataset.from_arrays(pixels.transpose(0, 3, 1, 2))
    for dataset, preprocessing in ((raw, UNIT), (floats, None), (transposed, UNIT)):
        load = dataset.load
        assert reason(load, 0, 2, preprocessing=preprocessing, channels=1, **size) == "WRONG_CHANNELS"
        if dataset is transposed:
            assert reason(load, 0, 2, preprocessing=preprocessing, channels=3, **size) == "WRONG_CHANNELS"
            continue
        wrong_size = {"preprocessing": preprocessing, "channels": 3, "height": 12, "width": 9}
        assert reason(load, 0, 2, **wrong_size) == "WRONG_SIZE"
    for dataset in (raw, files):
        with pytest.raises(DataError) as caught:
            dataset.load(0, 2, preprocessing=None, channels=3, **size)
        assert caught.value.reason == "PREPROCESSING_REQUIRED"
        assert all(preset in caught.value.hint for preset in PRESETS)
        assert reason(dataset.zero_point, None, 3) == "PREPROCESSING_REQUIRED"
        large = parse_preprocessing("crop=10")
        too_small = {"preprocessing": large, "channels": 3, "height": 10, "width": 10}
        assert reason(dataset.load, 0, 2, **too_small) == "WRONG_SIZE"
    assert reason(floats.load, 0, 2, preprocessing=UNIT, channels=3, **size) == "PREPROCESSING_REFUSED"
    assert floats.load(0, 2, preprocessing=parse_preprocessing("none"), channels=3, **size).shape == (2, 3, 9, 12)


def test_image_files_that_cannot_be_used(tmp_path, write_files, encoded, pixels):
    whole = encoded(np.tile(pixels[0], (9, 9, 1)))
    assert reason(open_dataset, write_files(tmp_path / "text", [("a.png", b"no picture")])) == "BAD_IMAGE"
    deep = encoded(np.zeros((9, 12), np.uint16))
    assert reason(open_dataset, write_files(tmp_path / "deep", [("a.png", deep)])) == "UNSUPPORTED_IMAGE"
    (tmp_path / "pipe.png").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "pipe.png" / "a.jpg")
    (tmp_path / "pipe.png" / "b.jpg").symlink_to("/dev/zero")
    assert reason(open_dataset, tmp_path / "pipe.png") == "BAD_IMAGE"
    half = open_dataset(write_files(tmp_path / "half", [("a.png", whole[: len(whole) // 2])]))
    with pytest.raises(DataError, match=r"a\.png cannot be decoded") as caught:
        half.load(0, 1, preprocessing=UNIT, channels=3, height=81, width=108)
    assert caught.value.reason == "BAD_IMAGE"


def test_colour_of_16_bits_is_not_cut_to_8(tmp_path, write_files):
    """Pillow opens it as RGB and drops the lower bytes without a word."""
    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(4))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zipfile.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    for name, content in (
        ("a.png", png),
        ("a.ppm", b"P6 2 2 65535\n" + bytes(24)),
        ("b.ppm", b"P3 1 1 1000 1 2 3\n"),
    ):
        folder = write_files(tmp_path / f"in-{name}", [(name, content)])
        assert reason(open_dataset, folder) == "UNSUPPORTED_IMAGE", name
    shallow = [("a.ppm", b"P6 2 2 255\n" + bytes(12)), ("b.ppm", b"P6 2 2 100\n" + bytes(12))]
    assert open_dataset(write_files(tmp_path / "shallow", shallow)).count == 2


def test_labels_of_any_kind_are_checked_before_they_are_hashed():
    floats = np.zeros((2, 3, 4, 4), np.float32)
    assert Dataset.from_arrays(floats, [1, 0]).labels.tolist() == [1, 0]
    for labels in (np.array([0, 1], "M8[s]"), np.array([0, None], object), [True, False], ["a", "b"]):
        assert reason(Dataset.from_arrays, floats, labels) == "BAD_LABELS"
