"""A callback that logs the LEE beside a Lightning model's other metrics. Needs the package ``lightning``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from lieaudit.torch.monitor import EquivarianceMonitor


class LogEquivariance(Callback):
    """Logs ``lee/GENERATOR`` with ``lee_low/…`` and ``lee_high/…``, its 95 % interval, after validation epochs.

    >>> trainer = Trainer(callbacks=[LogEquivariance(monitor)])  # doctest: +SKIP

    Parameters
    ----------
    monitor
        Which images and generators; a `lieaudit.torch.EquivarianceMonitor`.
    every
        Logs every so many epochs.
    """

    def __init__(self, monitor: EquivarianceMonitor, *, every: int = 1) -> None:
        super().__init__()
        self._monitor = monitor
        self._every = every

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log; not in the sanity check before training."""
        if trainer.sanity_checking or trainer.current_epoch % self._every:
            return
        for name, watched in self._monitor(pl_module).items():
            ends = {"lee": watched.lee, "lee_low": watched.low, "lee_high": watched.high}
            pl_module.log_dict({f"{key}/{name}": value for key, value in ends.items() if value is not None})
