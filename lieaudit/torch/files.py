"""Where the files of an uploaded torch source lie. No torch is needed to say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TorchFiles:
    """The files of one audit's torch source.

    Attributes
    ----------
    program
        The .pt2 archive, where the source is one.
    weights
        The safetensors file, where the source is a factory.
    factories
        The operator's registry: name → ``module:function``.
    """

    program: Path | None = None
    weights: Path | None = None
    factories: Mapping[str, str] = field(default_factory=dict)
