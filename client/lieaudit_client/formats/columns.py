"""Tables that fit the terminal: what has no room stands beneath its row, and no number is ever cut.

rich cuts cells with an ellipsis where a table is too wide. Here the columns of the highest ``rank`` leave the row
first; their cells follow beneath it with their titles. What is left shrinks only where it is running text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP, MARGIN = 2, 1
"""Spaces between columns, and before the first."""
_DETAIL = 4
_LONGEST_NAME = 160
_TITLE = 12
_NARROWEST = 8
"""Cells of running text break over lines down to this; titles from `_TITLE` on."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; ``rank`` 0 stays in the row at every width, the highest leaves it first.

    ``wraps`` says that its cells are names or running text, which may break over lines; numbers never do.
    ``bare`` leaves the title out where the cell stands beneath its row; ``drawn`` marks a picture, which is dropped
    where there is no room.
    """

    title: str
    rank: int = 0
    right: bool = False
    wraps: bool = False
    bare: bool = False
    drawn: bool = False


class Fitted:
    """A table as wide as its cells and never wider than the console."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
        self._columns = columns
        self._rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the width at hand."""
        room = options.max_width - MARGIN
        kept, widths = self._fit(room)
        if any(column.title for column in self._columns):
            yield from self._wrapped(
                console, [Text(column.title, style="bold") for column in self._columns], kept, widths
            )
            yield Text(" " * MARGIN + "─" * min(room, sum(widths) + GAP * (len(kept) - 1)))
        left = [place for place in range(len(self._columns)) if place not in kept]
        common = [place for place in left if self._is_common(place)]
        below = [place for place in left if place not in common]
        for row in self._rows:
            yield from self._wrapped(console, row, kept, widths)
            yield from self._beneath(console, [(self._columns[p], row[p]) for p in below], room)
        for place in common:
            yield from map(_indented, _broken(console, Text("all: ") + self._rows[0][place], room - _DETAIL))
        yield Text("")

    def _is_common(self, place: int) -> bool:
        """Whether the running text of a column is the same in all rows: it is then said once, below them."""
        texts = {row[place].plain for row in self._rows}
        return self._columns[place].bare and len(self._rows) > 1 and len(texts) == 1

    def natural(self) -> list[int]:
        """Return the width of every column where nothing is short of room; long titles break over lines."""
        return [self._natural(place) for place in range(len(self._columns))]

    def _natural(self, place: int) -> int:
        cells = max((_width(row[place]) for row in self._rows), default=0)
        return max(cells, min(cell_len(self._columns[place].title), _TITLE))

    def _fit(self, room: int) -> tuple[list[int], list[int]]:
        kept = list(range(len(self._columns)))
        widths = {place: self._natural(place) for place in kept}

        def least(place: int) -> int:
            return min(widths[place], _NARROWEST) if self._columns[place].wraps else widths[place]

        def total(of: dict[int, int]) -> int:
            return sum(of[place] for place in kept) + GAP * (len(kept) - 1)

        while total(widths) > room and any(self._columns[place].rank for place in kept):
            # a long name alone is no reason to move numbers: names of more than a third of the room break first
            wide = {p: min(w, max(_NARROWEST, room // 3)) if self._columns[p].wraps else w for p, w in widths.items()}
            if total(wide) <= room:
                break
            kept.remove(max(kept, key=lambda place: (self._columns[place].rank, place)))
        while total(widths) > room:
            wrapping = [place for place in kept if widths[place] > least(place)]
            if not wrapping:
                break
            widths[max(wrapping, key=lambda place: widths[place])] -= 1
        return kept, [widths[place] for place in kept]

    def _line(self, cells: Sequence[Text], kept: Sequence[int], widths: Sequence[int]) -> Text:
        line = Text(" " * MARGIN, no_wrap=True, overflow="ignore")
        for index, (cell, place, width) in enumerate(zip(cells, kept, widths, strict=True)):
            padding = " " * (width - cell_len(cell.plain))
            line.append(" " * GAP if index else "")
            line.append(padding if self._columns[place].right else "")
            line.append_text(cell)
            line.append("" if self._columns[place].right else padding)
        line.rstrip()
        return line

    def _wrapped(
        self, console: Console, row: Sequence[Text], kept: Sequence[int], widths: Sequence[int]
    ) -> Iterator[Text]:
        cells = [
            [part for line in row[place].split("\n", allow_blank=True) for part in _broken(console, line, width)]
            for place, width in zip(kept, widths, strict=True)
        ]
        for lines in cells:
            for line in lines:
                line.rstrip()
        for index in range(max(map(len, cells))):
            here = [lines[index] if index < len(lines) else Text("") for lines in cells]
            yield self._line(here, kept, widths)

    @staticmethod
    def _beneath(console: Console, cells: Sequence[tuple[Column, Text]], room: int) -> Iterator[Text]:
        """Return the cells that left the row, as many as fit on each line, each with its title."""
        line = Text("")
        for column, cell in cells:
            if not cell.plain.strip() or column.drawn:
                continue
            named = (f"{column.title} ", "dim") if column.title and not column.bare else ""
            piece = Text.assemble(named, Text(" ").join(cell.split("\n")))
            if line.plain and cell_len(line.plain) + 3 + cell_len(piece.plain) > room - _DETAIL:
                yield _indented(line)
                line = Text("")
            line.append(" · " if line.plain else "", style="dim")
            line.append_text(piece)
            if cell_len(line.plain) > room - _DETAIL:
                yield from (_indented(part) for part in line.wrap(console, room - _DETAIL))
                line = Text("")
        if line.plain:
            yield _indented(line)


def brief(name: str) -> str:
    """Leave out the middle of a name that nobody would read to its end."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}"


def _width(cell: Text) -> int:
    return max(map(cell_len, cell.plain.split("\n")))


def _broken(console: Console, line: Text, width: int) -> list[Text]:
    return list(line.wrap(console, width)) if cell_len(line.plain) > width else [line]


def _indented(line: Text) -> Text:
    found = Text(" " * (MARGIN + _DETAIL), no_wrap=True, overflow="ignore")
    found.append_text(line)
    found.rstrip()
    return found
