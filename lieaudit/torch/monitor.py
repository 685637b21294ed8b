"""Watching the LEE of a module while it trains: numbers with their intervals, for a plain loop and for Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from lieaudit.torch.auditing import audit

if TYPE_CHECKING:
    import torch

    from lieaudit.data import Dataset
    from lieaudit.spec import AuditSpec


@dataclass(frozen=True, slots=True)
class Watched:
    """LEE of one generator at one moment; ``low`` and ``high`` bound its 95 % interval (None for a single image)."""

    lee: float
    low: float | None
    high: float | None
    status: str


class EquivarianceMonitor:
    """Audits a module on the same images, with the same specification, whenever it is called.

    >>> monitor = EquivarianceMonitor(held_out, AuditSpec(generators=("rotation",)))   # doctest: +SKIP
    >>> for epoch in range(epochs):                                                    # doctest: +SKIP
    ...     train_one_epoch(model)
    ...     print(epoch, monitor(model)["rotation"])

    Parameters
    ----------
    images, spec
        As `lieaudit.torch.audit`; a few hundred images that the module is not trained on.
    precision
        What the module is evaluated in. float32 is enough to watch a trend and several times faster.
    """

    def __init__(self, images: npt.NDArray[Any] | Dataset, spec: AuditSpec, *, precision: str = "float32") -> None:
        self._images = images
        self._spec = spec
        self._precision = precision

    def __call__(self, module: torch.nn.Module) -> Mapping[str, Watched]:
        """Return what each generator's LEE is now; the module is evaluated where its parameters are, and not changed.

        Raises
        ------
        LieauditError
            As `lieaudit.torch.audit`.
        """
        device = next((str(p.device) for p in module.parameters()), "cpu")
        report = audit(module, self._images, self._spec, precision=self._precision, device=device)
        watched = {}
        for name, result in report.results.items():
            low, high = result.ci95 or (None, None)
            watched[name] = Watched(result.lee, low, high, result.status)
        return watched
