"""The rows of the table of sites: their cells, their orders, and which of them are shown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.analyze.verdict import ORDERS
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import decibel, number, percent, printable, times
from fp8scope.report.snapshot import Snapshot
from fp8scope.report.words import headroom, place, role

MARK = "!"
FINDING = "finding"


@dataclass(frozen=True)
class Column:
    """`cell` is None for the place in the text, which is as wide as there is room. The smallest
    `key` is the worst, and comes first.
    """

    header: str
    cell: Callable[[SiteMeasures], str] | None
    key: Callable[[SiteMeasures], Any]
    left: bool = False


def _by_place(row: SiteMeasures) -> tuple[bool, str, str, int]:
    worst = row.worst
    return (worst is None, worst.tag, worst.token, worst.position) if worst else (True, "", "", 0)


@cache
def by_name(site: Site) -> tuple[tuple[tuple[int, str], ...], str]:
    """Blocks in the order of their numbers."""
    parts = re.split(r"(\d+)", site.module)
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts), str(site.role)


def columns(short: Callable[[str], str]) -> list[Column]:
    """What `analyze --sites` shows."""
    return [
        Column(
            "module", lambda r: printable(short(r.site.module)), lambda r: by_name(r.site), True
        ),
        Column("role", role, lambda r: (list(Role).index(r.site.role), by_name(r.site)), True),
        Column("body SQNR", lambda r: decibel(r.error.body_sqnr_db), ORDERS["body-sqnr"]),
        Column("underflow", lambda r: percent(r.error.underflow_rate), ORDERS["underflow"]),
        Column("amax/rms", lambda r: times(r.outlier_ratio), ORDERS["outlier"]),
        Column("headroom", headroom, ORDERS["headroom"], True),
        Column("amax", lambda r: number(r.amax), lambda r: -r.amax),
        Column(
            "channel",
            lambda r: str(r.worst.channel) if r.worst else "",
            lambda r: r.worst.channel if r.worst else math.inf,
        ),
        Column("tag, token and its text", None, _by_place, True),
    ]


ROLE_FILTERS: Mapping[str, tuple[Role, ...]] = {
    "what FP8 casts": CAST_ROLES,
    **{str(role): (role,) for role in (*CAST_ROLES, Role.RESIDUAL, Role.OUTPUT)},
    "all roles": tuple(Role),
}


@dataclass(frozen=True)
class View:
    """Which sites are shown, and in which order; `column` None is by severity."""

    column: int | None = None
    reverse: bool = False
    roles: str = next(iter(ROLE_FILTERS))
    block: str | None = None
    findings: bool = False
    search: str = ""

    def next_column(self, count: int) -> View:
        """Sorted by the next column, and after the last by severity."""
        after = 0 if self.column is None else self.column + 1
        return replace(self, column=after if after < count else None, reverse=False)

    def next_roles(self, there: Iterable[Role]) -> View:
        """The next filter that lets anything through."""
        known, names = set(there), list(ROLE_FILTERS)
        at = names.index(self.roles)
        following = [*names[at + 1 :], *names[: at + 1]]
        return replace(self, roles=next(n for n in following if known & {*ROLE_FILTERS[n]}))

    def rows(self, snapshot: Snapshot, table: list[Column]) -> list[SiteMeasures]:
        """The sites that are known and shown, in order."""
        roles, wanted = ROLE_FILTERS[self.roles], self.search.casefold()
        harmful = findings(snapshot) if self.findings else set()
        found = [
            row
            for row in (snapshot.sites or {}).values()
            if row.site.role in roles
            and (self.block is None or in_block(row.site.module, self.block))
            and (not self.findings or marked(row, harmful))
            and (not wanted or wanted in f"{row.site.module} {row.site.role}".casefold())
        ]
        by = ORDERS["severity"] if self.column is None else table[self.column].key
        return sorted(found, key=by, reverse=self.reverse)


def in_block(module: str, block: str) -> bool:
    """Whether a module is a block, or in it."""
    return module == block or module.startswith(f"{block}.")


def block_of(snapshot: Snapshot, module: str) -> str | None:
    """The block that a module is in."""
    blocks = snapshot.profile.structure.blocks
    return next((block for block in blocks if in_block(module, block)), None)


def findings(snapshot: Snapshot) -> set[str]:
    """Modules of the groups that are findings; empty as long as that is not known."""
    groups = (snapshot.groups or {}).values()
    return {name for group in groups if group.harmful for name in group.members}


def marked(row: SiteMeasures, harmful: set[str]) -> bool:
    """Whether a row is that of a finding: a weight, or an input that one of its modules reads."""
    if row.site.role not in (Role.INPUT, Role.WEIGHT):
        return False
    return not harmful.isdisjoint(row.shared_by)


class Cells:
    """The cells of rows, which are made once."""

    def __init__(self, table: list[Column]) -> None:
        self.table = table
        self._made: dict[Site, list[str]] = {}
        self._widths = [cell_len(column.header) + 1 for column in table]  # with the arrow

    def __call__(self, row: SiteMeasures) -> list[str]:
        """All but the place in the text."""
        if row.site not in self._made:
            cells = [column.cell(row) for column in self.table if column.cell]
            self._made[row.site] = cells
            by_name(row.site)  # so that the first sort by names finds it
            for at, cell in enumerate(cells):
                self._widths[at] = max(self._widths[at], cell_len(cell))
        return self._made[row.site]

    def widths(self, rows: Iterable[SiteMeasures]) -> list[int]:
        """Of the columns, wide enough for all rows that were ever shown: none jumps about."""
        for row in rows:
            self(row)
        return self._widths[:-1]


def place_words(row: SiteMeasures, width: int) -> Text:
    """Tag, token and the text around it in one line."""
    return place(row.worst, width) if row.worst else Text()
