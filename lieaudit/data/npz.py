"""Read ``x``, ``y`` and whatever else is asked for from an .npz, unpickling nothing and trusting no header."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.data.archive import archive_errors, checked_zip_members
from lieaudit.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from lieaudit.data.limits import Limits

_MAX_HEADER = 10_000


def read_npz(path: Path, limits: Limits) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return the arrays ``x`` and, where there is one, ``y``, as stored.

    Raises
    ------
    DataError
        ``DAMAGED_ARCHIVE``, ``TRUNCATED``, ``UNSAFE_ARCHIVE``, ``TOO_LARGE``, ``MISSING_ARRAY``,
        ``PICKLED_OBJECTS``.
    """
    with archive_errors(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in checked_zip_members(path.name, archive, limits)}
        if "x.npy" not in members:
            raise DataError(
                f"{path.name} holds no array x",
                reason="MISSING_ARRAY",
                subject="x",
                hint=f"save with numpy.savez(path, x=…, y=…); it holds {', '.join(sorted(members))[:200]}",
            )
        x = _read_array(archive, members["x.npy"], path.name)
        y = _read_array(archive, members["y.npy"], path.name) if "y.npy" in members else None
    return x, y


def read_named(path: Path, name: str, limits: Limits) -> npt.NDArray[Any] | None:
    """Return the array ``name``, as stored; None where the .npz holds none. Raises `DataError` as `read_npz` does."""
    with archive_errors(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in checked_zip_members(path.name, archive, limits)}
        member = members.get(f"{name}.npy")
        return None if member is None else _read_array(archive, member, path.name)


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, subject: str) -> npt.NDArray[Any]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:  # 3.0 exists for structured types with unicode field names only
            raise ValueError(f"npy format {version}")
        shape, fortran_order, dtype = read_header(file, max_header_size=_MAX_HEADER)
        if dtype.hasobject:
            raise DataError(
                f"{member.filename} in {subject} holds pickled objects, which are never loaded",
                reason="PICKLED_OBJECTS",
                subject=member.filename,
                hint="save plain numeric arrays",
            )
        count = 1
        for length in shape:
            if length < 0:
                raise ValueError(f"negative length in shape {shape}")
            count *= length
        size = count * dtype.itemsize
        held = member.file_size - file.tell()
        if size != held:
            raise DataError(
                f"{member.filename} in {subject} declares {size} bytes of data and holds {held}",
                reason="TRUNCATED",
                subject=member.filename,
                hint="copy or upload it again",
            )
        flat = np.frombuffer(_read_all(file, size), dtype, count)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _read_all(file: Any, size: int) -> bytearray:
    data = bytearray(size)
    view, position = memoryview(data), 0
    while position < size:
        chunk = file.read(min(size - position, 2**20))
        if not chunk:
            raise EOFError("unexpected end of data")
        view[position : position + len(chunk)] = chunk
        position += len(chunk)
    if file.read(1):  # also makes zipfile compare the checksum
        raise ValueError("more data than declared")
    return data
