"""KL of candidates as bars on a log axis, with error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import ceil, floor, log10

from rich.cells import cell_len
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from fp8scope.analyze.sensitivity import Score
from fp8scope.core.words import nats, printable
from fp8scope.report.findings import FEWEST_NATS, term_words, with_error

NARROWEST = 16  # a bar beside which the worst tag is said
MEASURED, PREDICTED = "●", "○"


def kl_bars(scores: Sequence[Score], width: int) -> Content:
    """One line per score in their order, and an axis below. `width`: of all of it."""
    names = [term_words(score.row.terms[-1]) for score in scores]
    figures = [_figures(score) for score in scores]
    left, right = max(map(len, names)), max(map(cell_len, figures))
    if left + right + 2 + NARROWEST > width:
        figures = [_figures(score, tag=False) for score in scores]
        right = max(map(cell_len, figures))
    room = max(1, width - left - right - 2)
    high = max((_end(score) for score in scores), default=0.0)
    low, high = log10(FEWEST_NATS), max(ceil(log10(max(high, 1e-4))), log10(FEWEST_NATS) + 1)
    axis = _Axis(low, high, room)
    lines = [
        Content.assemble(f"{name:<{left}} ", *axis.bar(score), f" {figure}")
        for name, score, figure in zip(names, scores, figures, strict=True)
    ]
    return Content("\n").join([*lines, Content(" " * (left + 1) + axis.labels())])


def _figures(score: Score, *, tag: bool = True) -> str:
    """The numbers beside a bar; ● where they were measured."""
    mark = MEASURED if score.measured else PREDICTED
    worst = score.worst_tag if tag else ""
    most = f", {printable(worst)} {nats(score.tags[worst].kl)}" if worst else ""
    return f"{mark} {with_error(score)}{most}"


def _end(score: Score) -> float:
    error = 0.0 if math.isnan(score.nats.error) else score.nats.error
    end = score.kl + error
    return end if math.isfinite(end) else 0.0


class _Axis:
    """Logarithmic, from 10^low to 10^high nats in `room` cells."""

    def __init__(self, low: float, high: float, room: int) -> None:
        self._low, self._high, self._room = low, high, room

    def cell(self, kl: float) -> int:
        """Cells from the left end to this KL."""
        if math.isnan(kl) or kl <= 10**self._low:
            return 0
        if math.isinf(kl):
            return self._room
        share = (log10(kl) - self._low) / (self._high - self._low)
        return max(0, min(self._room, round(share * self._room)))

    def bar(self, score: Score) -> list[tuple[str, str]]:
        """The bar, and `├─┤` from one standard error below to one above."""
        end, cells = self.cell(score.kl), [(" ", "")] * self._room
        cells[:end] = [("█", "$primary")] * end
        spread = score.nats.error
        if end and math.isfinite(score.kl) and not math.isnan(spread):
            start = max(0, self.cell(score.kl - spread) - 1)
            stop = max(start + 1, min(self._room - 1, self.cell(score.kl + spread)))
            marks = ["├", *"─" * (stop - start - 1), "┤"][: self._room - start]
            cells[start : stop + 1] = [
                (mark, "$accent on $primary" if start + i < end else "$accent")
                for i, mark in enumerate(marks)
            ]
        return cells

    def labels(self) -> str:
        """Powers of ten below their places, the first with the unit."""
        line = [" "] * (self._room + 6)
        for power in range(floor(self._low), int(self._high) + 1):
            at, text = self.cell(10.0**power), f"1e{power}" if power else "1"
            if at == 0 or line[max(0, at - 2)] == " ":
                line[at : at + len(text)] = text
        return "".join(line).rstrip() + " nats per token"


class KlBars(Widget):
    """Scores as bars, as wide as there is room."""

    DEFAULT_CSS = "KlBars { height: auto; }"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  (textual's)
        super().__init__(id=id)
        self.scores: Sequence[Score] = ()

    def show(self, scores: Sequence[Score]) -> None:
        """Show these, in their order."""
        self.scores, self.display = scores, bool(scores)
        self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """One line each, and the axis."""
        return len(self.scores) + 1

    def render(self) -> Content:
        """The bars."""
        return kl_bars(self.scores, self.size.width) if self.scores else Content("")
