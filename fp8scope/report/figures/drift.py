"""The amax of every site in A and in B: what lies above the line is clipped by A's scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fp8scope.analyze.compare import Comparison, SiteChange
from fp8scope.analyze.thresholds import LOW_HEADROOM, NO_HEADROOM
from fp8scope.core.words import common_prefix, number, percent, site_name, times
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.text import inert

KINDS = (
    ("clipped by more than 20%", "@accent", "diamond"),
    ("clipped by less", "@second", "circle"),
    ("not clipped", "@main", "circle-open"),
)
"""Told apart by form as well as by colour."""


def drift(found: Comparison) -> Figure:
    """One point a site, on log axes; a click leads to its row."""
    prefix = common_prefix(row.site.module for row in found.sites)
    drawn = [row for row in found.sites if row.a.amax > 0 and row.b.amax > 0]
    counts = [sum(_kind(row) == kind for row in drawn) for kind in range(len(KINDS))]
    traces = [
        _points([row for row in drawn if _kind(row) == kind], kind, prefix)
        for kind in reversed(range(len(KINDS)))
        if counts[kind]
    ]
    ends = _ends(drawn)
    lines = [
        _line(ends, 1 / NO_HEADROOM, "A's scale begins to clip", "@dim", "dot"),
        _line(ends, 1 / LOW_HEADROOM, "clips by more than 20%", "@accent", "dash"),
    ]
    silent = len(found.sites) - len(drawn)
    says = (
        f"Of {len(found.sites)} sites {counts[0]} have values in B that A's scale clips by more "
        f"than 20%, {counts[1]} by less."
    )
    if silent:
        says += f" {silent} silent in A or B are not drawn."
    layout = {
        "xaxis": {"type": "log", "title": {"text": "amax in A"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "amax in B"}, "dtick": 1},
        "legend": {"orientation": "h", "y": -0.2},
        "hovermode": "closest",
    }
    return Figure(
        name="drift",
        title="The largest value of each site, in A and in B",
        says=says,
        views=(View("amax", (*lines, *traces), layout),),
    )


def _kind(row: SiteChange) -> int:
    if any(of.far_sequences for of in (row.whole, *row.tags.values())):
        return 0
    return 1 if row.whole.saturated_sequences else 2


def _points(rows: Sequence[SiteChange], kind: int, prefix: str) -> dict[str, Any]:
    name, colour, symbol = KINDS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} ({len(rows)})",
        "x": [row.a.amax for row in rows],
        "y": [row.b.amax for row in rows],
        "text": [_said(row, prefix) for row in rows],
        "customdata": [f"#{anchor(str(row.site))}" for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 8},
    }


def _said(row: SiteChange, prefix: str) -> str:
    worst = row.tags[row.worst_tag]
    return "<br>".join(
        (
            inert(site_name(row.site, prefix)),
            f"amax {number(row.a.amax)} → {number(row.b.amax)} ({times(row.amax_ratio)}×)",
            f"clipped by over 20%: {percent(worst.far_share)} of the sequences of "
            f"{inert(row.worst_tag)}",
        )
    )


def _ends(rows: Sequence[SiteChange]) -> tuple[float, float]:
    amax = [row.a.amax for row in rows]
    return (min(amax) / 2, max(amax) * 2) if amax else (0.1, 10.0)


def _line(
    ends: tuple[float, float], ratio: float, name: str, colour: str, dash: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(ends),
        "y": [end * ratio for end in ends],
        "hoverinfo": "skip",
        "line": {"color": colour, "dash": dash, "width": 1},
    }
