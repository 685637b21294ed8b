"""What was measured of a model, ready for the report: of one output, or of several parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lieaudit.report import Affine, GeneratorResult, Picture, ReportPart, Skipped


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results with what could not be measured and why they are not conclusive.

    Attributes
    ----------
    results, parts
        By generator, and by part; one of them is empty.
    skipped, reasons
        What was not measured, and why no, or some, results are conclusive.
    top1
        (N,) the largest output's index; −1 for outputs that are no class scores.
    pictures
        The worst images.
    affine
        What is known of all affine directions; None of parts, which hold their own.
    """

    results: Mapping[str, GeneratorResult]
    skipped: tuple[Skipped, ...]
    reasons: tuple[str, ...]
    top1: npt.NDArray[np.int64]
    parts: Mapping[str, ReportPart] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    affine: Affine | None = None

    @property
    def every_result(self) -> dict[str, GeneratorResult]:
        """All results, those of parts under ``PART.GENERATOR``."""
        own = {f"{name}.{g}": result for name, part in self.parts.items() for g, result in part.results.items()}
        return {**self.results, **own}
