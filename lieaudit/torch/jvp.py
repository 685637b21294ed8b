"""Exact directional derivatives of a torch module by forward-mode differentiation (`torch.func.jvp`).

The value is computed once for all directions of an image batch (`torch.func.vmap` over the directions). A module
that does not vectorise (control flow on values, random functions) is differentiated one direction at a time.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from lieaudit.derivatives.base import Derivatives, Float32Array
from lieaudit.errors import LieauditError, SourceError
from lieaudit.torch.function import SourceFunction, first_line

_COVERAGE = 3.0
"""Ratio of the error bar to one redrawn rounding error: the norm of 95 % of a few redraws lies below it."""


def directional_derivatives(
    function: SourceFunction, x: torch.Tensor, v: torch.Tensor, *, vectorised: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiate z(x) along D directions.

    Parameters
    ----------
    function
        The module as a function of images.
    x, v
        Images (n, C, H, W) and directions (n, D, C, H, W) with D ≥ 1, of the function's precision and device.
    vectorised
        Over the directions; False: one after the other.

    Returns
    -------
    z (n, *K) and Dz(x)[v_d] (n, D, *K), detached.

    Raises
    ------
    SourceError
        The module fails, or holds a function without a forward derivative.
    """

    def along(direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, tangent, *_ = torch.func.jvp(function, (x,), (direction,))
        return value, tangent

    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # an op vmap runs in a loop
        if vectorised:
            # The value is the same in every direction: expanded without memory, the first is taken.
            values, tangents = torch.func.vmap(along, in_dims=1, out_dims=(0, 1))(v)
            return values[0].detach(), tangents.detach()
        parts = [along(v[:, d]) for d in range(v.shape[1])]
        return parts[0][0].detach(), torch.stack([tangent for _, tangent in parts], dim=1).detach()


class TorchDifferentiator:
    """The `lieaudit.derivatives.base.Differentiator` of a torch module.

    The error bar is the change of the derivative when every input is moved by one unit of rounding, which redraws
    the rounding errors of all operations: measured on every image in float32, where an activation at its kink can
    make one image far worse than another, and once, on the first batch, in float64.

    Parameters
    ----------
    function
        The module as a function of images.
    batch
        The only batch size the module takes (an exported program of static shape); None: any.
    """

    method = "torch"

    def __init__(self, function: SourceFunction, *, batch: int | None = None) -> None:
        self.function = function
        self.batch = batch
        self.vectorised = True
        self._rounding: float | None = None

    def rows(self, directions: int) -> int:
        """Give the number of rows per image: the value and a tangent each, doubled where the precision is."""
        return (1 + directions) * (2 if self.function.precision == "float64" else 1)

    def __call__(self, images: Float32Array, directions: Float32Array) -> Derivatives:
        """Differentiate at ``images`` (n, C, H, W) along ``directions`` (n, D, C, H, W).

        Raises `SourceError` where the module fails or gives NaN or infinity.
        """
        x, v = self.function.tensor(images), self.function.tensor(directions)
        value, tangent = self._differentiate(x, v)
        if not (torch.isfinite(value).all() and torch.isfinite(tangent).all()):
            raise SourceError(
                "the torch module gives NaN or infinity on these images",
                reason="NON_FINITE_OUTPUT",
                subject=self.function.output or "output",
                hint="check the preprocessing and the module's weights",
            )
        spread = self._spread(x, v, tangent)
        return Derivatives(
            value=value.cpu().numpy(),
            tangent=tangent.double().cpu().numpy(),
            spreads=(spread.double().cpu().numpy(),),
            coverage=_COVERAGE,
        )

    def _differentiate(self, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, batch = x.shape[0], self.batch or x.shape[0]
        parts = []
        for start in range(0, count, batch):
            piece = torch.arange(start, start + batch, device=x.device).clamp(max=count - 1)
            parts.append(self._derivatives(x[piece], v[piece]))
        value, tangent = (torch.cat(tensors)[:count] for tensors in zip(*parts, strict=True))
        return value, tangent

    def _derivatives(self, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.vectorised:
            try:
                return directional_derivatives(self.function, x, v)
            except (LieauditError, RuntimeError) as problem:
                if isinstance(problem, SourceError) and problem.reason == "NO_FORWARD_DERIVATIVE":
                    raise
                self.vectorised = False
        try:
            return directional_derivatives(self.function, x, v, vectorised=False)
        except RuntimeError as problem:
            raise SourceError(
                f"the module cannot be differentiated: {first_line(problem)}",
                reason="TORCH_RUN_FAILED",
                subject=type(self.function.module).__name__,
                hint="audit the ONNX model by forward mode or finite differences",
            ) from problem

    def _spread(self, x: torch.Tensor, v: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        if self._rounding is not None:
            return tangent * self._rounding
        signs = torch.as_tensor(np.random.default_rng(0).choice([-1.0, 1.0], size=tuple(x.shape))).to(x)
        _, moved = self._differentiate(x * (1 + signs * torch.finfo(x.dtype).eps), v)
        if self.function.precision == "float64":
            norm = float(tangent.norm())
            self._rounding = float((moved - tangent).norm()) / norm if norm > 0 else 0.0
            return tangent * self._rounding
        return moved - tangent
