"""A value for each pair of row and column (models, generators), in as many blocks of columns as the terminal needs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lieaudit_client.formats.columns import GAP, MARGIN, Column, Fitted

Cell = tuple[str, ...]
"""What is read first, and what stands beside it, or beneath it where there is no room."""
_NAME = 24


class Matrix:
    """Rows of cells under the labels of their columns; cells are never cut, columns that do not fit follow below."""

    def __init__(self, corner: str, labels: Sequence[str], rows: Sequence[tuple[Cell, Sequence[Cell]]]) -> None:
        self._corner = corner
        self._labels = labels
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the blocks out for the width at hand."""
        room = options.max_width - MARGIN
        everything = range(len(self._labels))
        whole = self._table(everything, " ")
        if sum(whole.natural()) + GAP * len(self._labels) <= room:
            yield whole
            return
        name, *widths = self._table(everything, "\n").natural()
        left = room - min(name, _NAME)
        block: list[int] = []
        for place in everything:
            taken = sum(widths[other] + GAP for other in (*block, place))
            if block and taken > left:
                yield self._table(block, "\n")
                block = []
            block.append(place)
        yield self._table(block, "\n")

    def _table(self, places: Sequence[int], between: str) -> Fitted:
        columns = [Column(self._corner, wraps=True), *(Column(self._labels[place], right=True) for place in places)]
        rows = [
            [Text(between.join(name)), *(Text(between.join(filter(None, cells[place]))) for place in places)]
            for name, cells in self._rows
        ]
        return Fitted(columns, rows)
