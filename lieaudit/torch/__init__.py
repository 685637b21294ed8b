"""The torch path: exact derivatives of a model whose source is at hand.

torch is optional (``pip install 'lieaudit[torch]'``): importing this package works without it, and the first use of
one of its functions raises `lieaudit.errors.MissingPackageError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lieaudit.errors import MissingPackageError
from lieaudit.torch.files import TorchFiles

if TYPE_CHECKING:
    from lieaudit.torch.attribution import attribute as attribute
    from lieaudit.torch.auditing import audit as audit
    from lieaudit.torch.auditing import torch_method as torch_method
    from lieaudit.torch.exporting import export as export
    from lieaudit.torch.function import SourceFunction as SourceFunction
    from lieaudit.torch.jvp import TorchDifferentiator as TorchDifferentiator
    from lieaudit.torch.loss import LieLoss as LieLoss
    from lieaudit.torch.monitor import EquivarianceMonitor as EquivarianceMonitor
    from lieaudit.torch.source import open_source as open_source
    from lieaudit.torch.source import verify_source as verify_source
    from lieaudit.torch.trace import estimate as estimate

_HOMES = {
    "EquivarianceMonitor": "monitor",
    "LieLoss": "loss",
    "TorchDifferentiator": "jvp",
    "SourceFunction": "function",
    "attribute": "attribution",
    "audit": "auditing",
    "estimate": "trace",
    "export": "exporting",
    "open_source": "source",
    "torch_method": "auditing",
    "verify_source": "source",
}

__all__ = [
    "EquivarianceMonitor",
    "LieLoss",
    "SourceFunction",
    "TorchDifferentiator",
    "TorchFiles",
    "attribute",
    "audit",
    "estimate",
    "export",
    "open_source",
    "torch_method",
    "verify_source",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lieaudit.torch' has no attribute {name!r}")
    try:
        import_module("torch")
    except ImportError as problem:
        raise MissingPackageError(
            f"lieaudit.torch.{name} needs torch, which is not installed",
            reason="TORCH_NOT_INSTALLED",
            subject="torch",
            hint="pip install 'lieaudit[torch]'",
        ) from problem
    return getattr(import_module(f"lieaudit.torch.{_HOMES[name]}"), name)
