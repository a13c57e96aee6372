"""The magnitudes of a tensor, and what FP8 makes of them under its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log10

import numpy as np

from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.histogram import Histogram
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import common_prefix, decibel, number, percent, site_name
from fp8scope.profile.record import Profile
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drawing import SMALL, Json, axis, layout, margin, note, rounded
from fp8scope.report.zones import Bars, Limits, Zone

BARS = 150
NARROW = 300  # pixels of a phone's plot, in which the names of the zones must fit
LETTER = 6.0
COLOURS = {
    Zone.UNDERFLOW: "@accent",
    Zone.SUBNORMAL: "@second",
    Zone.NORMAL: "@main",
    Zone.SATURATED: "@accent",
}
BECOMES = {
    Zone.UNDERFLOW: "becomes 0",
    Zone.SUBNORMAL: "subnormal: fewer than 4 significant bits",
    Zone.NORMAL: "kept to 4 significant bits",
    Zone.SATURATED: "clamped to the largest",
}


def magnitudes(
    profile: Profile, sites: Sequence[Site], scales: Mapping[Site, float] | None = None
) -> Figure:
    """One view per site: how many values have which magnitude, under E4M3's range.

    `scales`: a static scale by site; of all others it is amax / 448. A site may be another's alias.
    Raises KeyError for one that the profile does not hold.
    """
    prefix = common_prefix(linear.name for linear in profile.structure.linears)
    views, said = [], []
    for site in sites:
        histogram = _histogram(profile, site)
        scale = (scales or {}).get(site, float(E4M3.scale(histogram.amax)))
        error = quantization_error(histogram, E4M3, scale)
        name = site_name(site, prefix)
        views.append(View(name, *_drawing(histogram, scale, error)))
        said.append(f"{name}: {_says(histogram, scale, error)}")
    first = sites[0]
    return Figure(
        name=f"magnitudes-{anchor(first.module)}",
        title="Magnitudes under E4M3's range",
        says=" ".join(said),
        views=views,
        height=320,
    )


def _histogram(profile: Profile, site: Site) -> Histogram:
    if site.role is Role.WEIGHT:
        return profile.weights[site.module].magnitudes()
    return profile.site(site).magnitudes()


def _says(histogram: Histogram, scale: float, error: QuantError) -> str:
    zeros = histogram.zeros / max(1, histogram.elements)
    exact = f"; {percent(zeros)} are exactly 0 and not drawn" if zeros >= 0.005 else ""
    return (
        f"amax {number(histogram.amax)}, scale {number(scale)}; {_share(error.underflow_rate)} "
        f"become 0, {_share(error.saturation_rate)} are clamped; body SQNR "
        f"{decibel(error.body_sqnr_db)}{exact}."
    )


def _share(rate: float) -> str:
    return f"{percent(rate)} of the values" if rate else "none"


def _drawing(histogram: Histogram, scale: float, error: QuantError) -> tuple[list[Json], Json]:
    limits = Limits.of(E4M3, scale)
    bars = Bars.of(histogram, histogram.elements, limits, BARS)
    traces = [trace for zone in Zone if (trace := _trace(bars, limits, zone))]
    most = ceil(log10(max(10.0, float(bars.counts.max(initial=1)))) * 4) / 4
    names = _names(bars, limits, error)
    return traces, layout(
        margin=margin(t=14, r=20),
        bargap=0,
        barmode="overlay",
        xaxis=axis(
            "|x|",
            range=[rounded(bars.low), rounded(bars.high)],
            **_ticks(bars),
            showgrid=False,
            ticks="outside",
            ticklen=4,
        ),
        yaxis=axis("values", type="log", range=[-0.3, most * 1.12], dtick=max(1, ceil(most / 6))),
        shapes=[_line(at) for at in _edges(bars, limits)],
        annotations=names,
    )


def _trace(bars: Bars, limits: Limits, zone: Zone) -> Json | None:
    """The bars of a zone, which are neighbours."""
    width = (bars.high - bars.low) / len(bars.counts)
    mine = [i for i in range(len(bars.counts)) if limits.zone(bars.middle(i)) is zone]
    mine = [i for i in mine if bars.counts[i]]
    if not mine:
        return None
    counts = bars.counts[mine[0] : mine[-1] + 1].tolist()
    return {
        "type": "bar",
        "x0": bars.low + (mine[0] + 0.5) * width,
        "dx": width,
        "y": [rounded(count, 4) if count else None for count in counts],
        "width": width,
        "marker": {"color": COLOURS[zone], "line": {"width": 0}},
        "hovertemplate": f"|x| near 2<sup>%{{x:.1f}}</sup>: %{{y:,.4~s}} values<br>"
        f"{BECOMES[zone]}<extra></extra>",
    }


def _edges(bars: Bars, limits: Limits) -> list[float]:
    """Where zones meet, as exponents of two inside the plot."""
    with np.errstate(divide="ignore"):
        found = np.log2([limits.zero, limits.normal, limits.clamped]).tolist()
    return [at for at in found if bars.low < at < bars.high]


def _line(at: float) -> Json:
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": rounded(at),
        "x1": rounded(at),
        "y0": 0,
        "y1": 1,
        "line": {"color": "@dim", "width": 1, "dash": "dot"},
    }


def _names(bars: Bars, limits: Limits, error: QuantError) -> list[Json]:
    """What the zones are called, at the top of each; upright where it is too narrow."""
    edges = [bars.low, *np.log2([limits.zero, limits.normal, limits.clamped]).tolist(), bars.high]
    rates = {Zone.UNDERFLOW: error.underflow_rate, Zone.SATURATED: error.saturation_rate}
    found = []
    for zone, low, high in zip(Zone, edges[:-1], edges[1:], strict=True):
        low, high = max(low, bars.low), min(high, bars.high)  # noqa: PLW2901
        room = (high - low) / (bars.high - bars.low) * NARROW
        share = f" {percent(rates[zone])}" if rates.get(zone) else ""
        names = [zone.value[0] + share, zone.value[1] + share, *zone.value]
        text = next((name for name in names if len(name) * LETTER < room), "")
        if room > 0:
            found.append(
                _name(text, zone, (low + high) / 2) if text else _upright(zone, share, high)
            )
    return found


def _name(text: str, zone: Zone, middle: float) -> Json:
    place = {"x": rounded(middle), "y": 1, "yref": "paper", "yanchor": "bottom"}
    return note(inert(text), font={"size": SMALL, "color": _text_colour(zone)}, **place)


def _upright(zone: Zone, share: str, at: float) -> Json:
    # into the margin, to the left of the plot or to the right
    outer = "left" if zone is Zone.SATURATED else "right"
    place = {"x": rounded(at), "y": 1, "yref": "paper", "yanchor": "top", "xanchor": outer}
    colour = {"size": SMALL, "color": _text_colour(zone)}
    return note(inert(zone.value[0] + share), textangle=-90, font=colour, **place)


def _text_colour(zone: Zone) -> str:
    return "@accent" if zone in (Zone.UNDERFLOW, Zone.SATURATED) else "@dim"


def _ticks(bars: Bars) -> Json:
    """Powers of two, few enough for a phone."""
    step = max(1, ceil((bars.high - bars.low) / 8))
    powers = range(ceil(bars.low / step) * step, int(np.floor(bars.high)) + 1, step)
    return {"tickvals": list(powers), "ticktext": [f"2<sup>{power}</sup>" for power in powers]}
