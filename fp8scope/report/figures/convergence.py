"""Has the amax settled: what to expect of more text."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from fp8scope.analyze.convergence import Convergence, Curve, State
from fp8scope.core.words import common_prefix, percent, printable, site_name
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drawing import Json, axis, layout, legend, margin, rounded
from fp8scope.report.figures.places import cut
from fp8scope.report.snapshot import Snapshot

LONGEST_TAG = 18
LINES = 8
FLATTENS = 20.0
"""Times a tag's amax from which on it is told from 0 no more."""
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "pentagon")


def convergence(of: Snapshot | Sequence[Convergence], count: int = 6) -> Figure | None:
    """The amax to expect of so many sequences, by tag: one view for each of the `count` sites that
    have settled least. None where no curve has more than one point.

    of: a filled snapshot, or rows, the least settled first (`analyze.convergence`).
    """
    rows = (of.convergence or ()) if isinstance(of, Snapshot) else of
    shown = [row for row in rows if _long(row)][:count]
    if not shown:
        return None
    prefix = common_prefix(row.site.module for row in rows)
    first = shown[0]
    one = len(rows) == 1
    return Figure(
        name=f"convergence-{anchor(first.site.module)}-{first.site.role}" if one else "convergence",
        title="Has the largest value settled",
        says=_says(first, prefix),
        views=[View(site_name(row.site, prefix), *_drawing(row)) for row in shown],
        height=320,
    )


def _long(row: Convergence) -> bool:
    return any(len(curve.points) > 1 for curve in row.curves.values())


def _says(row: Convergence, prefix: str) -> str:
    if row.state is State.UNKNOWN:
        return f"{site_name(row.site, prefix)}: not known, of a tag there are too few sequences."
    grows = f"{percent(row.growth - 1)} more" if row.growth > 1 else "no more"
    return (
        f"{site_name(row.site, prefix)}: {row.state}; twice as much text of {printable(row.tag)} "
        f"would give {grows}. Dashed is extrapolated."
    )


def _drawing(row: Convergence) -> tuple[list[Json], Json]:
    traces = []
    for number, (tag, curve) in enumerate(row.curves.items()):
        traces += [_seen(number, tag, curve), _expected(number, tag, curve)]
    most = max(curve.sequences for curve in row.curves.values())
    doublings = range((2 * most).bit_length())
    step = max(1, len(doublings) // 7)
    drawn = layout(
        margin=margin(t=20 + 16 * ceil(len(row.curves) / 3)),
        showlegend=True,
        legend=legend(yref="container", y=1, yanchor="top"),
        xaxis=axis(
            "sequences",
            type="log",
            tickvals=[2**doubling for doubling in doublings][::step],
            ticktext=[f"{2**doubling:,}" for doubling in doublings][::step],
            tickangle=0,
        ),
        yaxis=_amax_axis(row),
    )
    return traces, drawn


def _amax_axis(row: Convergence) -> Json:
    """From 0; but logarithmic where one tag would flatten the others."""
    ends = [curve.points[0][1] for curve in row.curves.values()]
    if min(ends) > 0 and row.amax > FLATTENS * min(ends):
        return axis("expected amax, |x|, log", type="log", dtick=1, tickformat="~s")
    return axis(
        "expected amax, |x|", rangemode="tozero", tickformat="~s" if row.amax >= 1e4 else ""
    )


def _seen(number: int, tag: str, curve: Curve) -> Json:
    colour = f"@line{number % LINES}"
    name = inert(cut(tag, LONGEST_TAG))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [sequences for sequences, _ in curve.points],
        "y": [rounded(amax) for _, amax in curve.points],
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6, "symbol": SYMBOLS[number % len(SYMBOLS)]},
        "hovertemplate": f"{name}: %{{y:,.4~r}} of %{{x:,}} sequences<extra></extra>",
    }


def _expected(number: int, tag: str, curve: Curve) -> Json:
    """From what was seen to twice the text."""
    ends = curve.sequences, 2 * curve.sequences
    return {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "x": list(ends),
        "y": [rounded(curve.predicted(end)) for end in ends],
        "line": {"color": f"@line{number % LINES}", "width": 2, "dash": "dash"},
        "hovertemplate": f"{inert(cut(tag, LONGEST_TAG))}: %{{y:,.4~r}} expected of %{{x:,}} "
        "sequences<extra></extra>",
    }
