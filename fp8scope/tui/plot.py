"""A magnitude histogram on log axes, with the range of a number format drawn into it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import groupby, pairwise
from math import ceil, log2, log10

import numpy as np
from numpy.typing import NDArray
from textual.content import Content, Span
from textual.widget import Widget

from fp8scope.core.formats import Format
from fp8scope.core.histogram import Histogram
from fp8scope.tui.whatif import Outcome, saturates_above

BLOCKS = " ▁▂▃▄▅▆▇█"
AXIS = 5  # cells for the labels of the counts
FAR_BELOW = 1e-6  # share of the values that may be drawn in the first column with what is below


class Zone(Enum):
    """What becomes of a magnitude. What is lost is orange, what is kept blue: safe for the
    colour-blind, and the zones are named and divided by lines as well.
    """

    UNDERFLOW = "underflow", "to 0"
    SUBNORMAL = "subnormal", "sub"
    NORMAL = "normal", "norm"
    SATURATED = "saturates", "sat"

    @property
    def colour(self) -> str:
        """One of the theme's."""
        if self in (Zone.UNDERFLOW, Zone.SATURATED):
            return "$accent"
        return "$secondary" if self is Zone.SUBNORMAL else "$primary"


@dataclass(frozen=True)
class Limits:
    """Where the zones of a format under a scale end, as magnitudes: rounded to zero, smallest
    normal, and clamped to the format's max.
    """

    zero: float
    normal: float
    clamped: float

    @classmethod
    def of(cls, fmt: Format, scale: float) -> Limits:
        """An integer grid has no subnormals: its normals begin where it does."""
        zero = fmt.smallest_subnormal / 2
        normal = zero if fmt.mantissa_bits is None else fmt.smallest_normal
        return cls(zero * scale, normal * scale, saturates_above(fmt) * scale)

    def zone(self, magnitude: float) -> Zone:
        """The zone of a magnitude."""
        if magnitude > self.clamped:
            return Zone.SATURATED
        if magnitude >= self.normal:
            return Zone.NORMAL
        return Zone.SUBNORMAL if magnitude > self.zero else Zone.UNDERFLOW


@dataclass(frozen=True)
class Bars:
    """`counts` of the columns, which divide the octaves from `low` to `high` equally."""

    counts: NDArray[np.float64]
    low: float
    high: float

    @classmethod
    def of(cls, histogram: Histogram, elements: int, limits: Limits, width: int) -> Bars:
        """Columns that show all values, but for the smallest: what lies below is in the first."""
        magnitudes, weights, _ = histogram.points()
        weights = weights * (elements / max(histogram.elements, 1))
        found = [limits.zero / 2, limits.clamped * 2]
        if len(magnitudes):
            order = np.argsort(magnitudes, kind="stable")
            below = np.cumsum(weights[order])
            first = order[np.searchsorted(below, FAR_BELOW * below[-1])]
            found += [float(magnitudes[first]), histogram.amax * 1.5]
        low, high = log2(max(min(found), 2.0**-149)), log2(max(found))
        at = np.log2(np.maximum(magnitudes.astype(np.float64), 2.0**-149)) - low
        column = np.clip((at / (high - low) * width).astype(np.int64), 0, width - 1)
        counts = np.bincount(column, weights, minlength=width).astype(np.float64)
        return cls(counts, low, high)

    def middle(self, column: int) -> float:
        """The magnitude in the middle of a column."""
        width = len(self.counts)
        return float(2.0 ** (self.low + (column + 0.5) * (self.high - self.low) / width))


class HistogramPlot(Widget):
    """The plot of an outcome; fills its place."""

    DEFAULT_CSS = "HistogramPlot { height: 1fr; width: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  (textual's)
        super().__init__(id=id)
        self._outcome: Outcome | None = None

    def show(self, outcome: Outcome | None) -> None:
        """Draw this one."""
        self._outcome = outcome
        self.refresh()

    def render(self) -> Content:
        """The lines of the plot."""
        width, height = self.size
        if self._outcome is None:
            return Content("")
        return plot(self._outcome, width, height)


def plot(outcome: Outcome, width: int, height: int) -> Content:
    """The histogram in `width` × `height` cells: bars, an axis of magnitudes, and the zones."""
    columns, rows = max(width - AXIS - 1, 8), max(height - 3, 2)
    limits = Limits.of(outcome.trial.format, outcome.scale)
    bars = Bars.of(outcome.histogram, outcome.elements, limits, columns)
    zones = [limits.zone(bars.middle(column)) for column in range(columns)]
    decades = max(1.0, log10(max(float(bars.counts.max(initial=1)), 1)))
    with np.errstate(divide="ignore"):
        logs = np.log10(bars.counts)
    # one value is a visible eighth
    eighths = np.where(logs < 0, 0, np.maximum(1, np.rint(logs / decades * rows * 8)))
    page = _Page()
    for row in reversed(range(rows)):
        page.add(_label(row, rows, decades))
        _add_row(page, eighths - 8 * row, zones)
    indent = " " * (AXIS + 1)
    page.add(" " * AXIS + "└" + _ruler(bars, columns) + "\n")
    page.add(indent + _magnitudes(bars, columns) + "\n" + indent)
    _add_names(page, zones)
    return page.content()


class _Page:
    """Text and its styles, put together at once: a plot has a thousand runs."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._spans: list[Span] = []
        self._length = 0

    def add(self, text: str, style: str = "") -> None:
        """Append a run."""
        if style:
            self._spans.append(Span(self._length, self._length + len(text), style))
        self._parts.append(text)
        self._length += len(text)

    def content(self) -> Content:
        """All of it."""
        return Content("".join(self._parts), self._spans)


def _label(row: int, rows: int, decades: float) -> str:
    """`10³ ┤` where a decade's line lies in the row."""
    power = ceil(row * decades / rows)
    inside = power * rows / decades < row + 1
    step = ceil(1.5 * decades / rows)
    text = f"{_power(10, power)} ┤" if inside and power % step == 0 else "│"
    return text.rjust(AXIS + 1)


def _add_row(page: _Page, eighths: NDArray[np.float64], zones: list[Zone]) -> None:
    cells = []
    for column, (level, zone) in enumerate(zip(eighths.tolist(), zones, strict=True)):
        starts = column > 0 and zones[column - 1] is not zone
        empty = "┊" if starts else " "
        cells.append((BLOCKS[int(min(level, 8))] if level >= 1 else empty, zone))
    for zone, run in groupby(cells, lambda cell: cell[1]):
        page.add("".join(cell for cell, _ in run), zone.colour)
    page.add("\n")


def _ticks(bars: Bars, columns: int) -> dict[int, int]:
    """Exponents of two by the column that they stand in, about one in eight columns."""
    octaves = bars.high - bars.low
    step = max(1, ceil(8 * octaves / columns))
    powers = range(ceil(bars.low / step) * step, int(bars.high) + 1, step)
    return {min(int((p - bars.low) / octaves * columns), columns - 1): p for p in powers}


def _ruler(bars: Bars, columns: int) -> str:
    ticks = _ticks(bars, columns)
    return "".join("┴" if column in ticks else "─" for column in range(columns))


def _magnitudes(bars: Bars, columns: int) -> str:
    line = [" "] * columns
    for column, power in _ticks(bars, columns).items():
        text = _power(2, power)
        if column + len(text) <= columns:
            line[column : column + len(text)] = text
    return "".join(line)


def _add_names(page: _Page, zones: list[Zone]) -> None:
    """The name of each zone below it, shortened or left out where it is too narrow."""
    starts = [i for i in range(len(zones)) if i == 0 or zones[i - 1] is not zones[i]]
    for start, stop in pairwise([*starts, len(zones)]):
        zone, room = zones[start], stop - start
        name = next((name for name in zone.value if len(name) < room), "")
        text = ("│" + name.center(room - 1)) if start else name.center(room)
        page.add(text[:room], zone.colour)


def _power(base: int, exponent: int) -> str:
    return f"{base}{str(exponent).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
