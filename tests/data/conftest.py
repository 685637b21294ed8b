"""Small image sets in every format."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image


def _encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def _folder(path, members):
    for name, content in members:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="session")
def encoded():
    """pixels, format -> the bytes of an image file."""
    return _encoded


@pytest.fixture(scope="session")
def write_files():
    """path, [(name, bytes)] -> path, as a .tar, a .zip or a folder by its suffix."""
    return lambda path, members: {".tar": _tar, ".zip": _zip}.get(path.suffix, _folder)(path, members)


@pytest.fixture(scope="session")
def pixels():
    """Six random colour images, uint8 (6, 9, 12, 3)."""
    return np.random.default_rng(0).integers(0, 256, (6, 9, 12, 3), np.uint8)


@pytest.fixture(scope="session")
def members(pixels):
    """The same as PNG files in two class folders, cat before dog, with a file that is no image."""
    files = [(f"{'cat' if i < 4 else 'dog'}/{i}.png", _encoded(image)) for i, image in enumerate(pixels)]
    return [*files, ("labels.txt", b"not an image")]


@pytest.fixture(scope="session")
def load_all():
    """Load a whole set at its own size."""

    def load(dataset, preprocessing, channels, height, width):
        return dataset.load(
            0, dataset.count, preprocessing=preprocessing, channels=channels, height=height, width=width
        )

    return load
