"""How to read the numbers of an audit, said on the audit's own numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from lieaudit_api.v1 import report_pb2
from rich.padding import Padding
from rich.text import Text

from lieaudit_client.formats.numbers import number

LEE = (
    "LEE: how fast the output changes along the symmetry, squared, mean over outputs and images; 0 is equivariant. "
    "It goes with the square of the unit of t: compare one generator between models, and generators by LEE/px²."
)
RELATIVE = (
    "relative: the answer to the symmetry over that to an equally large other change of the image, both squared, on "
    "the typical image. 1: nothing of the symmetry is learned; 0.01: the model answers a tenth as much."
)
ERROR_BAR = "error bar: numerical error of LEE. 95 % interval: how far other images would move it."


def legend(report: report_pb2.Report) -> Iterable[Padding]:
    """Return the lines below the table: what the columns are, and what good looks like on these images."""
    if report.results:
        yield from (_line(text) for text in (LEE, RELATIVE, ERROR_BAR, *on_this_data(report)))


def on_this_data(report: report_pb2.Report) -> Iterator[str]:
    """Say in the output's own size what a pixel of motion does, and what an equally large other change does.

    √(LEE/px²) is the root mean square change of an output per pixel that the symmetry moves the image, and
    √(LEE/px² · response/LEE) what the directions of `relative` do at that size.
    """
    moved = {name: found for name, found in report.results.items() if found.HasField("lee_per_px2")}
    if not moved:
        return
    ordered = sorted(moved, key=lambda name: (-moved[name].lee_per_px2, name))
    places = [("most sensitive", ordered[0]), ("least", ordered[-1])][: 1 + (len(ordered) > 1)]
    said = []
    for word, name in places:
        result = moved[name]
        other = ""
        if result.HasField("response") and result.lee > 0:
            size = math.sqrt(result.lee_per_px2 * (result.response / result.lee))
            other = f", as large a change that is no symmetry by {number(size)}"
        said.append(
            f"{word} to {name}: a pixel of it changes each output by {number(math.sqrt(result.lee_per_px2))}{other}"
        )
    ending = "; good is far below what other changes do" if "no symmetry" in "".join(said) else ""
    yield f"on these images (root mean square): {'; '.join(said)}{ending}."


def _line(text: str) -> Padding:
    return Padding(Text(text, style="dim"), (0, 0, 0, 1))
