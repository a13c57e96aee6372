"""A magnitude histogram on log axes, with the range of a number format drawn into it."""

from __future__ import annotations

from itertools import groupby, pairwise
from math import ceil, log10

import numpy as np
from numpy.typing import NDArray
from textual.content import Content, Span
from textual.widget import Widget

from fp8scope.report.zones import Bars, Limits, Zone
from fp8scope.tui.whatif import Outcome

BLOCKS = " ▁▂▃▄▅▆▇█"
AXIS = 5  # cells for the labels of the counts


COLOURS = {
    Zone.UNDERFLOW: "$accent",
    Zone.SUBNORMAL: "$secondary",
    Zone.NORMAL: "$primary",
    Zone.SATURATED: "$accent",
}
"""Of the theme. What is lost is orange, what is kept blue: safe for the colour-blind, and the zones
are named and divided by lines as well.
"""


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
        page.add("".join(cell for cell, _ in run), COLOURS[zone])
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
        page.add(text[:room], COLOURS[zone])


def _power(base: int, exponent: int) -> str:
    return f"{base}{str(exponent).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
