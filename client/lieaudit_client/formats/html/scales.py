"""Scales of charts: where a value stands, and which values are marked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NICE = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values, even in them or in their logarithms."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the fraction of the way from low to high; outside of [0, 1] where the value is off the scale."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        if value <= 0:
            return -math.inf
        return math.log(value / self.low) / math.log(self.high / self.low)

    def inside(self, value: float) -> float:
        """Return the fraction, kept on the scale."""
        return min(1.0, max(0.0, self.place(value)))

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return the marked values, as fractions with their labels."""
        values = _log_ticks(self, most) if self.log else _even_ticks(self, most)
        return [(self.place(value), label(value)) for value in values]


def log_scale(values: Iterable[float], room: float = 1.25) -> Scale:
    """Return a logarithmic scale of all positive values with some room at both ends; of none, around 1."""
    positive = [value for value in values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
    if high / low < 3:
        low, high = low / 1.5, high * 1.5
    return Scale(low / room, high * room, log=True)


def even_scale(values: Iterable[float], room: float = 0.06) -> Scale:
    """Return an even scale of all values with some room at both ends; of none, from 0 to 1."""
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    pad = room * (high - low) if high > low else max(room, 0.05) * abs(high) or 1.0
    return Scale(low - pad, high + pad)


def label(value: float) -> str:
    """Write a marked value: plainly near 1, else with a power of ten."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.10g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(_SUPERSCRIPT)
    return power if abs(mantissa - 1) < 1e-9 else f"{mantissa:.3g}·{power}"


def percent_label(value: float) -> str:
    """Write a marked fraction as a percentage."""
    return f"{round(100 * value, 9):.4g} %"


def _log_ticks(scale: Scale, most: int) -> list[float]:
    first, last = math.ceil(math.log10(scale.low) - 1e-9), math.floor(math.log10(scale.high) + 1e-9)
    if last - first >= 2:
        step = max(1, math.ceil((last - first + 1) / most))
        return [10.0**exponent for exponent in range(first, last + 1, step)]
    values = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1.0, 2.0, 5.0)]
    shown = [value for value in values if scale.low <= value <= scale.high]
    return shown if len(shown) >= 2 else [v for v in _even_ticks(scale, most) if v > 0]


def _even_ticks(scale: Scale, most: int) -> list[float]:
    span = scale.high - scale.low
    if not (span > 0 and math.isfinite(span)):
        return []
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(size * nice for nice in _NICE if span / (size * nice) <= most)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [step * place for place in range(first, last + 1)]
