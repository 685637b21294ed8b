"""Finding an ONNX model's external data files without onnx.

Large models keep their weights in files beside the ``.onnx``; each tensor says where (``TensorProto.external_data``,
key ``location``, a path relative to the model's folder). This walks the protobuf wire format of the memory-mapped file,
along the few fields that lead to a tensor and skips all others by their length, so it costs neither the onnx package
nor the memory for the weights.
"""

from __future__ import annotations

import mmap
from pathlib import Path, PurePosixPath, PureWindowsPath

from lieaudit_client.exceptions import InvalidInputError

# Field numbers of onnx.proto that lead to a TensorProto: message kind -> field -> kind of the sub-message.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


class _MalformedError(Exception):
    """The bytes are not the protobuf message looked for."""


def external_data_locations(path: Path) -> tuple[str, ...]:
    """Return the sorted ``location`` of every external tensor of an ONNX file.

    A file that is not a protobuf message gives ``()``: the service says what is wrong with it. Raises OSError where the
    file cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return ()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return tuple(sorted(_locations(data)))
            except _MalformedError:
                return ()


def external_data_files(path: Path) -> tuple[tuple[str, Path], ...]:
    """Return (location, file) of every external data file of an ONNX file.

    Model and data may both be links to files of one real folder, as in a model hub's cache; no other link is followed.

    Raises
    ------
    InvalidInputError
        Where a location leaves the model's folder (a hostile model would have the caller's files sent), or where the
        file is missing.
    """
    folder = path.parent.resolve()
    found = []
    for location in external_data_locations(path):
        pure = PurePosixPath(location)
        strange = "\\" in location or "\0" in location or ".." in pure.parts
        inside = location and not (strange or pure.is_absolute() or PureWindowsPath(location).drive)
        file = folder / location
        if not (inside and (file.resolve().is_relative_to(folder) or _linked_alike(file, path))):
            raise InvalidInputError(
                f"{path.name}: the external data path {location!r} leaves the model's folder",
                reason="EXTERNAL_DATA_OUTSIDE",
                subject=location,
                hint="put the data beside the model and save it with relative paths",
            )
        if not file.is_file():
            raise InvalidInputError(
                f"{path.name}: its external data file {location!r} is missing",
                reason="EXTERNAL_DATA_MISSING",
                subject=location,
                hint=f"put it in {path.parent}",
            )
        found.append((pure.as_posix(), file))
    return tuple(found)


def _linked_alike(data: Path, model: Path) -> bool:
    return data.is_symlink() and model.is_symlink() and data.resolve().parent == model.resolve().parent


def _locations(data: mmap.mmap) -> set[str]:
    found: set[str] = set()
    waiting: list[tuple[str, int, int]] = [
        ("model", 0, len(data))
    ]  # a stack, not recursion: nesting is the file's choice
    while waiting:
        kind, position, end = waiting.pop()
        children = _FIELDS[kind]
        while position < end:
            key, position = _varint(data, position, end)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                _, position = _varint(data, position, end)
                continue
            if wire == _BYTES:
                size, position = _varint(data, position, end)
            elif wire in _FIXED:
                size = _FIXED[wire]
            else:
                raise _MalformedError
            if size > end - position:
                raise _MalformedError
            child = children.get(number) if wire == _BYTES else None
            if child == "entry":
                found |= _location(data, position, position + size)
            elif child is not None:
                waiting.append((child, position, position + size))
            position += size
    return found


def _location(data: mmap.mmap, position: int, end: int) -> set[str]:
    """Read one StringStringEntryProto: its value, if its key is ``location``."""
    texts = {1: b"", 2: b""}
    while position < end:
        key, position = _varint(data, position, end)
        if key & 7 != _BYTES:
            raise _MalformedError
        size, position = _varint(data, position, end)
        if size > min(end - position, 65536):
            raise _MalformedError
        texts[key >> 3] = data[position : position + size]
        position += size
    try:
        return {texts[2].decode()} if texts[1] == b"location" else set()
    except UnicodeDecodeError as problem:
        raise _MalformedError from problem


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _MalformedError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _MalformedError
