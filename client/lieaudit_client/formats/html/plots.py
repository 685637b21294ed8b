"""Drawings of two axes as SVG: written here, coloured by the page's style sheet, sharp at every size and on paper.

Marks carry what they are in ``data-tip``; the page's script shows it, and `tip` writes it as a title for everything
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lieaudit_client.formats.html.markup import text
from lieaudit_client.formats.html.scales import Scale, percent_label


@dataclass(slots=True)
class Plot:
    """A plot of ``width`` × ``height`` units with axes; marks are added in the units of its scales."""

    x: Scale
    y: Scale
    x_title: str
    y_title: str
    said: str
    width: int = 440
    height: int = 300
    percent: tuple[bool, bool] = (False, False)
    left: int = 52
    marks: list[str] = field(default_factory=list)

    _TOP, _RIGHT, _BOTTOM = 24, 22, 40

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a point, kept inside of the frame."""
        wide, high = self.width - self.left - self._RIGHT, self.height - self._TOP - self._BOTTOM
        return self.left + wide * self.x.inside(x), self._TOP + high * (1 - self.y.inside(y))

    def dot(self, x: float, y: float, kind: str, tip: str, size: float = 4.0) -> None:
        """Add a point; one that is off the scale becomes an arrow at the edge, pointing to where it is."""
        across, down = self.at(x, y)
        off = self._off(x, y)
        if off:
            self.marks.append(_arrow(across, down, off, kind, tip))
        else:
            self.marks.append(
                f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="{size:g}" data-tip="{text(tip)}"/>'
            )

    def _off(self, x: float, y: float) -> str:
        for place, low, high in ((self.x.place(x), "left", "right"), (self.y.place(y), "down", "up")):
            if place < -1e-9:
                return low
            if place > 1 + 1e-9:
                return high
        return ""

    def line(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Add a line through points."""
        self.marks.append(f'<path class="{kind}" d="{self.path(points)}"/>')

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Write a line as a path's data."""
        steps = [f"{across:.1f},{down:.1f}" for across, down in (self.at(x, y) for x, y in points)]
        return "M" + "L".join(steps) if steps else ""

    def labels(self, points: Sequence[tuple[float, float, str]]) -> None:
        """Name points, each on the first side where its name covers no other point and no other name."""
        spots = [self.at(x, y) for x, y, _ in points]
        taken = [(across - 4, down - 4, across + 4, down + 4) for across, down in spots]
        for (across, down), (_, _, words) in zip(spots, points, strict=True):
            wide = _LETTER * len(words)
            boxes = [
                (across + dx, down + dy - 11, across + dx + wide, down + dy + 1)
                for dx, dy in ((9, 5), (-9 - wide, 5), (-wide / 2, -9), (-wide / 2, 19), (9, 17), (9, -7))
            ]
            free = [box for box in boxes if self._fits(box) and not any(_overlap(box, other) for other in taken)]
            box = free[0] if free else boxes[0]
            taken.append(box)
            self.marks.append(f'<text class="note" x="{box[0]:.1f}" y="{box[3] - 2:.1f}">{text(words)}</text>')

    def _fits(self, box: tuple[float, float, float, float]) -> bool:
        return box[0] > self.left and box[2] < self.width and box[1] > 0 and box[3] < self.height - self._BOTTOM

    def note(self, x: float, y: float, words: str, kind: str = "note", *, end: bool = False, lift: float = 0.0) -> None:
        """Add words beside a point, to its left where ``end``."""
        across, down = self.at(x, y)
        side = ' text-anchor="end"' if end else ""
        shift = -9 if end else 9
        self.marks.append(
            f'<text class="{kind}" x="{across + shift:.1f}" y="{down + 4 - lift:.1f}"{side}>{text(words)}</text>'
        )

    def bar(self, x: float, low: float, high: float, kind: str) -> None:
        """Add a vertical interval; an end that is off the scale becomes an arrow."""
        (across, bottom), (_, top) = self.at(x, low), self.at(x, high)
        self.marks.append(
            f'<line class="{kind}" x1="{across:.1f}" x2="{across:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"/>'
        )
        for value, down, off in ((low, bottom, "down"), (high, top, "up")):
            if self._off(x, value) == off:
                self.marks.append(_arrow(across, down, off, kind, ""))

    def svg(self) -> str:
        """Return the drawing."""
        return (
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{text(self.said)}">'
            f"{self._grid()}{''.join(self.marks)}</svg>"
        )

    def _grid(self) -> str:
        bottom, right = self.height - self._BOTTOM, self.width - self._RIGHT
        parts = []
        for place, said in _labelled(self.x, percent=self.percent[0], most=self.width // 75):
            across = self.left + (right - self.left) * place
            parts.append(f'<line class="grid" x1="{across:.1f}" x2="{across:.1f}" y1="{self._TOP}" y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{across:.1f}" y="{bottom + 15}" text-anchor="middle">{said}</text>')
        for place, said in _labelled(self.y, percent=self.percent[1], most=self.height // 45):
            down = bottom - (bottom - self._TOP) * place
            parts.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{down:.1f}" y2="{down:.1f}"/>')
            parts.append(f'<text class="tick" x="{self.left - 6}" y="{down + 4:.1f}" text-anchor="end">{said}</text>')
        parts.append(
            f'<text class="axis" x="{right}" y="{self.height - 6}" text-anchor="end">{text(self.x_title)}</text>'
        )
        parts.append(f'<text class="axis" x="4" y="13">{text(self.y_title)}</text>')
        return "".join(parts)


_LETTER = 6.0
"""Width of a letter of a label, at most on the average."""


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _labelled(scale: Scale, *, percent: bool, most: int) -> Sequence[tuple[float, str]]:
    ticks = scale.ticks(max(3, most))
    if not percent:
        return ticks
    return [(place, percent_label(scale.low + place * (scale.high - scale.low))) for place, _ in ticks]


_POINTS = {"left": "-6,0 3,-5 3,5", "right": "6,0 -3,-5 -3,5", "down": "0,6 -5,-3 5,-3", "up": "0,-6 -5,3 5,3"}


def _arrow(across: float, down: float, off: str, kind: str, tip: str) -> str:
    said = f' data-tip="{text(tip)} (off the scale)"' if tip else ""
    return f'<polygon class="{kind} off" points="{_POINTS[off]}" transform="translate({across:.1f},{down:.1f})"{said}/>'


def rows(scale: Scale, entries: Sequence[tuple[str, Sequence[str]]], said: str, *, percent: bool = False) -> str:
    """Return a chart of one row per entry (name as HTML, tracks as HTML) under a common axis of marked values."""
    marks = _labelled(scale, percent=percent, most=7)
    axis = "".join(f'<span style="left:{100 * place:.2f}%">{said_}</span>' for place, said_ in marks)
    grid = "".join(f'<b style="left:{100 * place:.2f}%"></b>' for place, _ in marks)
    lines = "".join(
        f'<div class="name">{name}</div><div class="tracks">'
        + "".join(f'<div class="track">{grid}{track}</div>' for track in tracks)
        + "</div>"
        for name, tracks in entries
    )
    head = f'<div class="name"></div><div class="scale" aria-hidden="true">{axis}</div>'
    return f'<div class="rows" role="group" aria-label="{text(said)}">{head}{lines}</div>'


def mark(scale: Scale, value: float, bounds: Sequence[float], kind: str, tip: str) -> str:
    """Return a value with its interval for a track of `rows`; what is off the scale is an arrow at its edge."""
    parts = []
    if len(bounds) == 2:
        low, high = (scale.inside(bound) for bound in bounds)
        parts.append(f'<i class="ci {kind}" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>')
        if scale.place(bounds[0]) < 0:
            parts.append(f'<i class="off left {kind}" style="left:{100 * low:.2f}%"></i>')
        if scale.place(bounds[1]) > 1:
            parts.append(f'<i class="off right {kind}" style="left:{100 * high:.2f}%"></i>')
    place = scale.place(value)
    if 0 <= place <= 1:
        parts.append(f'<i class="dot {kind}" style="left:{100 * place:.2f}%"></i>')
    else:
        side = "left" if place < 0 else "right"
        parts.append(f'<i class="off {side} {kind}" style="left:{100 * scale.inside(value):.2f}%"></i>')
    return f'<span class="mark" data-tip="{text(tip)}">{"".join(parts)}</span>'


def beam(scale: Scale, value: float, kind: str, tip: str) -> str:
    """Return a bar from zero to a value for a track of `rows`; longer than the scale, it ends in an arrow."""
    zero, end = scale.inside(0.0), scale.inside(value)
    left, width = min(zero, end), abs(end - zero)
    parts = [f'<i class="zero" style="left:{100 * zero:.2f}%"></i>']
    sign = "minus" if value < 0 else "plus"
    parts.append(f'<i class="beam {sign} {kind}" style="left:{100 * left:.2f}%;width:{100 * width:.2f}%"></i>')
    if not 0 <= scale.place(value) <= 1:
        side = "left" if value < 0 else "right"
        parts.append(f'<i class="off {side} {kind}" style="left:{100 * end:.2f}%"></i>')
    return f'<span class="mark" data-tip="{text(tip)}">{"".join(parts)}</span>'
