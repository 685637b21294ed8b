"""The files of a folder, .tar or .zip, read where they lie: nothing is ever extracted to disk.

A hostile archive is refused from its headers: names that leave it or come twice, links, devices, encryption, more files
or bytes than `Limits` allow, members packed too well to be true, a tar that stops early.
"""

from __future__ import annotations

import io
import lzma
import os
import stat
import struct
import tarfile
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from lieaudit.data.limits import Limits, check_sizes, too_large
from lieaudit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What tarfile, zipfile, zlib and numpy's header reader raise on damaged bytes, as found by fuzzing.
ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
)

_BLOCK = tarfile.BLOCKSIZE


class Files(Protocol):
    """An ordered set of files, and the folders among which they lie, as far as they are known."""

    names: tuple[str, ...]
    folders: tuple[str, ...]

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], BinaryIO]]:
        """Return a function that opens the file of an index, valid inside the context."""


class FolderFiles:
    """The files below a folder, hidden ones left out, sorted by path. Links to folders are not followed."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        paths: list[str] = []
        inside: list[str] = []
        for parent, folders, files in os.walk(folder, onerror=_unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside += [(Path(parent) / name).relative_to(folder).as_posix() for name in folders]
            paths += [(Path(parent) / name).relative_to(folder).as_posix() for name in files if name[0] != "."]
            if max(len(paths), len(inside)) > limits.members:
                raise too_large(f"{folder} holds over {limits.members} files", str(folder))
        self.names = tuple(sorted(paths))
        self.folders = tuple(sorted(inside))

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], BinaryIO]]:
        """Return a function that opens the file of an index."""
        yield self._open

    def _open(self, index: int) -> BinaryIO:
        path = self._folder / self.names[index]
        if not path.is_file():
            raise DataError(f"{path} is not a regular file", reason="BAD_IMAGE", subject=str(path))
        return io.BytesIO(path.read_bytes())


class TarFiles:
    """The regular files of an uncompressed .tar, sorted by name."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        members: list[tuple[str, int, int]] = []
        folders: list[tuple[str, int, int]] = []
        end = 0
        size = path.stat().st_size
        with archive_errors(path), path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise _damaged(path, "it is compressed: unpack it to a plain .tar")
            file.seek(0)
            with tarfile.open(fileobj=_Bounded(file, size), mode="r:") as tar:
                for member in tar:
                    _check_tar_member(path, member)
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK if member.isreg() else end
                    end = max(end, member.offset_data)
                    if end > size:
                        raise _truncated(path)
                    if member.isreg():
                        members.append((member.name, member.offset_data, member.size))
                    elif member.isdir():
                        folders.append((member.name, 0, 0))
                    if max(len(members), len(folders)) > limits.members:
                        raise too_large(f"{path.name} holds over {limits.members} files", path.name)
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):  # a complete tar ends in blocks of zeros
                raise _truncated(path)
        check_sizes(path.name, [(name, length, length) for name, _, length in members], limits)
        _check_distinct(path.name, [name for name, _, _ in members])
        members = _visible(members)
        self.folders = tuple(name for name, _, _ in _visible(folders))
        self.names = tuple(name for name, _, _ in members)
        self._spans = [(offset, length) for _, offset, length in members]

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], BinaryIO]]:
        """Return a function that opens the member of an index."""
        with self._path.open("rb") as file:

            def read(index: int) -> BinaryIO:
                offset, length = self._spans[index]
                file.seek(offset)
                data = file.read(length)
                if len(data) < length:
                    raise _truncated(self._path)
                return io.BytesIO(data)

            yield read


class ZipFiles:
    """The files of a .zip, sorted by name."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        with archive_errors(path):
            # Stays open: its directory of all members would be read again for every image. Reading is thread-safe.
            self._archive = zipfile.ZipFile(path)
            members = checked_zip_members(path.name, self._archive, limits)
            folders = [(member.filename, 0, 0) for member in self._archive.infolist() if member.is_dir()]
        self.folders = tuple(name for name, _, _ in _visible(folders))
        self.names = tuple(name for name, _, _ in _visible([(member.filename, 0, 0) for member in members]))

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], BinaryIO]]:
        """Return a function that opens the member of an index."""
        yield self._read

    def _read(self, index: int) -> BinaryIO:
        with archive_errors(self._path):
            return io.BytesIO(self._archive.read(self.names[index]))


def checked_zip_members(subject: str, archive: zipfile.ZipFile, limits: Limits) -> list[zipfile.ZipInfo]:
    """Return the files of a zip after checking names, kinds, encryption and declared sizes.

    Raises
    ------
    DataError
        ``UNSAFE_ARCHIVE``, ``TOO_LARGE``, ``DAMAGED_ARCHIVE``.
    """
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        _check_name(subject, member.filename)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _unsafe(subject, member.filename, "is a link")
        if member.flag_bits & 0x1:
            raise _unsafe(subject, member.filename, "is encrypted")
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise DataError(
                f"{member.filename!r} in {subject} uses compression method {member.compress_type}",
                reason="DAMAGED_ARCHIVE",
                subject=member.filename,
                hint="store it deflated or uncompressed",
            )
    check_sizes(subject, [(m.filename, m.compress_size, m.file_size) for m in members], limits)
    _check_distinct(subject, [member.filename for member in members])
    return members


@contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Turn what the archive libraries raise on damaged bytes into a `DataError`."""
    try:
        yield
    except ARCHIVE_ERRORS as error:
        if isinstance(error, tarfile.ReadError | EOFError) and "unexpected end" in str(error):
            raise _truncated(path) from error
        raise _damaged(path, f"{type(error).__name__}: {error!s:.200}") from error


class _Bounded(io.RawIOBase):
    """A file whose ``read(n)`` never asks for more than is there.

    tarfile reads long names and PAX headers of whatever size they claim in one call, and Python allocates
    that first.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _check_tar_member(path: Path, member: tarfile.TarInfo) -> None:
    _check_name(path.name, member.name)
    if member.issym() or member.islnk():
        raise _unsafe(path.name, member.name, "is a link")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _unsafe(path.name, member.name, "is neither a plain file nor a folder")
    if member.size < 0:
        raise _damaged(path, f"{member.name!r} has a negative size")


def _check_name(subject: str, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or "\0" in name or ".." in parts or parts[0] == "/" or parts[0].endswith(":"):
        raise _unsafe(subject, name, "has a name that leaves the archive")


def _check_distinct(subject: str, names: list[str]) -> None:
    """Refuse a name that comes twice: which of its contents is meant, every reader decides in its own way."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _unsafe(subject, name, "comes twice")
        seen.add(name)


def _visible(members: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    def hidden(name: str) -> bool:
        return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)

    return sorted(member for member in members if not hidden(member[0]))


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"{error.filename} cannot be read: {error.strerror}", reason="NOT_FOUND", subject=str(error.filename)
    ) from error


def _unsafe(subject: str, name: str, problem: str) -> DataError:
    return DataError(
        f"{name!r:.200} in {subject} {problem}",
        reason="UNSAFE_ARCHIVE",
        subject=name[:200],
        hint="pack plain image files with relative names",
    )


def _truncated(path: Path) -> DataError:
    return DataError(
        f"{path.name} ends before its content does",
        reason="TRUNCATED",
        subject=path.name,
        hint="copy or upload it again",
    )


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path.name} is not a readable archive: {problem}", reason="DAMAGED_ARCHIVE", subject=path.name)
