"""The images of an audit, whatever they are stored in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from lieaudit.data.archive import Files, FolderFiles, TarFiles, ZipFiles
from lieaudit.data.arrays import ArrayImages, check_labels
from lieaudit.data.classes import ClassFolders, class_folders
from lieaudit.data.files import FileImages, printable_name
from lieaudit.data.limits import Limits
from lieaudit.data.npz import read_named, read_npz
from lieaudit.data.preprocess import (
    is_identity,
    normalisation_table,
    normalise,
    required,
    resize_and_crop,
    resized_shape,
)
from lieaudit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lieaudit.spec import Preprocessing


class _Images(Protocol):
    count: int
    dtype: str
    shape: tuple[int, int, int] | None

    def read(self, start: int, stop: int, channels: int | None) -> Iterator[npt.NDArray[np.uint8]]: ...


class Dataset:
    """A fixed, ordered set of images with optional labels; pixels are read when `load` asks for them.

    Attributes
    ----------
    count
        Number of images, at least 1.
    dtype
        ``uint8`` (raw, needs preprocessing) or ``float32`` (as the model takes it).
    name
        What the user calls it, for reports.
    sha256
        Lower-case hex: of the file's bytes; of a folder's names and files; of arrays' dtypes, shapes, bytes.
    labels
        (count,) int64, or None. Class folders are numbered in sorted order of their names; which classes of a model
        they are says `lieaudit.data.classes.match_classes`.
    class_folders
        The class folders of image files, or None.
    image_shape
        Stored (C, H, W) of every image, or None where they differ.
    notes
        What a reader of the report should know about how the set was read.
    """

    def __init__(
        self,
        images: _Images,
        *,
        labels: npt.NDArray[np.int64] | None,
        class_folders: ClassFolders | None = None,
        name: str,
        sha256: str,
        notes: tuple[str, ...] = (),
        further: Callable[[str], npt.NDArray[Any] | None] = lambda _: None,
    ) -> None:
        self._images = images
        self.count = images.count
        self.dtype = images.dtype
        self.image_shape = images.shape
        self.labels = labels
        self.class_folders = class_folders
        self.name = name
        self.sha256 = sha256
        self.notes = notes
        self._further = further

    def __len__(self) -> int:
        return self.count

    @classmethod
    def from_arrays(
        cls,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        name: str = "",
        further: Mapping[str, npt.ArrayLike] | None = None,
    ) -> Self:
        """Make a dataset of arrays in memory.

        Parameters
        ----------
        x
            uint8 (N, H, W, C) raw, or float32 (N, C, H, W) as the model takes it.
        y
            (N,) non-negative integers.
        further
            Values of further inputs of the graph, by name; see `array`.

        Raises
        ------
        DataError
            ``WRONG_DTYPE``, ``WRONG_SHAPE``, ``WRONG_CHANNELS``, ``NO_IMAGES``, ``NON_FINITE``,
            ``BAD_LABELS``.
        """
        x = np.asarray(x)
        y = None if y is None else np.asarray(y)
        images = ArrayImages(x)
        labels = check_labels(y, images.count)
        digest = hashlib.sha256()
        others = {key: np.asarray(value) for key, value in sorted((further or {}).items())}
        named = [("", x), *(() if y is None else (("", y),)), *((f"{key}=", value) for key, value in others.items())]
        for prefix, array in named:
            digest.update(f"{prefix}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return cls(images, labels=labels, name=name, sha256=digest.hexdigest(), further=others.get)

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Return an array that lies beside the images under ``name``, as stored: the value of a graph's further input.

        None where there is none. Raises `DataError` where it is there and cannot be read.
        """
        return None if name in {"x", "y"} else self._further(name)

    def size_after(self, preprocessing: Preprocessing | None) -> tuple[int, int] | None:
        """Return the (H, W) all images have once resized and cropped, or None where they would differ."""
        if self.image_shape is not None:
            _, height, width = self.image_shape
            return (height, width) if preprocessing is None else resized_shape(preprocessing, height, width)
        crop = preprocessing.crop if preprocessing else None
        return None if crop is None else (crop, crop)

    def load(
        self,
        start: int,
        stop: int,
        *,
        preprocessing: Preprocessing | None,
        channels: int,
        height: int,
        width: int,
    ) -> npt.NDArray[np.float32]:
        """Return images ``start:stop`` as the model takes them.

        Image files are converted to the model's channels; arrays must have them.

        Returns
        -------
        (stop − start, channels, height, width) float32, a new array.

        Raises
        ------
        DataError
            ``PREPROCESSING_REQUIRED``, ``PREPROCESSING_REFUSED``, ``INVALID_PREPROCESSING``,
            ``WRONG_CHANNELS``, ``WRONG_SIZE``, and what reading the files raises.
        IndexError
            The range leaves the set.
        """
        if not 0 <= start < stop <= self.count:
            raise IndexError(f"images {start}:{stop} of {self.count}")
        if isinstance(self._images, ArrayImages):
            self._images.check_channels(channels)
            if self._images.floats is not None:
                _refuse(preprocessing)
                images = self._images.floats[start:stop]
                _check_size(
                    images.shape[2:],
                    (height, width),
                    "the images",
                    "resize them, or export the model with open height and width",
                )
                return images.copy()
        preprocessing = required(preprocessing, self.name or "the dataset")
        table = normalisation_table(preprocessing, channels)
        ready: list[npt.NDArray[np.uint8]] = []
        for row, image in enumerate(self._images.read(start, stop, channels)):
            subject = f"image {start + row}"
            ready.append(resize_and_crop(image, preprocessing, subject))
            side = f"add resize={height},crop={height} to --preprocess"
            hint = side if height == width else f"resize the files to {height}×{width}"
            _check_size(ready[-1].shape[:2], (height, width), subject, hint)
        return normalise(np.stack(ready), table, preprocessing.order)

    def raw(self, index: int, preprocessing: Preprocessing | None = None) -> npt.NDArray[np.uint8] | None:
        """Return one image for a picture: uint8 (H, W, C) in RGB, or None for float32 data.

        With `preprocessing`, after its resize and crop: the pixels that the model sees.
        """
        if self.dtype != "uint8":
            return None
        image = next(self._images.read(index, index + 1, None))
        return image if preprocessing is None else resize_and_crop(image, preprocessing, f"image {index}")

    def zero_point(self, preprocessing: Preprocessing | None, channels: int) -> npt.NDArray[np.float32]:
        """Return the value raw 0 takes after normalisation, (channels,); 0 for float32 data, taken as it is."""
        if self.dtype != "uint8":
            return np.zeros(channels, np.float32)
        return normalisation_table(required(preprocessing, self.name or "the dataset"), channels)[:, 0].copy()


def open_dataset(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the same field's name in the gRPC interface
    *,
    name: str | None = None,
    limits: Limits | None = None,
) -> Dataset:
    """Open images on disk.

    Parameters
    ----------
    path
        An .npz (``x``: uint8 NHWC or float32 NCHW; ``y``: optional labels), a folder of images, or a .tar
        or .zip of one.
    format
        ``npz``, ``tar``, ``zip`` or ``folder``; None: a folder, or what the suffix says.
    name
        For the report; None: the file's name.

    Raises
    ------
    DataError
        With one of the reasons in `lieaudit.data.limits`.
    """
    path = Path(path)
    limits = limits or Limits()
    name = printable_name(path.name) if name is None else name
    try:
        is_folder, size = path.is_dir(), path.stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", reason="NOT_FOUND", subject=str(path)) from error
    kind = format or ("folder" if is_folder else path.suffix.lower().lstrip("."))
    if kind not in {"npz", "tar", "zip", "folder"} or (kind == "folder") != is_folder:
        raise DataError(
            f"{path.name} is not a dataset format that is read",
            reason="UNKNOWN_FORMAT",
            subject=path.name,
            hint="give an .npz with x and y, a folder of images, or a .tar or .zip of one",
        )
    if size == 0 and kind != "folder":
        raise DataError(f"{path.name} is empty: 0 bytes", reason="EMPTY_FILE", subject=path.name)
    if kind == "npz":
        x, y = read_npz(path, limits)
        images = ArrayImages(x)
        return Dataset(
            images,
            labels=check_labels(y, images.count),
            name=name,
            sha256=_file_sha256(path),
            further=lambda array: read_named(path, array, limits),
        )
    readers: dict[str, Callable[[Path, Limits], Files]] = {
        "tar": TarFiles,
        "zip": ZipFiles,
        "folder": FolderFiles,
    }
    files = readers[kind](path, limits)
    file_images = FileImages(files, path.name, limits)
    sha256 = file_images.sha256() if kind == "folder" else _file_sha256(path)
    found, labels = class_folders(
        [printable_name(files.names[i]) for i in file_images.indices], [printable_name(name) for name in files.folders]
    )
    notes = (*file_images.notes, *(found.notes if found is not None else ()))
    return Dataset(file_images, labels=labels, class_folders=found, name=name, sha256=sha256, notes=notes)


def _refuse(preprocessing: Preprocessing | None) -> None:
    if preprocessing is not None and not is_identity(preprocessing):
        raise DataError(
            f"float32 images are taken as they are, but preprocessing {preprocessing.name!r} was given",
            reason="PREPROCESSING_REFUSED",
            subject="preprocessing",
            hint="leave --preprocess out, or store the raw images as uint8",
        )


def _check_size(found: tuple[int, ...], wanted: tuple[int, int], subject: str, hint: str) -> None:
    if tuple(found) != wanted:
        raise DataError(
            f"{subject}: {found[0]}×{found[1]} pixels, the model takes {wanted[0]}×{wanted[1]}",
            reason="WRONG_SIZE",
            subject=subject,
            hint=hint,
        )


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
