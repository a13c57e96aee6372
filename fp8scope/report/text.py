"""The table of sites for a person in a terminal, with the verdict above it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.analyze.verdict import Verdict, in_order, judge
from fp8scope.core.sites import Role
from fp8scope.core.words import common_prefix, decibel, number, percent, times
from fp8scope.report.sentence import sentence
from fp8scope.report.words import headroom, literal, place, role, shorten

SHORTEST_NAME, SHORTEST_PLACE = 8, 20
GAP = 2  # cells between columns


def worst_sites(
    rows: Sequence[SiteMeasures],
    count: int,
    *,
    by: str = "severity",
    roles: Collection[Role] = CAST_ROLES,
) -> WorstSites:
    """Something that rich prints: the verdict on `rows`, and the first `count` in a table.

    by: one of `verdict.ORDERS`. roles: what the table shows; the verdict is always on what
    FP8 would cast.
    """
    prefix = common_prefix(row.site.module for row in rows)
    shown = in_order(rows, by, roles)
    title = (
        "no site has this role"
        if not shown
        else f"first {min(count, len(shown))} of {len(shown)} sites by {by}"
    )
    if shown and prefix:
        title += f"; names without their first “{prefix}”"
    return WorstSites(judge(rows), shown[:count], title, prefix)


@dataclass(frozen=True)
class WorstSites:
    """Fits itself to the console: what does not fit is left out, and no name is broken."""

    verdict: Verdict
    rows: Sequence[SiteMeasures]
    title: str
    prefix: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(sentence(self.verdict, self._name))
        yield Text()
        yield literal(self.title)
        if self.rows:
            yield self._table(options.max_width)

    def _name(self, row: SiteMeasures) -> str:
        return literal(row.site.module.removeprefix(self.prefix)).plain

    def _table(self, width: int) -> Table:
        columns, place_width = self._columns(width)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for header in columns:
            justify: Literal["left", "right"] = "left" if header in ("module", "role") else "right"
            table.add_column(header, justify=justify, no_wrap=True, vertical="bottom")
        if place_width:
            table.add_column("tag, token and its text", no_wrap=True, vertical="bottom")
        for row, *cells in zip(self.rows, *columns.values(), strict=True):
            where = [place(row.worst, place_width) if row.worst else Text()] if place_width else []
            table.add_row(*map(Text, cells), *where)
        return table

    def _columns(self, width: int) -> tuple[dict[str, list[str]], int]:
        """Cells by header, and the width that is left for the place in the text, or 0."""
        columns = {
            "module": [self._name(row) for row in self.rows],
            "role": [role(row) for row in self.rows],
            "body\nSQNR": [decibel(row.error.body_sqnr_db) for row in self.rows],
            "under-\nflow": [percent(row.error.underflow_rate) for row in self.rows],
            "amax/\nrms": [times(row.outlier_ratio) for row in self.rows],
        }
        if any(map(headroom, self.rows)):
            columns["head-\nroom"] = [headroom(row) for row in self.rows]
        with_place = columns | {
            "amax": [number(row.amax) for row in self.rows],
            "chan-\nnel": [str(row.worst.channel) if row.worst else "" for row in self.rows],
        }
        left = width - natural_width(with_place) - GAP
        if left >= SHORTEST_PLACE and any(row.worst for row in self.rows):
            return with_place, left
        longest = max(map(cell_len, columns["module"])) + min(0, width - natural_width(columns))
        short = max(longest, SHORTEST_NAME)
        return columns | {"module": [shorten(name, short) for name in columns["module"]]}, 0


def natural_width(columns: dict[str, list[str]]) -> int:
    """Width of a table of these columns."""
    widths = (
        max(map(cell_len, [*header.split("\n"), *cells])) for header, cells in columns.items()
    )
    return sum(width + GAP for width in widths) - GAP
