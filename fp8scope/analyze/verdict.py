"""What all sites together say about E4M3 with one static scale per tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.thresholds import CAST_ROLES, DAMAGED_DB, FLOOR_DB, LOW_HEADROOM
from fp8scope.core.sites import Role


@dataclass(frozen=True)
class Verdict:
    """Of the `sites` that FP8 would cast: which are damaged and which scales hang on one tag.

    `damaged` (body SQNR under 25 dB) and `one_tag` (headroom under .8) are worst first;
    `below_floor` counts those between damaged and the floor (30 dB). `lowest` has the lowest
    body SQNR, `most_underflow` the highest underflow rate; None without sites.
    `least_headroom` is None with one tag as well.
    """

    sites: int
    damaged: tuple[SiteMeasures, ...]
    below_floor: int
    one_tag: tuple[SiteMeasures, ...]
    lowest: SiteMeasures | None
    most_underflow: SiteMeasures | None
    least_headroom: SiteMeasures | None


def judge(rows: Iterable[SiteMeasures]) -> Verdict:
    """The verdict on those of `rows` that FP8 would cast."""
    cast = [row for row in rows if row.site.role in CAST_ROLES]
    by_body = in_order(cast, "body-sqnr")
    by_headroom = [row for row in in_order(cast, "headroom") if row.headroom is not None]
    damaged = tuple(row for row in by_body if row.error.body_sqnr_db < DAMAGED_DB)
    return Verdict(
        sites=len(cast),
        damaged=damaged,
        below_floor=sum(row.error.body_sqnr_db < FLOOR_DB for row in cast) - len(damaged),
        one_tag=tuple(row for row in by_headroom if _headroom(row) < LOW_HEADROOM),
        lowest=next(iter(by_body), None),
        most_underflow=next(iter(in_order(cast, "underflow")), None),
        least_headroom=next(iter(by_headroom), None),
    )


def in_order(
    rows: Iterable[SiteMeasures], by: str = "severity", roles: Collection[Role] = tuple(Role)
) -> list[SiteMeasures]:
    """The rows of these roles, worst first by one of `ORDERS`. Raises KeyError for another."""
    return sorted((row for row in rows if row.site.role in roles), key=ORDERS[by])


def _headroom(row: SiteMeasures) -> float:
    return math.inf if row.headroom is None else row.headroom


ORDERS: Mapping[str, Callable[[SiteMeasures], Any]] = {
    "severity": lambda row: row.severity,
    "body-sqnr": lambda row: row.error.body_sqnr_db,
    "underflow": lambda row: -row.error.underflow_rate,
    "outlier": lambda row: -row.outlier_ratio,
    "headroom": _headroom,
}
"""Sort keys by name; the smallest is the worst."""
