"""The head of a torch module's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lieaudit.errors import LieauditError
from lieaudit.heads.choice import HEAD_UNDECLARED, Choice, Facts, choose
from lieaudit.heads.evidence import ClassLabels
from lieaudit.torch.function import SourceFunction, select_output
from lieaudit.torch.layout_tracking import LayoutTracker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lieaudit.metrics.head import Head
    from lieaudit.spec import AuditSpec


def module_choice(
    spec: AuditSpec,
    function: SourceFunction,
    x: torch.Tensor,
    z: torch.Tensor,
    labels: npt.NDArray[np.int64] | None = None,
) -> Choice:
    """Choose the head for outputs z (n, *K) of images x, as for an ONNX graph that ends in no head of its own.

    Raises `SpecError` as `lieaudit.heads.choice.choose`.
    """
    rows = z.detach().double().cpu().numpy()
    shape = tuple(z.shape[1:])
    layout = _layout(function, x) if len(shape) > 1 else "vector"
    if layout == "unknown" and spec.head == "spatial" and len(shape) == 3:
        layout = "map"  # said by the user, and no axis tells otherwise
    known = ClassLabels.of(rows, labels) if labels is not None and len(shape) == 1 and shape[0] > 1 else None
    return choose(Facts(function.output or "output", shape, layout=layout, rows=rows, labels=known), spec.head)


def undeclared(choice: Choice) -> tuple[str, ...]:
    """Return why no result is conclusive, with the heads to choose from; empty where the head is settled."""
    return (f"{HEAD_UNDECLARED}: {choice.undeclared}",) if choice.undeclared else ()


def _layout(function: SourceFunction, x: torch.Tensor) -> str:
    """Follow the image's axes to the output: ``map`` for (n, C, H, W), ``vector``, or ``unknown``."""
    sample = x if len(x) > 1 else x.expand(2, -1, -1, -1)
    tracker = LayoutTracker(sample)
    try:
        with torch.inference_mode(), tracker:
            found = tracker.layout(select_output(function.raw(sample), function.output))
    except LieauditError:
        return "unknown"
    if found.kind in {"vector", "NCHW"}:
        return {"NCHW": "map"}.get(found.kind, found.kind)
    return "unknown"


def apply_head(head: Head, z: torch.Tensor) -> torch.Tensor:
    """Return h(z) in float64 as a differentiable function of z (n, *K)."""
    z = z.double()
    if head.function == "softmax":
        return torch.softmax(z, dim=head.axis)
    return torch.sigmoid(z) if head.function == "sigmoid" else z
