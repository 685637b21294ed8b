"""Reading an ONNX model from a file or bytes, distrusting it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from lieaudit.errors import ModelError, UnsupportedOpError
from lieaudit.graph.forward.expand import known
from lieaudit.graph.repair import outlined, repair
from lieaudit.ops import MICROSOFT, OPS

_IR_VERSION_TAG = 0x08
"""First byte of nearly every ONNX file: field 1 (ir_version) of ModelProto as a varint."""

_LONGEST_LINK = 4096
OLDEST_OPSET = 7
OLDEST_IR = 3


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A model as it was given: the graph, and the sha256 of the ONNX file's bytes.

    With external data the sha256 goes on over the name and the sha256 of every data file, in order of their names.
    ``notes`` says what was mended on the way (`lieaudit.graph.repair`).
    """

    model: ir.Model
    sha256: str
    name: str
    notes: tuple[str, ...] = ()


def read_model(source: str | Path | bytes | onnx.ModelProto) -> ReadModel:
    """Read, mend and check a model; external data must lie in the model's own folder.

    Where the model is a link, as in a model hub's cache, its data may be links too, to files beside the real model.

    Raises
    ------
    ModelError
        MODEL_NOT_FOUND, MODEL_EMPTY, NOT_ONNX, MODEL_TRUNCATED, INVALID_MODEL, UNKNOWN_OP, OPSET_TOO_OLD, IR_TOO_OLD,
        OPSET_TOO_NEW, IR_TOO_NEW, GRAPH_CYCLE, ZIPMAP_OUTPUT, EXTERNAL_DATA_OUTSIDE, EXTERNAL_DATA_MISSING or
        EXTERNAL_DATA_TRUNCATED.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"no file {path.name!r}", reason="MODEL_NOT_FOUND", subject=path.name)
        content, name = path.read_bytes(), path.name
    else:
        content = source if isinstance(source, bytes) else source.SerializeToString()
        path, name = None, ""
    proto = _parse(content, name or "model")
    _check_versions(proto)
    notes = repair(proto)
    try:
        model = ir.from_proto(proto)
        external = _external(model)
        # The checker would look for external data in the working folder; those graphs are checked once normalised.
        if not external:
            _set_apart(proto)
            with outlined(proto.graph):
                onnx.checker.check_model(proto)
    except (
        onnx.checker.ValidationError,
        ir.serde.SerdeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as problem:
        first_line = str(problem).strip().split("\n")[0][:300]
        if unknown := re.search(r"No Op registered for (\S+) with domain_version of (\d+)", first_line):
            raise UnsupportedOpError(
                f"opset {unknown[2]} has no op {unknown[1]}",
                reason="UNKNOWN_OP",
                subject=unknown[1],
                hint="export the model for the opset that the op is from, or without it",
            ) from problem
        raise ModelError(
            f"not a valid ONNX model: {first_line}",
            reason="INVALID_MODEL",
            subject=name or "model",
            hint="export it again",
        ) from problem
    for tensor in external:
        _check_external_data(tensor, path)
    digest = hashlib.sha256(content)
    if path is not None and external:
        _take_in(model, path.parent)
        for location in sorted({str(tensor.location) for tensor in external}):
            digest.update(location.encode())
            with (path.parent / location).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return ReadModel(model, digest.hexdigest(), name, tuple(notes))


def _parse(content: bytes, name: str) -> onnx.ModelProto:
    if not content:
        raise ModelError("the model file is empty (0 bytes)", reason="MODEL_EMPTY", subject=name)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as problem:
        if content[0] == _IR_VERSION_TAG:
            raise ModelError(
                "the ONNX file is truncated or damaged",
                reason="MODEL_TRUNCATED",
                subject=name,
                hint="compare its size and checksum with the original's",
            ) from problem
        raise ModelError("not an ONNX file", reason="NOT_ONNX", subject=name, hint=_what_it_is(content)) from problem
    if not proto.ir_version or not proto.HasField("graph") or not proto.graph.output:
        raise ModelError("not an ONNX model: no graph with outputs in it", reason="NOT_ONNX", subject=name)
    return proto


def _what_it_is(content: bytes) -> str:
    """Say what often lies where a model should; empty where it is none of that."""
    if content.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: fetch the model with git lfs pull"
    if len(content) < _LONGEST_LINK and b"/" in content and content.isascii() and content.decode().isprintable():
        return f"it holds only the path {content.decode()}: a symbolic link that was copied as text"
    return ""


def _set_apart(proto: onnx.ModelProto) -> None:
    """Move ops of the default domain that only onnxruntime knows to its own, where the checker lets them pass."""
    opset = next((o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"}), 1)
    apart = [
        node
        for node in proto.graph.node
        if not node.domain
        and (op := OPS.get(("", node.op_type))) is not None
        and op.expansion is not None
        and not known(node.op_type, opset)
    ]
    for node in apart:
        node.domain = MICROSOFT
    if apart and not any(o.domain == MICROSOFT for o in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def _check_versions(proto: onnx.ModelProto) -> None:
    if proto.ir_version < OLDEST_IR:
        raise ModelError(
            f"IR version {proto.ir_version} is older than {OLDEST_IR}",
            reason="IR_TOO_OLD",
            subject="ir_version",
            hint="export it again",
        )
    if proto.ir_version > onnx.IR_VERSION:
        raise _too_new("IR_TOO_NEW", "IR version", "ir_version", proto.ir_version, int(onnx.IR_VERSION))
    opset = next((o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"}), None)
    if opset is not None and opset < OLDEST_OPSET:
        raise ModelError(
            f"opset {opset} is older than {OLDEST_OPSET}",
            reason="OPSET_TOO_OLD",
            subject="opset_import",
            hint="convert it with onnx.version_converter",
        )
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and opset > newest:
        raise _too_new("OPSET_TOO_NEW", "opset", "opset_import", opset, newest)


def _too_new(reason: str, what: str, subject: str, found: int, newest: int) -> ModelError:
    return ModelError(
        f"{what} {found} is newer than {newest}, the newest that the installed onnx {onnx.__version__} knows",
        reason=reason,
        subject=subject,
        hint="export it for an older version, or update onnx",
    )


def _external(model: ir.Model) -> list[ir.ExternalTensor]:
    """Return every tensor stored outside the file: initializers and attributes, in subgraphs and functions too."""
    tensors = [value.const_value for value in _initializers(model)]
    tensors += [attribute.as_tensor() for _, attribute in _tensor_attributes(model)]
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]


def _take_in(model: ir.Model, folder: Path) -> None:
    """Make tensors of the model of those in files, in place; their pages are read when they are needed.

    Nobody downstream, onnxruntime least of all, has to find a file.
    """
    for value in _initializers(model):
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _held(value.const_value, folder)
    for node, attribute in _tensor_attributes(model):
        tensor = attribute.as_tensor()
        if isinstance(tensor, ir.ExternalTensor):
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _held(tensor, folder))


def _held(tensor: ir.ExternalTensor, folder: Path) -> ir.TensorProtocol:
    real = (folder / tensor.location).resolve()  # `_beside` has allowed it, links and all
    found = ir.ExternalTensor(
        real.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir=real.parent,
    )
    return ir.Tensor(found.numpy(), dtype=tensor.dtype, name=tensor.name)


def _graphs(model: ir.Model) -> list[ir.Graph]:
    bodies = [function.graph for function in model.functions.values()]
    return [*model.graphs(), *bodies, *(inner for body in bodies for inner in body.subgraphs())]


def _initializers(model: ir.Model) -> list[ir.Value]:
    return [value for graph in _graphs(model) for value in graph.initializers.values()]


def _tensor_attributes(model: ir.Model) -> list[tuple[ir.Node, ir.Attr]]:
    return [
        (node, attribute)
        for graph in _graphs(model)
        for node in graph
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
    ]


def _check_external_data(tensor: ir.ExternalTensor, model: Path | None) -> None:
    name, location = tensor.name or "", str(tensor.location)
    if model is None:
        raise ModelError(
            f"tensor {name!r} is stored outside the model, in {location!r}, which was not given",
            reason="EXTERNAL_DATA_MISSING",
            subject=name,
            hint="give the path of the .onnx file, with its data files beside it",
        )
    path = model.parent / location
    if not location or Path(location).is_absolute() or not _beside(path, model):
        raise ModelError(
            f"tensor {name!r} points to {location!r}, outside the model's folder",
            reason="EXTERNAL_DATA_OUTSIDE",
            subject=name,
            hint="put the data beside the model, and save it with relative paths",
        )
    if not path.is_file():
        raise ModelError(
            f"tensor {name!r} is stored in {location!r}, which is missing",
            reason="EXTERNAL_DATA_MISSING",
            subject=name,
            hint="put the data file beside the model",
        )
    offset, length = tensor.offset or 0, tensor.length if tensor.length is not None else tensor.nbytes
    if offset < 0 or length < 0 or offset + length > path.stat().st_size:
        raise ModelError(
            f"tensor {name!r} reaches beyond the end of {location!r}",
            reason="EXTERNAL_DATA_TRUNCATED",
            subject=name,
            hint="compare the data file's size with the original's",
        )


def _beside(data: Path, model: Path) -> bool:
    """Say whether a data file lies below the model's folder, or both are links to files of one real folder.

    The latter is how the caches of model hubs keep them. No other link is followed: a model that names one would have
    a file read that its owner never gave.
    """
    real, folder = data.resolve(), model.parent.resolve()
    return real.is_relative_to(folder) or (
        data.is_symlink() and model.is_symlink() and real.parent == model.resolve().parent
    )
