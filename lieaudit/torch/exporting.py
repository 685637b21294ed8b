"""From a torch module to an auditable ONNX model in one call, checked against the module."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lieaudit.errors import DataError, SourceError
from lieaudit.runtime.session import Session
from lieaudit.torch.containers import read_pt2
from lieaudit.torch.function import (
    SourceFunction,
    evaluation,
    expanded,
    failing_submodule,
    first_line,
    select_output,
)
from lieaudit.torch.program import ProgramModule

TOLERANCE = 1e-3
"""Largest accepted deviation, relative to the largest output: float32 rounding of a deep graph is a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An export with its check.

    Attributes
    ----------
    onnx
        The ONNX model, serialised; nodes carry the names of the modules they come from.
    deviation
        Largest difference between the exports' outputs and the module's in float64, over the largest magnitude.
    source
        The torch.export program (.pt2), where it was asked for.
    dynamic_batch
        Whether the batch axis is symbolic.
    """

    onnx: bytes
    deviation: float
    source: bytes | None
    dynamic_batch: bool


def export(
    module: torch.nn.Module,
    example: Any,
    *,
    dynamic_batch: bool = True,
    input: str = "",  # noqa: A002 - the spec's name for it
    output: str = "",
    others: Mapping[str, Any] | None = None,
    path: str | Path | None = None,
    with_source: str | Path | None = None,
) -> bytes:
    """Export a module to ONNX bytes (`exported` gives the check's numbers too).

    Parameters
    ----------
    module
        Any module, in any mode; exported in evaluation mode and float32.
    example
        Images (N, C, H, W), float32, N ≥ 1, as the module takes them.
    dynamic_batch
        Give the graph a symbolic batch axis.
    input, output, others
        See `lieaudit.torch.SourceFunction`.
    path
        Also write the ONNX model there.
    with_source
        Also write the torch.export program there, a ``.pt2`` file: the source that ``--torch-source`` takes.

    Raises
    ------
    SourceError
        The module cannot be exported, or the export is not the module's function: the largest deviation is named.
    """
    result = exported(
        module,
        example,
        dynamic_batch=dynamic_batch,
        input=input,
        output=output,
        others=others,
        with_source=with_source is not None,
    )
    if path is not None:
        Path(path).write_bytes(result.onnx)
    if with_source is not None and result.source is not None:
        Path(with_source).write_bytes(result.source)
    return result.onnx


def exported(
    module: torch.nn.Module,
    example: Any,
    *,
    dynamic_batch: bool = True,
    input: str = "",  # noqa: A002 - the spec's name for it
    output: str = "",
    others: Mapping[str, Any] | None = None,
    with_source: bool = False,
) -> Exported:
    """Export a module and compare the export with it; parameters and errors as `export`."""
    function = SourceFunction(module, input=input, output=output, others=others)
    images = torch.as_tensor(np.asarray(example, np.float32))
    if images.dim() != 4 or images.shape[0] == 0:
        raise DataError(
            f"the example has shape {tuple(images.shape)}, not (N, C, H, W)", reason="INVALID_IMAGES", subject="example"
        )
    if dynamic_batch and images.shape[0] == 1:
        images = images.expand(2, -1, -1, -1)  # torch.export takes a batch of one for a constant
    with torch.no_grad():
        reference = function(function.tensor(images)).numpy()
    audited = _one_output(function)
    with evaluation(audited), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters warn about torch's own internals
        program = _program(audited, images, dynamic_batch=dynamic_batch)
        onnx_bytes = _onnx(program, audited)
        source = _source(program) if with_source else None
    return Exported(onnx_bytes, _check(onnx_bytes, source, images, reference), source, dynamic_batch)


def _one_output(function: SourceFunction) -> torch.nn.Module:
    """Return the module with one input, ``images``, and one output: a copy of another class, so that all names stay."""
    module = function.module
    others = {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in function.others.items()
    }
    kind: type[torch.nn.Module] = type(module)

    def forward(self: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        rows = {name: expanded(value, images.shape[0]) for name, value in others.items()}
        return select_output(kind.forward(self, **{function.input: images, **rows}), function.output)

    floating = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    full = set(floating) <= {torch.float32}
    audited = copy.copy(module) if full else copy.deepcopy(module).float()
    audited.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return audited


def _program(module: torch.nn.Module, images: torch.Tensor, *, dynamic_batch: bool) -> torch.export.ExportedProgram:
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}} if dynamic_batch else None
    try:
        with torch.no_grad():
            return torch.export.export(module, (), {"images": images.contiguous()}, dynamic_shapes=shapes, strict=False)
    except Exception as problem:
        where = failing_submodule(module, problem.__traceback__)
        raise SourceError(
            f"torch.export cannot trace {where}: {first_line(problem)}",
            reason="EXPORT_FAILED",
            subject=where,
            hint="try dynamic_batch=False; where the module branches on values it has no graph",
        ) from problem


def _onnx(program: torch.export.ExportedProgram, module: torch.nn.Module) -> bytes:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # The fused kernel's output strides break views of symbolic shape; the plain formula exports everywhere.
        with contextlib.redirect_stdout(io.StringIO()), sdpa_kernel(SDPBackend.MATH):
            result = torch.onnx.export(
                program, input_names=["images"], output_names=["output"], dynamo=True, verbose=False
            )
    except Exception as problem:
        raise SourceError(
            f"torch.onnx cannot export {type(module).__name__}: {first_line(problem)}",
            reason="EXPORT_FAILED",
            subject=type(module).__name__,
            hint="audit it in process with lieaudit.torch.audit, which needs no export",
        ) from problem
    finally:
        log.setLevel(level)
    if result is None:
        raise SourceError("torch.onnx gave no program", reason="EXPORT_FAILED", subject=type(module).__name__)
    return bytes(result.model_proto.SerializeToString())


def _source(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _check(onnx_bytes: bytes, source: bytes | None, images: torch.Tensor, reference: npt.NDArray[np.float64]) -> float:
    """Return the largest deviation of the ONNX model and of the .pt2, each as a reader of the file would run it."""
    with Session(onnx_bytes, threads=1) as session:
        results = [session.run({session.input_names[0]: images.numpy()})[0]]
    if source is not None:
        function = SourceFunction(ProgramModule(read_pt2(source)))
        with torch.no_grad():
            results.append(function(function.tensor(images)).numpy())
    scale = float(np.abs(reference).max()) or 1.0
    deviation = max(float(np.abs(result - reference).max()) / scale for result in results)
    if not deviation <= TOLERANCE:
        raise SourceError(
            f"the export deviates from the module by {deviation:.2e} of its largest output",
            reason="EXPORT_MISMATCH",
            subject="output",
            hint="the exporter changes this module; audit it in process with lieaudit.torch.audit",
        )
    return deviation
