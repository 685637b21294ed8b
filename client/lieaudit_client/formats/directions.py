"""The worst and the best direction, as text."""

from __future__ import annotations

from collections.abc import Iterable

from lieaudit_api.v1 import report_pb2
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.arrows import as_option, drawn, extremes, field_of, size_of
from lieaudit_client.formats.numbers import interval, number

ABOUT = (
    "every direction: LEE for one pixel of motion (root mean square over the image); signs play no part. The largest "
    "of many is one that these images flattered: resampling them says by how much it lies above."
)


def directions_view(affine: report_pb2.Affine) -> Iterable[RenderableType]:
    """Return a block for each extreme, arrows beside what they mean, and a line for the mean."""
    yield Text("\nevery direction")
    for name, found in extremes(affine):
        block = Table.grid(padding=(0, 3))
        block.add_row(Text("\n".join(drawn(field_of(found), size_of(affine)))), Group(*_lines(name, found)))
        yield Padding(block, (0, 0, 1, 1))
    within = f", 95 % {interval(affine.mean_ci95)}" if affine.mean_ci95 else ""
    yield Padding(Text(f"mean over all directions: {number(affine.mean)}{within}"), (0, 0, 0, 1))
    yield Padding(Text(ABOUT, style="dim"), (0, 0, 0, 1))


def _lines(name: str, found: report_pb2.AffineDirection) -> Iterable[Text]:
    yield Text.assemble((f"{name} direction: ", "bold"), found.words)
    bias = ""
    if found.HasField("bias"):
        bias = f", {'above' if found.bias >= 0 else 'below'} by about {number(abs(found.bias))}"
    within = f", 95 % {interval(found.ci95)}" if found.ci95 else ""
    yield Text(f"LEE {number(found.lee)}{within} ± {number(found.error_bar)}{bias}")
    yield Text(f"--generator {name}='{as_option(found)}'", style="dim")
