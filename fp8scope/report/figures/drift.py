"""How far the amax of every site moved from A to B: what lies above the line A's scale clips."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

from fp8scope.analyze.compare import Comparison, SiteChange
from fp8scope.analyze.thresholds import LOW_HEADROOM, NO_HEADROOM
from fp8scope.core.words import common_prefix, number, percent, site_name, times
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drawing import SMALL, Json, axis, layout, legend, margin, note, rounded

KINDS = (
    ("clipped by more than 20%", "@accent", "diamond"),
    ("clipped by 20% or less", "@second", "circle"),
    ("not clipped", "@main", "circle-open"),
)
"""Told apart by form as well as by colour."""
LINES = (
    (1 / NO_HEADROOM, "@dim", "dot", "from here on A's scale clips", "top"),
    (1 / LOW_HEADROOM, "@accent", "dash", "by more than 20%", "bottom"),
)
"""The last says which end of the words is at the line: near each other, they point apart."""


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
    silent = len(found.sites) - len(drawn)
    says = (
        f"Of {len(found.sites)} sites {counts[0]} have values in B that A's scale clips by more "
        f"than 20%, {counts[1]} by less."
    )
    if silent:
        says += f" {silent} silent in A or B are not drawn."
    ratios = [row.amax_ratio for row in drawn]
    low, high = log10(min([0.5, *ratios])), log10(max([2.0, *ratios]))
    room = 0.04 * (high - low)  # so that no mark is cut
    drawing = layout(
        xaxis=axis("amax in A", type="log", dtick=1),
        yaxis=axis(
            "amax in B / amax in A", type="log", minexponent=6, range=[low - room, high + room]
        ),
        shapes=[_line(ratio, colour, dash) for ratio, colour, dash, *_ in LINES],
        annotations=[_named(at, colour, words, end) for at, colour, _, words, end in LINES],
        legend=legend(),
        showlegend=True,
        margin=margin(t=28),
        hovermode="closest",
    )
    return Figure(
        name="drift",
        title="How far the largest value of each site moved",
        says=says,
        views=(View("amax", traces, drawing),),
    )


def _kind(row: SiteChange) -> int:
    if any(of.far_sequences for of in (row.whole, *row.tags.values())):
        return 0
    return 1 if row.whole.saturated_sequences else 2


def _points(rows: Sequence[SiteChange], kind: int, prefix: str) -> Json:
    name, colour, symbol = KINDS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} ({len(rows)})",
        "x": [row.a.amax for row in rows],
        "y": [rounded(row.amax_ratio) for row in rows],
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


def _line(ratio: float, colour: str, dash: str) -> Json:
    place = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": ratio, "y1": ratio}
    return {**place, "line": {"color": colour, "dash": dash, "width": 1}}


def _named(ratio: float, colour: str, words: str, end: str) -> Json:
    place = {"x": 1, "xref": "paper", "xanchor": "right", "y": log10(ratio), "yanchor": end}
    return note(words, font={"size": SMALL, "color": colour}, **place)
