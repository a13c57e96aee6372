"""Every linear of the model in one figure: blocks down, kinds of linears across."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from fp8scope.core.words import short_name
from fp8scope.report.colours import PRECISIONS
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drawing import SMALL, Json, axis, layout, margin
from fp8scope.report.measures import (
    BODY_SQNR,
    CHEAPEST_KL,
    PLAIN_KL,
    Measure,
    Reading,
    Scale,
    measures,
)
from fp8scope.report.snapshot import Snapshot
from fp8scope.report.words import shorten

MOST_COLUMNS = 40
LONGEST_LABEL = 26
LEGEND = 40  # pixels of the colour bar and its labels
SHADES = 99  # levels are whole numbers up to it: two digits each
At = tuple[int, int]

# a whole word, so that no name is shortened: not that of the tag v1.10
_NUMBER = re.compile(r"(?<!\S)(?:\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+)(?=[\s×,]|$)")


@dataclass(frozen=True)
class Cells:
    """Columns and the modules by place; more than one where experts are folded into one column."""

    columns: tuple[str, ...]
    modules: Mapping[At, tuple[str, ...]]

    @property
    def folded(self) -> bool:
        """Whether any cell stands for several modules."""
        return any(len(names) > 1 for names in self.modules.values())


def heatmap(snapshot: Snapshot) -> Figure:
    """One view per measure of `report.measures`, in its order."""
    cells = _cells(snapshot)
    rows = len(snapshot.grid.rows)
    views = [_view(snapshot, cells, measure) for measure in measures(snapshot)]
    return Figure(
        name="heatmap",
        title="Every linear of the model",
        says=_says(snapshot, cells),
        views=views,
        height=_top(cells) + 16 + min(1600, max(120, rows * _row_height(rows))),
    )


def _cells(snapshot: Snapshot) -> Cells:
    """As the grid has them; where columns are many, those that differ in a number alone, as experts
    do, become one.
    """
    grid = snapshot.grid
    fold: Callable[[str], str] = str
    if len(grid.columns) > MOST_COLUMNS:
        fold = partial(re.sub, r"(?<=\.)\d+(?=\.|$)", "*")
    names = list(dict.fromkeys(map(fold, grid.columns)))
    number = {name: at for at, name in enumerate(names)}
    found: dict[At, list[str]] = {}
    for (row, column), module in sorted(grid.modules.items()):
        found.setdefault((row, number[fold(grid.columns[column])]), []).append(module)
    return Cells(tuple(names), {at: tuple(modules) for at, modules in found.items()})


def _view(snapshot: Snapshot, cells: Cells, measure: Measure) -> View:
    shape = len(snapshot.grid.rows), len(cells.columns)
    level, said, link, short = (_empty(shape) for _ in range(4))
    for (row, column), modules in cells.modules.items():
        readings = {name: found for name in modules if (found := measure.of(snapshot, name))}
        worst = max(readings, key=lambda name: readings[name].badness, default=modules[0])
        link[row][column] = f"#{anchor(worst)}"
        if worst in readings:
            reading = readings[worst]
            level[row][column] = _level(reading)
            said[row][column] = _said(snapshot, measure, worst, reading)
            short[row][column] = _short(reading)
    trace: Json = {
        "type": "heatmap",
        "z": level,
        "hovertext": said,
        "customdata": link,
        "hovertemplate": f"%{{customdata}}<br>{_unit(measure)}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
        "zmin": 0,
        **_scale(measure, level),
    }
    if shape[0] <= 20 and shape[1] <= 12:
        trace |= {
            "text": [[text or "" for text in row] for row in short],
            "texttemplate": "%{text}",
            "textfont": {"size": SMALL},
        }
    return View(measure.name, [trace], _layout(snapshot, cells))


def _empty(shape: tuple[int, int]) -> list[list[Any]]:
    return [[None] * shape[1] for _ in range(shape[0])]


_ORDER = [name for name in PRECISIONS if name != "fp8"]


def _level(reading: Reading) -> int:
    """A shade, or the number of a precision."""
    if isinstance(reading.tone, str):
        return _ORDER.index(_runs_as(reading.tone))
    return round(reading.tone * SHADES)


def _runs_as(precision: str) -> str:
    """A KV cache in FP8 has static scales per tensor."""
    return "fp8_tensor" if precision == "fp8" else precision


def _short(reading: Reading) -> str:
    """As long as a cell of a phone is wide."""
    return inert(next((text for text in reading.texts if len(text) <= 5), reading.texts[-1]))


def _said(snapshot: Snapshot, measure: Measure, module: str, reading: Reading) -> str:
    """What the overview of `browse` says, with the numbers in four digits, and without what is the
    same in all cells: there are thousands. Where members of a fused group share it, the group.
    """
    text = _NUMBER.sub(lambda found: f"{float(found[0]):.4g}", reading.detail)
    for same in (f"{measure.name}: ", "planned: ", "fp8_tensor: ", "clip of "):
        text = text.removeprefix(same)
    text = text.replace(" nats per token", "").replace(" dB", "")
    group = snapshot.grid.group(module)
    if measure.by_group and measure.scale is not None and not group.startswith(module):
        text = f"group {group.rpartition('.')[2]}: {text}"
    return inert(text)


def _unit(measure: Measure) -> str:
    """What a hover says of every cell."""
    unit = {PLAIN_KL: ", nats per token", CHEAPEST_KL: ", nats per token", BODY_SQNR: ", dB"}
    return f"{inert(measure.name)}{unit.get(measure, '')}<br>%{{hovertext}}"


def _scale(measure: Measure, level: list[list[int | None]]) -> Json:
    bar = {
        "orientation": "h",
        "thickness": 10,
        "len": 0.8,  # the rest is for the label of its end
        "lenmode": "fraction",
        "x": 0,
        "xanchor": "left",
        "yref": "container",
        "y": 1,
        "yanchor": "top",
        "ypad": 4,
        "xpad": 0,
        "outlinewidth": 0,
        "ticks": "",
        "tickfont": {"size": SMALL},
    }
    if measure.scale is None:
        return _precisions(bar, level)
    ticks = {"tickvals": [0, SHADES], "ticktext": _ends(measure.scale)}
    return {"zmax": SHADES, "colorscale": "@ramp", "colorbar": bar | ticks}


def _ends(scale: Scale) -> list[str]:
    good, bad = scale.ends
    return [good, f"{bad}, log" if scale.log else bad]


def _precisions(bar: Json, level: list[list[int | None]]) -> Json:
    """Discrete colours, named below the bar."""
    edges = [number / len(_ORDER) for number in range(len(_ORDER) + 1)]
    steps = [
        [end, f"@{name}"]
        for name, ends in zip(_ORDER, pairwise(edges), strict=True)
        for end in ends
    ]
    last = len(_ORDER) - 1
    ticks = [(number + 0.5) * last / len(_ORDER) for number in range(len(_ORDER))]
    words = [PRECISIONS[name][1] for name in _ORDER]
    return {
        "zmax": last,
        "colorscale": steps,
        "colorbar": bar | {"tickvals": ticks, "ticktext": words},
    }


def _layout(snapshot: Snapshot, cells: Cells) -> Json:
    labels = [inert(_cut(label)) for label in snapshot.row_labels]
    step = 1 if len(labels) <= 40 else 2 if len(labels) <= 100 else 5
    shown = range(0, len(labels), step)
    numbers = labels[0].isdecimal()
    return layout(
        margin=margin(t=_top(cells), r=20),
        xaxis=axis(
            side="top",
            tickvals=list(range(len(cells.columns))),
            ticktext=_column_labels(cells.columns),
            tickangle=-45,
            showgrid=False,
            ticks="",
        ),
        yaxis=axis(
            "block" if numbers else "",
            autorange="reversed",
            tickvals=list(shown),
            ticktext=[labels[row] for row in shown],
            showgrid=False,
            ticks="",
        ),
    )


def _cut(label: str) -> str:
    short = shorten(label, LONGEST_LABEL)
    return short if len(short) <= LONGEST_LABEL else f"…{short[1 - LONGEST_LABEL :]}"


def _column_labels(columns: tuple[str, ...]) -> list[str]:
    """The last parts, without `_proj`, where that tells them apart."""
    last = [
        name.rpartition(".")[2].removesuffix("_proj").removesuffix("_cache") for name in columns
    ]
    names = last if len(set(last)) == len(last) else list(columns)
    return [inert(_cut(name)) for name in names]


def _top(cells: Cells) -> int:
    """Pixels above the cells: the legend, and the columns' names, which are aslant."""
    return LEGEND + 16 + round(5 * max(map(len, _column_labels(cells.columns))))


def _row_height(rows: int) -> int:
    return 30 if rows <= 12 else 20 if rows <= 40 else 12


def _says(snapshot: Snapshot, cells: Cells) -> str:
    """What the first view shows: its worst cell."""
    first = measures(snapshot)[0]
    found = {
        name: reading
        for modules in cells.modules.values()
        for name in modules
        if (reading := first.of(snapshot, name))
    }
    said = f"{len(snapshot.grid.modules)} linears and caches."
    if found:
        worst = max(found, key=lambda name: found[name].badness)
        name = snapshot.grid.group(worst) if first.by_group else worst
        said += f" {first.name} is worst at {short_name(name, snapshot.prefix)}: "
        said += f"{found[worst].texts[0]}{' nats per token' if first is PLAIN_KL else ''}."
    if cells.folded:
        said += " Each cell of a column with * stands for all experts there and shows the worst."
    return said
