"""What identifies the function of a module: its weights, its structure, its code, and what it answers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lieaudit.errors import LieauditError
from lieaudit.torch.function import SourceFunction, batches
from lieaudit.torch.jvp import pushforward

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType


def weights_digest(module: torch.nn.Module) -> str:
    """Return the sha256 of a module's weights by name: what identifies it in a report."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        _add(digest, name, tensor)
    return digest.hexdigest()


def fingerprint(function: SourceFunction, shape: tuple[int, int, int], *, batch: int | None = None) -> str:
    """Return the sha256 of all that decides which numbers a module gives.

    Two modules with the same weights may be different functions. So besides weights, buffers, fixed arguments,
    structure and the bytecode of every ``forward``, the digest holds the module's value and its derivative on noise.

    Parameters
    ----------
    function
        The module, with its precision, device, input, output and fixed arguments.
    shape
        (C, H, W) of an image.
    batch
        The only batch size the module takes; None: any.
    """
    module = function.module
    digest = hashlib.sha256(weights_digest(module).encode())
    for name, buffer in module.named_buffers():  # also those that are no part of the state
        _add(digest, name, buffer)
    for name, value in function.others.items():
        if isinstance(value, torch.Tensor):
            _add(digest, name, value)
        else:
            digest.update(f"{name} {value!r}".encode())
    settings = (function.precision, function.device, function.input, function.output, function.undo)
    digest.update(f"{settings} {torch.get_num_threads()} {module!r}".encode())
    for name, inner in module.named_modules():
        digest.update(f"{name} {type(inner).__module__}.{type(inner).__qualname__}".encode())
        for text in _code(getattr(inner.forward, "__code__", None)):
            digest.update(text)
    for answer in _answers(function, shape, batch or 2):
        digest.update(answer)
    return digest.hexdigest()


def _answers(function: SourceFunction, shape: tuple[int, int, int], batch: int) -> Iterator[bytes]:
    """Return value and derivative on noise; nothing where the module fails on it, which is the audit's to say."""
    noise = function.tensor(np.random.default_rng(0).standard_normal((2, 2, *shape)))
    rows = next(iter(batches(2, batch)))
    try:
        value, tangent = pushforward(function, noise[0][rows], noise[1][rows][None], vectorised=False)
    except (LieauditError, RuntimeError):
        return
    yield _bytes(value)
    yield _bytes(tangent)


def _code(code: CodeType | None) -> Iterator[bytes]:
    """Return the bytecode of a function and of those inside it, without the places where they were written."""
    if code is None:
        return
    yield code.co_code
    yield repr((code.co_names, code.co_varnames)).encode()
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            yield from _code(constant)
        else:
            yield repr(constant).encode()


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(_bytes(tensor))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
