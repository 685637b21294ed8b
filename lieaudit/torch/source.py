"""Opening a model's source on a server, and proving that it is the audited function.

Two containers are accepted: a ``torch.export`` program (.pt2), read and interpreted by `lieaudit.torch.program`, and
safetensors weights for a factory that the operator of the server has registered. No pickle is loaded and no uploaded
Python is run.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lieaudit.derivatives.base import Float32Array
from lieaudit.errors import SourceError, SpecError
from lieaudit.metrics.head import Float64Array, Head
from lieaudit.torch.containers import check_safetensors, read_pt2
from lieaudit.torch.function import SourceFunction, batches, first_line
from lieaudit.torch.program import ProgramModule

TOLERANCE = 1e-3
"""Largest accepted deviation of outputs, relative to their largest magnitude over the images: a hundred times the
rounding of a deep float32 graph, and far below what another set of weights gives."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Source and session compared on images.

    ``deviation`` is the largest difference of an output over the largest magnitude of one, ``head_included`` says that
    the module itself ends in the head that was cut off the graph.
    """

    images: int
    deviation: float
    head_included: bool


def open_source(
    *,
    program: str | Path | None = None,
    factory: str | None = None,
    weights: str | Path | None = None,
    factories: Mapping[str, str] | None = None,
) -> torch.nn.Module:
    """Open an uploaded source.

    Parameters
    ----------
    program
        Path of a .pt2 archive.
    factory, weights
        Name of a registered factory and path of its weights as safetensors.
    factories
        The operator's registry: name → ``module:function``, a function without arguments that gives the module.

    Returns
    -------
    The module, in evaluation mode.

    Raises
    ------
    SourceError
        The container is refused (see `lieaudit.torch.containers`), the weights do not fit the module, or the factory
        fails.
    SpecError
        Neither or both kinds of source are given, or the factory is not registered.
    """
    if (program is None) == (factory is None) or (program is not None and weights is not None):
        raise SpecError(
            "give either a .pt2 program, or a factory with its weights",
            reason="INVALID_SPEC",
            subject="torch_source",
            hint="--torch-source model.pt2, or --torch-factory name --weights w.safetensors",
        )
    if program is not None:
        return ProgramModule(read_pt2(program)).eval()
    assert factory is not None  # noqa: S101 - one of the two is given
    module = _made(factory, factories or {})
    if weights is not None:
        _load_weights(module, weights, factory)
    return module.eval()


def verify_source(
    function: SourceFunction,
    images: Float32Array,
    z: Float32Array | Float64Array,
    head: Head,
    *,
    batch: int | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Prove that a source is the audited function on the audit's images.

    Parameters
    ----------
    function
        The source.
    images
        (n, C, H, W), as the ONNX model takes them.
    z
        The ONNX session's raw outputs (n, *K) on these images.
    head
        The head that the audit applies to them. A source that ends in the same head (probabilities where the graph was
        cut before its Softmax) is the same function too.
    batch
        The only batch size the source takes; None: any.
    tolerance
        Largest accepted relative deviation.

    Raises
    ------
    SourceError
        Shapes differ, or the deviation is beyond the tolerance; the message summarises both outputs.
    """
    with torch.no_grad():
        pieces = [function(function.tensor(images[i])) for i in batches(len(images), batch or min(8, len(images)))]
    source = torch.cat(pieces)[: len(images)].double().cpu().numpy()
    raw = np.asarray(z, np.float64)
    if source.size != raw.size or source.shape[0] != raw.shape[0]:
        raise SourceError(
            f"the torch source gives outputs of shape {source.shape}, the ONNX model {raw.shape}",
            reason="SOURCE_MISMATCH",
            subject="torch_source",
            hint="upload the source that this ONNX file was exported from",
        )
    source = source.reshape(raw.shape)
    outside = _deviation(_logits(source, head), _logits(raw, head))
    inside = _deviation(source, head.value(raw)) if head.function != "identity" else np.inf
    best = min(outside, inside)
    if not best <= tolerance:
        raise SourceError(
            f"the torch source is not the function of the ONNX model: outputs differ by {best:.2e} of their"
            f" largest magnitude on {len(raw)} images; source {_summary(source)}, ONNX {_summary(raw)}",
            reason="SOURCE_MISMATCH",
            subject="torch_source",
            hint=f"at most {tolerance:g} is accepted; check weights, preprocessing and evaluation mode",
        )
    return Verification(images=len(raw), deviation=float(best), head_included=bool(inside < outside))


def _made(factory: str, factories: Mapping[str, str]) -> torch.nn.Module:
    if factory not in factories:
        raise SpecError(
            f"torch_factory: {factory!r} is not registered on this server",
            reason="UNKNOWN_FACTORY",
            subject="torch_factory",
            hint=f"registered: {', '.join(sorted(factories)) or 'none'}; the operator registers module:function",
        )
    home, _, name = factories[factory].partition(":")
    try:
        module = getattr(importlib.import_module(home), name)()
    except Exception as problem:
        raise SourceError(
            f"the factory {factory} failed: {type(problem).__name__}: {first_line(problem)}",
            reason="FACTORY_FAILED",
            subject=factory,
            hint="the operator of the server must repair it",
        ) from problem
    if not isinstance(module, torch.nn.Module):
        raise SourceError(
            f"the factory {factory} gave a {type(module).__name__}, not a torch.nn.Module",
            reason="FACTORY_FAILED",
            subject=factory,
        )
    return module


def _load_weights(module: torch.nn.Module, weights: str | Path, factory: str) -> None:
    check_safetensors(weights)
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        missing, unexpected = module.load_state_dict(load(Path(weights).read_bytes()), strict=False)
    except (SafetensorError, RuntimeError) as problem:
        raise SourceError(
            f"the weights do not fit {factory}: {first_line(problem)}",
            reason="WEIGHTS_MISMATCH",
            subject="torch_weights",
        ) from problem
    # Tied weights are saved once; whatever shares its memory with a loaded tensor is not missing.
    state = module.state_dict(keep_vars=True)
    loaded = {tensor.data_ptr() for name, tensor in state.items() if name not in set(missing)}
    missing = [n for n in missing if state[n].data_ptr() not in loaded and not n.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SourceError(
            f"the weights do not fit {factory}: missing {', '.join(missing[:5]) or 'none'},"
            f" unexpected {', '.join(list(unexpected)[:5]) or 'none'}",
            reason="WEIGHTS_MISMATCH",
            subject="torch_weights",
            hint="save module.state_dict() of the registered architecture",
        )


def _deviation(a: Float64Array, b: Float64Array) -> float:
    scale = float(np.abs(b).max())
    return float(np.abs(a - b).max()) / scale if scale > 0 else float(np.abs(a - b).max())


def _summary(values: Float64Array) -> str:
    low, high = values.min(), values.max()
    return f"mean {values.mean():.4g}, standard deviation {values.std():.4g}, range {low:.4g} … {high:.4g}"


def _logits(z: Float64Array, head: Head) -> Float64Array:
    """Take the mean over classes off: a shift of all logits is nothing behind a softmax."""
    return z - z.mean(axis=head.axis, keepdims=True) if head.function == "softmax" else z
