"""Replacing what a module computes, for the time of a call.

Not by hooks: a module's own hooks may keep what passes through it (transformers collects hidden states so), and what
they keep is to be what the module returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Forward = Callable[..., Any]


@contextmanager
def wrapped(module: torch.nn.Module, wrap: Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """Let ``wrap(forward, args, kwargs)`` stand for a module's ``forward`` inside the ``with`` block."""
    forward = module.forward
    own = "forward" in vars(module)

    @functools.wraps(forward)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return wrap(forward, args, kwargs)

    module.forward = outer
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward
