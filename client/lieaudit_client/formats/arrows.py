"""Affine fields for the eye: as ``--generator`` takes them, and as arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lieaudit_api.v1 import report_pb2

Field = tuple[tuple[float, ...], ...]
Arrow = tuple[float, float, float, float]

_OCTANTS = "→↘↓↙←↖↑↗"
"""By the angle from x towards y, which points down."""

_SMALL = 0.3
"""Of the longest arrow: shorter ones are drawn as a point."""


def field_of(direction: report_pb2.AffineDirection) -> Field:
    """Return [[a, b, c], [d, e, f]]; of a report that holds something else, nothing that moves."""
    found = tuple(tuple(map(_number, row)) for row in direction.field)
    return found if [len(row) for row in found] == [3, 3] else ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def as_option(direction: report_pb2.AffineDirection) -> str:
    """Return ``a,b,c;d,e,f``, with as many digits as a measurement of it needs."""
    return ";".join(",".join(f"{value:.7g}" for value in row) for row in field_of(direction))


def size_of(affine: report_pb2.Affine) -> tuple[float, float]:
    """Return height and width of the images in pixels: translations of the basis are by the whole of each.

    Of a report that does not say, those of a square.
    """
    rows = enumerate(zip(affine.basis, affine.displacement, strict=False))
    diagonal = {name: _number(row[i]) for i, (name, row) in rows if i < len(row)}
    squares = [diagonal.get(name, 1.0) for name in ("translation_y", "translation_x")]
    return (math.sqrt(squares[0]), math.sqrt(squares[1])) if min(squares) > 0 else (1.0, 1.0)


def _number(value: object) -> float:
    return value if isinstance(value, float) and math.isfinite(value) else 0.0


def arrows(field: Field, size: tuple[float, float], rows: int, columns: int) -> list[list[Arrow]]:
    """Return (x, y, vx, vy) at the centres of ``rows`` by ``columns`` equal parts of an image, the longest v of norm 1.

    x and y in shares of the image, 0 … 1 from its top left corner.
    """
    height, width = size
    found: list[list[Arrow]] = []
    for i in range(rows):
        found.append([])
        for j in range(columns):
            across, down = (j + 0.5) / columns, (i + 0.5) / rows
            x, y = (across - 0.5) * width, (down - 0.5) * height
            vx, vy = (row[0] * x + row[1] * y + row[2] for row in field)
            found[-1].append((across, down, vx, vy))
    longest = max(math.hypot(vx, vy) for line in found for _, _, vx, vy in line) or 1.0
    return [[(x, y, vx / longest, vy / longest) for x, y, vx, vy in line] for line in found]


def drawn(field: Field, size: tuple[float, float], *, rows: int = 5, columns: int = 9) -> list[str]:
    """Draw a field with arrows of text, a line for each row."""
    return [" ".join(_arrow(vx, vy) for _, _, vx, vy in line) for line in arrows(field, size, rows, columns)]


def _arrow(vx: float, vy: float) -> str:
    if math.hypot(vx, vy) < _SMALL:
        return "·"
    return _OCTANTS[round(math.atan2(vy, vx) / (math.pi / 4)) % 8]


def extremes(affine: report_pb2.Affine) -> Sequence[tuple[str, report_pb2.AffineDirection]]:
    """Return the worst and the best direction with their names."""
    return ("worst", affine.worst), ("best", affine.best)
