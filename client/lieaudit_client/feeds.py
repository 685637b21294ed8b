"""Values for a graph's inputs beside the image, as messages: from text, from .npy files, from Python. Without numpy."""

from __future__ import annotations

import ast
import itertools
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from lieaudit_api.v1 import spec_pb2

from lieaudit_client.exceptions import InvalidInputError

MAX_BYTES = 2**20
"""Of one value; the service holds all of them together to it."""

_DTYPES = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16",
    "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64",
}  # fmt: skip
_PACKED = {"bool": "?", "int64": "q", "float64": "d"}
_MAGIC = b"\x93NUMPY"


def to_tensor(value: Any, name: str) -> spec_pb2.Tensor:
    """Return the message of a value.

    Parameters
    ----------
    value
        A number or boolean, nested lists of them, an array (of numpy, or with its ``dtype``, ``shape`` and
        ``tobytes``), the message itself, or its JSON form.

    Raises
    ------
    InvalidInputError
        INVALID_FEED: it is none of these, its lists have different lengths, or it is too large.
    """
    if isinstance(value, spec_pb2.Tensor):
        return value
    if isinstance(value, Mapping):
        try:
            return json_format.ParseDict(dict(value), spec_pb2.Tensor())
        except json_format.ParseError as problem:
            raise _invalid(name, f"it cannot be read: {problem}") from problem
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        plain = value.astype(value.dtype.newbyteorder("<"))
        return _checked(spec_pb2.Tensor(dtype=plain.dtype.name, shape=plain.shape, data=plain.tobytes()), name)
    shape, items = _flattened(value, name)
    return _packed(shape, items, name)


def parse_feed(text: str) -> tuple[str, spec_pb2.Tensor]:
    """Read ``NAME=VALUE`` or ``NAME=FILE.npy``.

    VALUE is a number, ``true`` or ``false``, several of them with commas between, or nested lists in brackets.

    Raises
    ------
    InvalidInputError
        INVALID_FEED, UNREADABLE_FILE.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise _invalid(name or "?", f"{text!r:.80} is not NAME=VALUE or NAME=FILE.npy")
    if value.endswith(".npy"):
        return name, read_npy(Path(value), name)
    try:
        found = json.loads(value if value.lstrip().startswith("[") or "," not in value else f"[{value}]")
    except (ValueError, RecursionError) as problem:
        hint = "a number, true, false, 640,480, [[1,2],[3,4]], or a file whose name ends in .npy"
        raise _invalid(name, f"{value!r:.80} is no value", hint) from problem
    return name, _packed(*_flattened(found, name), name)


def parse_field(text: str) -> tuple[str, spec_pb2.Tensor]:
    """Read a field: ``NAME=a,b,c;d,e,f``, or ``NAME=FILE.npy`` with the displacements of the pixels (H, W, 2).

    Raises
    ------
    InvalidInputError
        INVALID_SPEC, UNREADABLE_FILE.
    """
    name, equals, value = text.partition("=")
    said = f"{text!r:.80} is not NAME=a,b,c;d,e,f or NAME=FILE.npy"
    if not (name and equals and value):
        raise InvalidInputError(said, reason="INVALID_SPEC", subject="custom")
    if value.endswith(".npy"):
        try:
            return name, read_npy(Path(value), name)
        except InvalidInputError as problem:
            if problem.reason == "UNREADABLE_FILE":
                raise
            raise InvalidInputError(
                f"custom.{name}: {problem.message.partition(': ')[2]}",
                reason="INVALID_SPEC",
                subject=f"custom.{name}",
                hint="store displacements (H, W, 2) as float32 or float16",
            ) from problem
    try:
        rows = [[float(number) for number in row.split(",")] for row in value.split(";")]
    except ValueError as problem:
        raise InvalidInputError(said, reason="INVALID_SPEC", subject=f"custom.{name}") from problem
    if [len(row) for row in rows] != [3, 3] or not all(math.isfinite(number) for row in rows for number in row):
        raise InvalidInputError(
            said, reason="INVALID_SPEC", subject=f"custom.{name}", hint="two rows of three finite numbers"
        )
    return name, _packed([2, 3], [number for row in rows for number in row], name)


def _flattened(value: Any, name: str) -> tuple[list[int], list[Any]]:
    """Return the shape and the numbers of nested lists."""
    shape: list[int] = []
    level = [value]
    while any(isinstance(item, Sequence) and not isinstance(item, str) for item in level):
        if not all(isinstance(item, Sequence) and len(item) == len(level[0]) for item in level):
            raise _invalid(name, "its rows have different lengths")
        shape.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    return shape, level


def _packed(shape: list[int], items: list[Any], name: str) -> spec_pb2.Tensor:
    kinds = {type(item) for item in items}
    if not kinds <= {bool, int, float} or (bool in kinds and len(kinds) > 1):
        raise _invalid(name, "it must hold numbers, or true and false")
    dtype = "bool" if bool in kinds else ("float64" if float in kinds or not kinds else "int64")
    try:
        data = struct.pack(f"<{len(items)}{_PACKED[dtype]}", *items)
    except (struct.error, OverflowError) as problem:
        raise _invalid(name, "it holds a number that does not fit 64 bits") from problem
    return _checked(spec_pb2.Tensor(dtype=dtype, shape=shape, data=data), name)


def read_npy(path: Path, name: str) -> spec_pb2.Tensor:
    """Read an .npy file of plain numbers. Raises `InvalidInputError` INVALID_FEED, UNREADABLE_FILE."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 2**16)
    except OSError as problem:
        raise InvalidInputError(
            f"cannot read {path}: {problem.strerror}", reason="UNREADABLE_FILE", subject=str(path)
        ) from problem
    try:
        return _checked(_from_npy(content), name)
    except (ValueError, KeyError, IndexError, SyntaxError, TypeError, struct.error, RecursionError) as problem:
        raise _invalid(
            name,
            f"{path} is no .npy file of plain numbers: {problem}",
            "save it with numpy.save(path, numpy.ascontiguousarray(array))",
        ) from problem


def _from_npy(content: bytes) -> spec_pb2.Tensor:
    """Read format 1.0 or 2.0. Raises ValueError and its kin where it is none, or holds objects."""
    if not content.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    wide = content[6] >= 2
    (length,) = struct.unpack_from("<I" if wide else "<H", content, 8)
    start = 12 if wide else 10
    header = ast.literal_eval(content[start : start + length].decode("latin-1"))
    order, kind = header["descr"][0], header["descr"][1:]
    shape, data = list(header["shape"]), content[start + length :]
    if kind not in _DTYPES or order not in "<|" or (header["fortran_order"] and len(shape) > 1):
        raise ValueError(f"its type {header['descr']} or order of elements is not one that is read")
    tensor = spec_pb2.Tensor(dtype=_DTYPES[kind], shape=shape, data=data)
    if len(data) <= MAX_BYTES and len(data) != math.prod(shape) * int(kind[1:]):
        raise ValueError(f"it holds {len(data)} bytes for shape {tuple(shape)}")
    return tensor


def _checked(tensor: spec_pb2.Tensor, name: str) -> spec_pb2.Tensor:
    if len(tensor.data) > MAX_BYTES:
        raise _invalid(
            name,
            f"it takes more than {MAX_BYTES} bytes",
            f"store it in the .npz of the images, as an array named {name!r}",
        )
    return tensor


def _invalid(name: str, problem: str, hint: str = "") -> InvalidInputError:
    return InvalidInputError(f"feeds.{name}: {problem}", reason="INVALID_FEED", subject=f"feeds.{name}", hint=hint)
