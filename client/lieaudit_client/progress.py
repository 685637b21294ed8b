"""What a caller is told while an audit runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of an audit.

    Attributes
    ----------
    stage
        ``upload`` while a file is sent, ``waiting`` while the service takes no further audits, then what the service
        reports: ``queued``, ``load``, ``calibrate``, ``audit``, ``layerwise``, ``crosscheck``, ``statistics``, at last
        ``succeeded``, ``failed`` or ``cancelled``. ``reused`` where an equal audit of before is the answer.
    done, total
        Bytes in stage ``upload``, else images; total is 0 where it is not known.
    rate
        Images per second; 0 where it is not known.
    message
        What is sent, or what the service adds.
    audit_id
        The audit, once there is one: with it a caller can `watch` or `cancel` from elsewhere.
    """

    stage: str
    done: int = 0
    total: int = 0
    rate: float = 0.0
    message: str = ""
    audit_id: str = ""


ProgressCallback = Callable[[Progress], None]
