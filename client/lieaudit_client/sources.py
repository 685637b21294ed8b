"""What is uploaded: a model or dataset as a stream of bytes that can be read from any offset.

A folder of images, or a model with external data, is sent as one tar. It is never written to disk: a tar is headers and
the files' own bytes in a row, so it is read on the fly, and the same files always give the same bytes (sorted names, no
times, no owners), hence the same sha256, hence nothing to send the second time.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.external_data import external_data_files

CHUNK_BYTES = 1024 * 1024
_BLOCK = 512  # of a tar
MODEL_FORMATS = {".onnx": "onnx", ".tar": "tar", ".pt2": "pt2", ".safetensors": "safetensors"}
DATASET_FORMATS = {".npz": "npz", ".tar": "tar", ".zip": "zip"}
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


@dataclass(frozen=True, slots=True)
class FilePart:
    """A whole file as it was when the source was opened."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes to upload: ``parts`` one after the other.

    Attributes
    ----------
    name
        What the user calls it; bytes of a file name that are no UTF-8 are written as escapes.
    format
        ``onnx``, ``tar``, ``pt2``, ``safetensors``, ``npz`` or ``zip``.
    """

    name: str
    format: str
    parts: tuple[bytes | FilePart, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(len(part) if isinstance(part, bytes) else part.size for part in self.parts)

    def sha256(self) -> str:
        """Return the digest of all bytes, lower-case hex. Raises `InvalidInputError` where a file cannot be read."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Return the bytes from ``offset`` on in pieces of `CHUNK_BYTES`, the last one shorter.

        Raises
        ------
        InvalidInputError
            Where a file cannot be read, or is no longer as long as it was.
        """
        waiting = bytearray()
        for piece in self._pieces(offset):
            waiting += piece
            while len(waiting) >= CHUNK_BYTES:
                yield bytes(waiting[:CHUNK_BYTES])
                del waiting[:CHUNK_BYTES]
        if waiting:
            yield bytes(waiting)

    def _pieces(self, offset: int) -> Iterator[bytes]:
        for part in self.parts:
            size = len(part) if isinstance(part, bytes) else part.size
            if offset >= size:
                offset -= size
            elif isinstance(part, bytes):
                yield part[offset:]
                offset = 0
            else:
                yield from _read(part, offset)
                offset = 0


def refuse_swapped(model: str | Path | bytes, data: str | Path) -> None:
    """Raise `InvalidInputError` where model and images are in each other's place."""
    if isinstance(model, bytes) or Path(data).suffix.lower() not in {".onnx", ".pt2", ".safetensors"}:
        return
    if Path(model).is_dir() or Path(model).suffix.lower() in {".npz", ".zip"}:
        raise InvalidInputError(
            f"model and images are swapped: {model} holds images, and {data} is a model",
            reason="SWAPPED",
            subject=str(model),
            hint=f"first the model, then the images: {data} --data {model}",
        )


def model_source(model: str | Path | bytes) -> Source:
    """Open a model: a path to ``.onnx``, ``.tar``, ``.pt2`` or ``.safetensors``, or the bytes of an ONNX model.

    The external data files of an ``.onnx`` come along. Raises `InvalidInputError` where it is missing or a
    folder, or where its external data leave its folder.
    """
    if isinstance(model, bytes):
        return Source("model.onnx", "onnx", (model,))
    path = _existing(Path(model), "model")
    if path.is_dir():
        raise InvalidInputError(
            f"{path} is a folder",
            reason="NOT_A_FILE",
            subject=str(path),
            hint="give the .onnx file; its data files come along",
        )
    kind = MODEL_FORMATS.get(path.suffix.lower(), "onnx")
    if kind == "onnx":
        try:
            companions = external_data_files(path)
        except OSError as problem:
            raise _unreadable(path, problem) from problem
        if companions:
            name = path.name if path.suffix == ".onnx" else f"{path.name}.onnx"  # how the service finds the graph
            return Source(_shown(path.name), "tar", tar_parts([(name, path), *companions]))
    return Source(_shown(path.name), kind, (_file(path),))


def dataset_source(data: str | Path) -> Source:
    """Open a dataset: ``.npz``, ``.tar`` or ``.zip``, or a folder of images (sent as a tar of the images in it).

    Raises `InvalidInputError` where it is missing, of no such kind, or a folder without images.
    """
    path = _existing(Path(data), "data")
    if not path.is_dir():
        kind = DATASET_FORMATS.get(path.suffix.lower())
        if kind is None:
            raise InvalidInputError(
                f"{path.name} is no dataset",
                reason="UNKNOWN_FORMAT",
                subject=str(path),
                hint="give an .npz (x, optional y), a folder of images, or a .tar or .zip of one",
            )
        return Source(_shown(path.name), kind, (_file(path),))
    files = [
        (found.relative_to(path).as_posix(), found)
        for folder, _, names in os.walk(path, onerror=_unwalkable)
        for found in (Path(folder, name) for name in names)
        if found.suffix.lower() in IMAGE_SUFFIXES and found.is_file()
    ]
    if not files:
        raise InvalidInputError(
            f"the folder {path} holds no images",
            reason="NO_IMAGES",
            subject=str(path),
            hint=f"looked for {' '.join(sorted(IMAGE_SUFFIXES))}, in sub-folders too",
        )
    return Source(_shown(path.resolve().name), "tar", tar_parts(files, _empty_folders(path, files)))


def _empty_folders(path: Path, files: list[tuple[str, Path]]) -> list[str]:
    """Name the folders without an image: a class folder that is left out would shift the numbers of the others."""
    full = {parent for name, _ in files for parent in PurePosixPath(name).parents}
    return [
        relative.as_posix()
        for folder, names, _ in os.walk(path)
        for relative in (Path(folder, name).relative_to(path) for name in names)
        if PurePosixPath(relative) not in full and not any(part.startswith(".") for part in relative.parts)
    ]


def tar_parts(files: list[tuple[str, Path]], folders: list[str] | None = None) -> tuple[bytes | FilePart, ...]:
    """Lay out a tar of (name in the archive, file), and of folders without any: equal contents give equal bytes."""
    parts: list[bytes | FilePart] = []
    for name in sorted(folders or []):
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE
        parts.append(info.tobuf(format=tarfile.PAX_FORMAT))
    for name, path in sorted(files):
        content = _file(path)
        info = tarfile.TarInfo(name)  # time, owner and mode are the constants of TarInfo
        info.size = content.size
        parts += [info.tobuf(format=tarfile.PAX_FORMAT), content, bytes(-content.size % _BLOCK)]
    return (*parts, bytes(2 * _BLOCK))


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise InvalidInputError(f"{what}: there is no {path}", reason="NOT_FOUND", subject=str(path))
    return path


def _file(path: Path) -> FilePart:
    try:
        return FilePart(path, path.stat().st_size)
    except OSError as problem:
        raise _unreadable(path, problem) from problem


def _read(part: FilePart, offset: int) -> Iterator[bytes]:
    left = part.size - offset
    try:
        with part.path.open("rb") as file:
            file.seek(offset)
            while left and (piece := file.read(min(left, CHUNK_BYTES))):
                left -= len(piece)
                yield piece
    except OSError as problem:
        raise _unreadable(part.path, problem) from problem
    if left:
        raise InvalidInputError(
            f"{part.path} became shorter while it was read",
            reason="FILE_CHANGED",
            subject=str(part.path),
            hint="try again",
        )


def _unwalkable(problem: OSError) -> None:
    raise _unreadable(Path(str(problem.filename)), problem)


def _unreadable(path: Path, problem: OSError) -> InvalidInputError:
    return InvalidInputError(f"cannot read {path}: {problem.strerror}", reason="UNREADABLE_FILE", subject=str(path))
