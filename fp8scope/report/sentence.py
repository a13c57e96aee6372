"""The verdict on all sites as one sentence."""

from __future__ import annotations

from collections.abc import Callable

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.thresholds import DAMAGED_DB, FLOOR_DB, LOW_HEADROOM
from fp8scope.analyze.verdict import Verdict
from fp8scope.core.words import decibel, percent
from fp8scope.report.words import headroom


def sentence(verdict: Verdict, name: Callable[[SiteMeasures], str]) -> str:
    """The verdict in one line. `name` writes a module's name."""
    lowest, underflow = verdict.lowest, verdict.most_underflow
    if lowest is None or underflow is None:
        return "No site that FP8 would cast."

    def site(row: SiteMeasures) -> str:
        return f"{name(row)} {row.site.role}"

    worst = f"{site(lowest)} {decibel(lowest.error.body_sqnr_db)}"
    if verdict.damaged:
        found = f"{len(verdict.damaged)} damaged (body SQNR under {DAMAGED_DB:.0f} dB)"
        parts = [f"{found}, worst {worst}"]
        if verdict.below_floor:
            parts.append(f"{verdict.below_floor} more under the floor of {FLOOR_DB:.0f} dB")
    elif verdict.below_floor:
        parts = [
            f"none damaged (body SQNR under {DAMAGED_DB:.0f} dB), "
            f"{verdict.below_floor} under the floor of {FLOOR_DB:.0f} dB, worst {worst}"
        ]
    else:
        parts = [f"all at the rounding floor (body SQNR from {FLOOR_DB:.0f} dB)"]
    rate = underflow.error.underflow_rate
    parts.append(
        f"underflow at most {percent(rate)} ({site(underflow)})" if rate else "no underflow"
    )
    if verdict.least_headroom:
        parts.append(_one_tag(verdict.least_headroom, len(verdict.one_tag), site))
    return f"{verdict.sites} sites in E4M3 with one static scale each: {'; '.join(parts)}."


def _one_tag(least: SiteMeasures, count: int, site: Callable[[SiteMeasures], str]) -> str:
    where = f"{site(least)} {headroom(least)}"
    under = f"headroom under {LOW_HEADROOM}"
    if count == 0:
        return f"no static scale depends on one tag ({under})"
    if count == 1:
        return f"1 static scale depends on one tag ({under}): {where}"
    return f"{count} static scales depend on one tag ({under}), worst {where}"
