"""What audits run on: CPUs by number, and one slot per GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """CPUs (and perhaps a GPU) that one audit holds."""

    cpus: tuple[int, ...]
    device: int | None


class Slots:
    """Hands out CPUs and GPUs; an audit on a GPU takes its device and shares the CPUs."""

    def __init__(self, cpus: Iterable[int], gpus: Iterable[int]) -> None:
        self._all = tuple(sorted(cpus))
        self._free_cpus = list(self._all)
        self._gpus = tuple(gpus)
        self._free_gpus = set(self._gpus)

    @property
    def total(self) -> int:
        """Number of slots: CPUs and GPUs."""
        return len(self._all) + len(self._gpus)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that audits may ask for."""
        return self._gpus

    def take(self, threads: int, device: int | None) -> Slot | None:
        """Take a slot, or None where there is none now."""
        if device is not None:
            if device not in self._free_gpus:
                return None
            self._free_gpus.remove(device)
            return Slot(self._all, device)
        count = min(threads, len(self._all))
        if count > len(self._free_cpus):
            return None
        taken, self._free_cpus = self._free_cpus[:count], self._free_cpus[count:]
        return Slot(tuple(taken), None)

    def give_back(self, slot: Slot) -> None:
        """Return a slot back."""
        if slot.device is not None:
            self._free_gpus.add(slot.device)
        else:
            self._free_cpus = sorted([*self._free_cpus, *slot.cpus])
