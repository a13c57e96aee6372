"""The table of the sites that changed most between two profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from fp8scope.analyze.compare import Comparison, SiteChange
from fp8scope.core.words import common_prefix, decibel, number, percent, site_name, times
from fp8scope.report.text import natural_width


def comparison_table(found: Comparison, count: int, width: int) -> Table:
    """The first `count` sites; the last columns are left out where `width` is too small."""
    prefix = common_prefix(row.site.module for row in found.sites)
    columns = _columns(found.sites[:count], prefix)
    while natural_width(columns) > width and len(columns) > 1:
        columns.popitem()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for header in columns:
        justify: Literal["left", "right"] = "left" if header == "site" else "right"
        table.add_column(header, justify=justify, no_wrap=True, vertical="bottom")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    return table


def _columns(rows: Sequence[SiteChange], prefix: str) -> dict[str, list[str]]:
    """Cells by header, the most telling columns first."""
    return {
        "site": [site_name(row.site, prefix) for row in rows],
        "amax A": [number(row.a.amax) for row in rows],
        "amax B": [number(row.b.amax) for row in rows],
        "B/A": [f"{times(row.amax_ratio)}×" for row in rows],
        "sequences\nclipped": [percent(row.whole.share) for row in rows],
        "by over\n20%": [percent(row.whole.far_share) for row in rows],
        "values\nclipped": [percent(row.whole.rate) for row in rows],
        "body SQNR\nA → B": [
            f"{decibel(row.a.error.body_sqnr_db)} → {decibel(row.b.error.body_sqnr_db)}"
            for row in rows
        ],
        "place\nA → B": [f"{row.rank_a} → {row.rank_b}" for row in rows],
    }
