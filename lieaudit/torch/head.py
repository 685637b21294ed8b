"""The head of a torch module's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lieaudit.graph.output import choose_head
from lieaudit.metrics.head import Head
from lieaudit.spec import AuditSpec


def module_head(spec: AuditSpec, z: torch.Tensor, notes: list[str]) -> Head:
    """Choose the head for outputs z (n, *K), as for an ONNX graph that ends in no head of its own.

    Outputs that are probabilities already, every row non-negative with sum 1, keep the head ``identity`` under
    ``auto``. ``notes`` gets what was chosen and why. Raises `SpecError` as `lieaudit.graph.output.choose_head`.
    """
    shape: Sequence[int] = z.shape[1:]
    if spec.head == "auto" and len(shape) == 1 and shape[0] > 1:
        sums = z.double().sum(dim=1)
        if bool((z >= 0).all()) and bool(((sums - 1).abs() < 1e-5).all()):
            notes.append("head identity: the module's outputs are probabilities (non-negative, sums of 1)")
            return Head("identity", spatial=False)
    return choose_head(spec, spec.output or "output", None, tuple(shape), notes)


def apply_head(head: Head, z: torch.Tensor) -> torch.Tensor:
    """Give h(z) in float64 as a differentiable function of z (n, *K)."""
    z = z.double()
    if head.function == "softmax":
        return torch.softmax(z, dim=1)
    return torch.sigmoid(z) if head.function == "sigmoid" else z
