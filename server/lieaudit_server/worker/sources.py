"""Blobs as the worker reads them: models as copies in its own folder, where they find their external data only."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lieaudit.errors import LieauditError, ModelError

_SUFFIXES = {"onnx": ".onnx", "tar": ".tar", "pt2": ".pt2", "safetensors": ".safetensors", "npz": ".npz", "zip": ".zip"}
_CHUNK = 2**20


class DamagedBlobError(LieauditError):
    """A blob's content is no longer what its name says."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob as the job describes it."""

    path: Path
    sha256: str
    name: str
    format: str


def check_content(blob: Blob) -> None:
    """Compare a blob's content with its name. Raises `DamagedBlobError`."""
    try:
        with blob.path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise _damaged(blob, f"it cannot be read ({problem.strerror})") from problem
    if actual != blob.sha256:
        raise _damaged(blob, "its checksum has changed")


def place(blob: Blob, folder: Path) -> Path:
    """Check a blob's content against its name and copy it, under the user's name for it, into an empty folder.

    A file of its own folder cannot reach other blobs by a relative external-data path; a copy cannot be written through
    to the blob, as a link could. Raises `DamagedBlobError`.
    """
    check_content(blob)
    folder.mkdir(mode=0o700)
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", PurePosixPath(blob.name).name)[:100].lstrip(".") or "blob"
    suffix = _SUFFIXES[blob.format]
    target = folder / (stem if stem.endswith(suffix) else stem + suffix)
    with blob.path.open("rb") as source, target.open("wb") as copy:
        size = os.fstat(source.fileno()).st_size
        while size > 0 and (done := os.sendfile(copy.fileno(), source.fileno(), None, size)):
            size -= done
    return target


def _damaged(blob: Blob, why: str) -> DamagedBlobError:
    return DamagedBlobError(
        f"the stored content is damaged: {why}", reason="BLOB_DAMAGED", subject=blob.sha256, hint="upload it again"
    )


def model_file(blob: Blob, folder: Path, max_bytes: int, max_members: int) -> Path:
    """Return the path of the model: the blob itself, or the one .onnx file of a tar, unpacked beside its data files.

    Raises `ModelError` where the archive holds anything but plain files below its root, is too large, or does not
    hold exactly one .onnx file.
    """
    path = place(blob, folder)
    if blob.format != "tar":
        return path
    unpacked = folder / "unpacked"
    unpacked.mkdir(mode=0o700)
    unpack(path, unpacked, max_bytes, max_members)
    models = sorted(unpacked.rglob("*.onnx"))
    if len(models) != 1:
        raise _archive_error("ARCHIVE_MODEL", f"the tar holds {len(models)} .onnx files, not one", "archive")
    return models[0]


def unpack(archive: Path, target: Path, max_bytes: int, max_members: int) -> None:
    """Unpack an uncompressed tar of plain files into ``target``.

    Raises `ModelError` on links, devices, absolute names, names with ``..``, and beyond the limits.
    """
    total = members = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                members += 1
                total += max(member.size, 0)
                if members > max_members or total > max_bytes:
                    raise _archive_error(
                        "ARCHIVE_TOO_LARGE", "the tar unpacks to more than the server allows", member.name
                    )
                parts = PurePosixPath(member.name).parts
                if member.isdir() and ".." not in parts and not member.name.startswith("/"):
                    continue
                if not member.isreg() or member.issparse() or not parts or ".." in parts or member.name.startswith("/"):
                    raise _archive_error(
                        "ARCHIVE_UNSAFE", "the tar may hold plain files below its root only", member.name
                    )
                _copy(tar, member, target.joinpath(*parts))
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as problem:
        raise _archive_error("NOT_AN_ARCHIVE", "not an uncompressed tar archive", "archive") from problem
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as problem:
        raise _archive_error("ARCHIVE_UNSAFE", "the tar names a file twice", "archive") from problem
    except OSError as problem:
        if problem.errno != errno.ENAMETOOLONG:
            raise
        name = PurePosixPath(str(problem.filename)).name
        raise _archive_error(
            "ARCHIVE_NAME_TOO_LONG", f"a name in the tar is too long for a file system: {name[:80]}…", name
        ) from problem


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None  # noqa: S101 - a regular member has content
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)


def _archive_error(reason: str, message: str, subject: str) -> ModelError:
    return ModelError(
        message, reason=reason, subject=subject[:200], hint="tar cf model.tar model.onnx and its external-data files"
    )
