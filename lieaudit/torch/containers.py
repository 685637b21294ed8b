"""Reading uploaded sources without running anything in them: .pt2 archives and safetensors files.

``torch.export.load`` is not used: on an untrusted archive it unpickles (weights flagged ``use_pickle``, custom objects,
sample inputs), evaluates symbolic shape strings (sympy), executes ``guards_code``, resolves any attribute of torch
(``torch.os.system``) as an operator and compiles node names into Python. Here the archive is read with `zipfile` and
`json`, every member must be of a known kind, and a pickle is never loaded: the only one that `torch.export.save`
always writes (the sample inputs) is scanned for what it would import, and then left alone.

No torch is needed for reading, so that a server can check an upload before it has a worker.
"""

from __future__ import annotations

import json
import math
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from lieaudit.errors import SourceError

_JSON_LIMIT = 256 * 2**20
_MEMBERS_LIMIT = 100_000
_PLAIN = {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", "version"}
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_MODEL = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"
_HARMLESS = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils (_rebuild_tensor(_v2)?|_rebuild_parameter)"
    r"|torch (\w+Storage|Size|device|float16|bfloat16|float32|float64|int32|int64|bool|uint8)"
    r"|torch\.storage (Typed|Untyped)Storage"
)
_SAVED = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
)
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Bits of an element, by the names of dtypes in safetensors headers."""
_EXECUTABLE = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


@dataclass(frozen=True, slots=True)
class Pt2Archive:
    """The parts of a .pt2 archive: the program, and for each weight or constant its description and raw bytes."""

    program: Mapping[str, Any]
    weights: Mapping[str, Any]
    constants: Mapping[str, Any]
    payloads: Mapping[str, bytes]


def read_pt2(source: str | Path | bytes) -> Pt2Archive:
    """Read a torch.export archive.

    Parameters
    ----------
    source
        A path or the archive's bytes, as written by ``torch.export.save`` of torch ≥ 2.9.

    Raises
    ------
    SourceError
        Not a zip archive, a member of an unknown kind (compiled code, custom objects), a pickled weight, a pickle that
        would import anything but tensors, members that hide behind each other, or malformed JSON.
    """
    return _opened(source, payloads=True)


def check_pt2(source: str | Path | bytes) -> None:
    """Check a torch.export archive without keeping its weights in memory; raises as `read_pt2`."""
    _opened(source, payloads=False)


def _opened(source: str | Path | bytes, *, payloads: bool) -> Pt2Archive:
    try:
        with zipfile.ZipFile(BytesIO(source) if isinstance(source, bytes) else source) as archive:
            return _read(archive, keep=payloads)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, UnicodeDecodeError) as problem:
        raise _refused(f"not a readable .pt2 archive: {problem}", "archive", reason="NOT_PT2") from problem
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise _refused(f"malformed .pt2 archive: {problem!r}", "archive", reason="NOT_PT2") from problem


def check_safetensors(source: str | Path | bytes) -> None:
    """Check that a file is safetensors: a JSON header of bounded size that describes every byte after it once.

    Raises `SourceError` where it is not, in particular for a pickle or a zip archive under that name, and where tensors
    overlap, leave gaps, or have other lengths than their dtypes and shapes say.
    """
    data = source if isinstance(source, bytes) else b""
    if not isinstance(source, bytes):
        with Path(source).open("rb") as file:
            data = file.read(8)
            length = int.from_bytes(data, "little")
            if len(data) == 8 and length <= _JSON_LIMIT:
                data += file.read(length)
        size = Path(source).stat().st_size
    else:
        size = len(data)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > _JSON_LIMIT or size < 8 + length:
        raise _refused(
            "not a safetensors file: its first bytes do not give a header length", "weights", reason="NOT_SAFETENSORS"
        )
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_distinct)
        spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as problem:
        raise _refused(
            f"not a safetensors file: its header is not JSON of tensors ({type(problem).__name__})",
            "weights",
            reason="NOT_SAFETENSORS",
        ) from problem
    end = 0
    for start, stop, name in spans:
        if start != end:
            what = "overlaps the tensor before it" if start < end else "leaves a gap before it"
            raise _refused(f"the safetensors header lies: {name!r:.80} {what}", name[:80], reason="NOT_SAFETENSORS")
        end = stop
    if end != size - 8 - length:
        raise _refused(
            "the safetensors header does not describe the bytes after it", "weights", reason="NOT_SAFETENSORS"
        )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int, str]:
    """Return (first byte, byte after the last, name) of a tensor. Raises `SourceError` where they are not its own."""
    start, stop = entry["data_offsets"]
    shape, bits = entry["shape"], _BITS[entry["dtype"]]
    if not all(type(number) is int and number >= 0 for number in (start, stop, *shape)):
        raise TypeError("not a size")
    if 8 * (stop - start) != bits * math.prod(shape):
        raise _refused(
            f"the safetensors header lies: {name!r:.80} is {entry['dtype']} {shape!r:.80} in {stop - start} bytes",
            name[:80],
            reason="NOT_SAFETENSORS",
        )
    return start, stop, name


def pickle_imports(data: bytes) -> list[str]:
    """Return what unpickling ``data`` would import or run beyond tensors, without unpickling.

    ``data`` is the archive of ``torch.save``; anything else counts as harmful. Opcodes are scanned, with
    strings tracked for STACK_GLOBAL; whatever cannot be resolved is reported.
    """
    if not zipfile.is_zipfile(BytesIO(data)):
        return ["what a bare pickle may import"]
    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        if (
            len(names) != len(set(names))
            or not all(_SAVED.fullmatch(name) for name in names)
            or "data.pkl" not in names
        ):
            return ["what an archive other than torch.save's may import"]
        return _scan(archive.read(archive.namelist()[names.index("data.pkl")]))


def _scan(data: bytes) -> list[str]:
    found: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _EXECUTABLE:
                found.append(opcode.name)
            elif opcode.name == "GLOBAL":
                found.append(str(argument))
            elif opcode.name == "STACK_GLOBAL":
                # A memo fetch may stand between the strings; the allowlist makes a wrong pair a refusal.
                found.append(" ".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
            elif opcode.name in {"BINGET", "LONG_BINGET", "GET", "DUP"}:
                strings.append("?")
    except ValueError as problem:
        return [f"unreadable pickle: {problem}"]
    return [name for name in found if not _HARMLESS.fullmatch(name)]


def _read(archive: zipfile.ZipFile, *, keep: bool) -> Pt2Archive:
    members = _members(archive)
    for name in (_MODEL, _WEIGHTS, _CONSTANTS):
        if name not in members:
            raise _refused(
                f"the archive has no {name}",
                name,
                reason="NOT_PT2",
                hint="save it with torch.export.save of torch 2.9 or newer",
            )
    if _SAMPLES in members:
        harmful = pickle_imports(archive.read(members[_SAMPLES]))
        if harmful:
            raise _refused(
                f"the pickle {_SAMPLES} would import {', '.join(harmful[:5])}", _SAMPLES, reason="UNSAFE_PICKLE"
            )
    weights = _payload_config(archive, members, _WEIGHTS)
    constants = _payload_config(archive, members, _CONSTANTS)
    payloads = {}
    for folder, config in (("data/weights/", weights), ("data/constants/", constants)):
        for entry in config.values():
            path = folder + entry["path_name"]
            if path not in payloads:
                if not _PAYLOAD.fullmatch(path) or path not in members:
                    raise _refused(f"the archive has no payload {path}", path, reason="NOT_PT2")
                payloads[path] = archive.read(members[path]) if keep else b""
    return Pt2Archive(program=_json(archive, members[_MODEL]), weights=weights, constants=constants, payloads=payloads)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by path under the archive's one root folder, each of a known kind and none hidden."""
    infos = archive.infolist()
    if len(infos) > _MEMBERS_LIMIT:
        raise _refused(f"the archive has {len(infos)} members", "archive", reason="NOT_PT2")
    roots = {info.filename.split("/", 1)[0] for info in infos}
    if len(roots) != 1:
        raise _refused(
            f"the archive has {len(roots)} root folders where torch.export.save writes one",
            "archive",
            reason="NOT_PT2",
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        path = info.filename.partition("/")[2]
        known = path in _PLAIN or path in {_MODEL, _WEIGHTS, _CONSTANTS, _SAMPLES} or _PAYLOAD.fullmatch(path)
        if not known:
            raise _refused(
                f"the archive holds {path!r}, which is no part of a plain exported program",
                path,
                reason="UNSAFE_ARCHIVE",
                hint="custom objects, compiled code and pickled weights are never loaded; export plain tensors",
            )
        if path in members:
            raise _refused(f"the archive holds {path!r} twice", path, reason="UNSAFE_ARCHIVE")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise _refused(
                f"member {path!r} is compressed or encrypted",
                path,
                reason="UNSAFE_ARCHIVE",
                hint="torch.export.save stores",
            )
        members[path] = info
    return members


def _payload_config(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> Mapping[str, Any]:
    config: Mapping[str, Any] = _json(archive, members[name])["config"]
    for tensor, entry in config.items():
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            raise _refused(
                f"{tensor!r} is stored as a pickle",
                tensor,
                reason="UNSAFE_PICKLE",
                hint="export a module whose weights and constants are plain tensors",
            )
    return config


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Mapping[str, Any]:
    if info.file_size > _JSON_LIMIT:
        raise _refused(f"{info.filename} has {info.file_size} bytes", info.filename, reason="NOT_PT2")
    value = json.loads(archive.read(info))
    if not isinstance(value, dict):
        raise _refused(f"{info.filename} is no JSON object", info.filename, reason="NOT_PT2")
    return value


def _refused(message: str, subject: str, *, reason: str, hint: str = "") -> SourceError:
    return SourceError(message, reason=reason, subject=subject, hint=hint)
