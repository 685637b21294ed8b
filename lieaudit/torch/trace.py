"""The paper's stochastic estimate of layerwise contributions (Gruver et al. 2023, B.3), with its error.

For z ~ N(0, I_K), E (zᵀ C_k)² = ‖C_k‖²; one vector-Jacobian product of the conjugated network F(α) with respect to α
gives zᵀ C_k of all modules and all images at once. The relative standard deviation of one image's estimate after P
probes is √(2/P). Probes are added until the requested tolerance holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lieaudit.errors import SpecError
from lieaudit.metrics.head import Float64Array
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import Generator
from lieaudit.torch.attribution import check_images
from lieaudit.torch.function import SourceFunction
from lieaudit.torch.head import apply_head
from lieaudit.torch.network import Network

_FIRST = 16
"""Probes before an error is estimated at all."""

_BLOCK = 16
"""Probes between two looks at the error."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated contributions under one generator.

    Attributes
    ----------
    lee
        Module → E‖C‖²/K over the images, parts of the module included.
    error
        Module → standard error of that estimate, from the spread of the probes.
    probes
        P, the number of probes taken.
    converged
        Whether the tolerance holds for every module above the floor.
    history
        ‖zᵀC‖² averaged over images, for each probe and module: (P, S), over K.
    """

    lee: Mapping[str, float]
    error: Mapping[str, float]
    probes: int
    converged: bool
    history: Float64Array


def estimate(
    module: torch.nn.Module,
    images: npt.NDArray[np.float32],
    spec: AuditSpec | None = None,
    *,
    tolerance: float = 0.05,
    floor: float = 1e-3,
    limit: int = 4096,
    precision: str = "float64",
    device: str = "cpu",
    others: Mapping[str, object] | None = None,
) -> dict[str, Estimate]:
    """Estimate the contributions of a module's parts, for each generator of the specification.

    Parameters
    ----------
    module, images, spec, precision, device, others
        As `lieaudit.torch.attribute`.
    tolerance
        Relative standard error to reach, of every module above the floor.
    floor
        Modules whose estimate is below this share of the largest one are not waited for.
    limit
        Most probes to take; the result then says that it did not converge.

    Raises
    ------
    SpecError
        ``tolerance``, ``floor`` or ``limit`` is out of range.
    SourceError, DataError
        As `lieaudit.torch.attribute`.
    """
    spec = spec or AuditSpec()
    if not (0 < tolerance < 1 and 0 <= floor < 1 and limit >= _FIRST):
        raise SpecError(
            f"tolerance {tolerance}, floor {floor}, limit {limit}: tolerance must lie in (0, 1), floor in [0, 1), limit"
            f" at {_FIRST} or above",
            reason="INVALID_SPEC",
            subject="tolerance",
        )
    function = SourceFunction(
        module, precision=precision, device=device, input=spec.input or "", output=spec.output or "", others=others
    )
    network = Network(function, function.tensor(check_images(images)), spec)
    return {
        generator.id: _estimate(network, generator, tolerance=tolerance, floor=floor, limit=limit)
        for generator in spec.actions(*network.x.shape[-2:])
    }


def _estimate(network: Network, generator: Generator, *, tolerance: float, floor: float, limit: int) -> Estimate:
    images = len(network.x)
    alpha = torch.zeros(
        (len(network.names), images), dtype=network.function.dtype, device=network.function.device, requires_grad=True
    )
    outputs = apply_head(network.head, network.conjugated(network.action(generator), alpha))
    size = math.prod(outputs.shape[1:])
    draws = torch.Generator(device="cpu").manual_seed(network.spec.seed)
    rows: list[npt.NDArray[np.float64]] = []
    converged = not network.names
    while not converged and len(rows) < limit:
        for _ in range(min(_BLOCK, limit - len(rows))):
            z = torch.randn(outputs.shape, generator=draws, dtype=torch.float64).to(outputs.device)
            (products,) = torch.autograd.grad(outputs, alpha, grad_outputs=z, retain_graph=True)
            rows.append((products.double() ** 2).mean(dim=1).cpu().numpy() / size)
        mean, error = _mean_and_error(np.stack(rows))
        counts = mean > floor * mean.max(initial=0.0)
        converged = len(rows) >= _FIRST and bool(np.all(error[counts] <= tolerance * mean[counts]))
    history = np.stack(rows) if rows else np.zeros((0, len(network.names)))
    mean, error = _mean_and_error(history) if rows else (np.zeros(0), np.zeros(0))
    return Estimate(
        lee=dict(zip(network.names, mean.tolist(), strict=True)),
        error=dict(zip(network.names, error.tolist(), strict=True)),
        probes=len(rows),
        converged=converged,
        history=history,
    )


def _mean_and_error(history: Float64Array) -> tuple[Float64Array, Float64Array]:
    return history.mean(axis=0), history.std(axis=0, ddof=1) / math.sqrt(len(history))
