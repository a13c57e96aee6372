"""What scales from one use case do to the others, as a matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fp8scope.analyze.headroom import Headroom
from fp8scope.analyze.saturation import Saturation
from fp8scope.core.sites import Site
from fp8scope.core.words import percent, printable, site_name, times
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drawing import SMALL, Json, axis, layout, margin
from fp8scope.report.figures.places import cut
from fp8scope.report.measures import CLIP, Scale
from fp8scope.report.snapshot import Snapshot

LONGEST_TAG = 18
SHARES = Scale(0.0, 1.0, ("0", "100%"))


@dataclass(frozen=True)
class Seen:
    """A view: which number of a saturation, how it is coloured and written."""

    title: str
    of: Callable[[Saturation], float]
    scale: Scale
    words: Callable[[float], str]


SEEN = (
    Seen("largest clip", lambda of: of.clip, CLIP, lambda value: f"{times(value)}×"),
    Seen("sequences clipped by more than 20%", lambda of: of.far_share, SHARES, percent),
)


def headroom_matrix(snapshot: Snapshot) -> Figure | None:
    """Calibration tag × traffic tag: the worst of all sites. None with one tag.

    A clip is the largest value over what the scale can hold; up to 464/448 it clips nothing.
    """
    if not snapshot.headroom:
        return None
    name = "headroom"
    says = (
        "Each row is a calibration with one tag alone, each column the traffic; a cell is the site "
        "that it serves worst."
    )
    return _figure(
        name, "Scales from one use case on another", says, snapshot.headroom, snapshot.prefix
    )


def site_headroom(rows: Sequence[Headroom]) -> Figure | None:
    """The same of one site. None with one tag."""
    if not rows or len(rows[0].tags) < 2:
        return None
    site = rows[0].site
    name = f"headroom-{anchor(site.module)}-{site.role}"
    return _figure(name, "Its scale from one use case, on another", site_name(site) + ".", rows, "")


def _figure(name: str, title: str, says: str, rows: Sequence[Headroom], prefix: str) -> Figure:
    tags = list(rows[0].tags)
    return Figure(
        name=name,
        title=title,
        says=f"{says} {_worst_words(rows, prefix)}",
        views=[View(seen.title, *_drawing(seen, rows, tags, prefix)) for seen in SEEN],
        height=110 + 30 * len(tags),
    )


def _worst_words(rows: Sequence[Headroom], prefix: str) -> str:
    cells = _cells(SEEN[0].of, rows)
    others = {(row, column): of for (row, column), of in cells.items() if row != column}
    if not others:
        return ""
    row, column = max(others, key=lambda at: others[at][1].clip)
    site, of = others[row, column]
    return (
        f"Scales from {printable(row)} alone clip {printable(column)} most: {times(of.clip)}× at "
        f"{site_name(site, prefix)}."
    )


def _cells(
    of: Callable[[Saturation], float], rows: Sequence[Headroom]
) -> Mapping[tuple[str, str], tuple[Site, Saturation]]:
    """The worst site by calibration and traffic."""
    found: dict[tuple[str, str], tuple[Site, Saturation]] = {}
    for row in rows:
        for tag, here in row.tags.items():
            known = found.get((row.calibration, tag))
            if known is None or of(here) > of(known[1]):
                found[row.calibration, tag] = row.site, here
    return found


def _drawing(
    seen: Seen, rows: Sequence[Headroom], tags: Sequence[str], prefix: str
) -> tuple[list[Json], Json]:
    found = _cells(seen.of, rows)
    grid = [[found.get((row, column)) for column in tags] for row in tags]
    trace: Json = {
        "type": "heatmap",
        "z": [[_level(seen, cell) for cell in row] for row in grid],
        "text": [[_written(seen, cell) for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "textfont": {"size": SMALL + 1},
        "hovertext": [
            [_hover(cell, tags[at], column, prefix) for column, cell in zip(tags, row, strict=True)]
            for at, row in enumerate(grid)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "customdata": [
            [f"#{anchor(cell[0].module)}" if cell else None for cell in r] for r in grid
        ],
        "hoverongaps": False,
        "zmin": 0,
        "zmax": 1,
        "colorscale": "@ramp",
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    labels = [inert(cut(tag, LONGEST_TAG)) for tag in tags]
    ticks = {"tickvals": list(range(len(tags))), "ticktext": labels, "showgrid": False, "ticks": ""}
    drawn = layout(
        margin=margin(t=40),
        xaxis=axis("traffic", side="top", **ticks),
        yaxis=axis("scales from", autorange="reversed", **ticks),
    )
    return [trace], drawn


def _level(seen: Seen, cell: tuple[Site, Saturation] | None) -> float | None:
    return round(seen.scale.level(seen.of(cell[1])), 2) if cell else None


def _written(seen: Seen, cell: tuple[Site, Saturation] | None) -> str:
    return inert(seen.words(seen.of(cell[1]))) if cell else ""


def _hover(cell: tuple[Site, Saturation] | None, row: str, column: str, prefix: str) -> str | None:
    if cell is None:
        return None
    site, of = cell
    lines = (
        f"scales from {row}, traffic {column}",
        site_name(site, prefix),
        f"largest value {times(of.clip)}× the scale's range",
        f"{percent(of.share)} of the sequences clipped, {percent(of.far_share)} by more than 20%",
    )
    return "<br>".join(map(inert, lines))
