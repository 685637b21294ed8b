"""Parts of outputs: their texts go to the service as they are, with the arrays of anchors that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lieaudit_api.v1 import report_pb2, spec_pb2

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.feeds import read_npy, to_tensor

_ANCHORS = re.compile(r",\s*anchors\s*=\s*([^,]+?)\s*(?=,|$)")


def anchors_of(parts: Sequence[str], given: Mapping[str, Any] | None = None) -> dict[str, spec_pb2.Tensor]:
    """Return the anchors that parts name: what is ``given`` by that name, else the .npy file of that path.

    Raises
    ------
    InvalidInputError
        INVALID_PART: neither is there. INVALID_FEED, UNREADABLE_FILE: it is no array of plain numbers.
    """
    found = {str(name): to_tensor(value, str(name)) for name, value in (given or {}).items()}
    for text in parts:
        for name in _ANCHORS.findall(text):
            if name in found:
                continue
            if not Path(name).is_file():
                raise InvalidInputError(
                    f"anchors={name}: there is no file of this name",
                    reason="INVALID_PART",
                    subject="parts",
                    hint="an .npy file of shape (P, 2) or (P, 4): cx, cy, w, h in pixels",
                )
            found[name] = read_npy(Path(name), name)
    return found


def in_order(report: report_pb2.Report) -> list[str]:
    """Return the names of a report's parts in the order of its specification, centres before sizes."""
    named = [text.partition("=")[0].strip() for text in report.spec.parts]

    def place(name: str) -> tuple[int, str]:
        part = name.partition(".")[0]
        return (named.index(part) if part in named else len(named), name)

    return sorted(report.parts, key=place)
