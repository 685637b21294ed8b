"""The checks of one audit: which head, on what evidence, and whether the audited function is the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lieaudit.heads import fidelity
from lieaudit.report import Checks, Skipped

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from lieaudit.heads.settle import Settled
    from lieaudit.images import Images


@dataclass(frozen=True, slots=True)
class Checked:
    """The report's ``checks``, what could not be checked, and why no result is conclusive."""

    checks: Checks
    skipped: tuple[Skipped, ...] = ()
    reasons: tuple[str, ...] = ()


def check(source: str | Path | bytes | onnx.ModelProto, settled: Settled, images: Images) -> Checked:
    """Check a settled model against the graph as it was given. Raises as `lieaudit.heads.fidelity.compare`."""
    found = fidelity.compare(source, settled, images)
    skipped = (found,) if isinstance(found, Skipped) else ()
    return Checked(
        Checks(None if isinstance(found, Skipped) else found, settled.check),
        skipped,
        (*settled.reasons, *fidelity.reasons(found)),
    )
