"""What all drawings share: quiet axes, and numbers as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

SMALL = 11
"""Pixels of a label inside a drawing."""


def layout(*, left: int = 8, top: int = 8, right: int = 12, bottom: int = 8, **more: Any) -> Json:
    """A layout on the page's own ground; margins grow with the labels of the axes."""
    return {
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "font": {"color": "@text", "size": 12},
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        "hoverlabel": {
            "bgcolor": "@paper",
            "bordercolor": "@dim",
            "font": {"color": "@text", "size": 12},
            "align": "left",
        },
        "showlegend": False,
        "dragmode": False,  # a finger that scrolls the page must not zoom
        **more,
    }


def axis(title: str = "", **more: Any) -> Json:
    """An axis with its title; `more` as plotly has it."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": "@dim"}, "standoff": 8},
        "automargin": True,
        "gridcolor": "@grid",
        "linecolor": "@dim",
        "tickcolor": "@dim",
        "zeroline": False,
        "tickfont": {"size": SMALL},
        **more,
    }


def legend(**more: Any) -> Json:
    """A legend in one line above the plot, so that it takes no width."""
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "font": {"size": SMALL},
        "bgcolor": "rgba(0,0,0,0)",
        **more,
    }


def note(text: str, **more: Any) -> Json:
    """An annotation: text without an arrow. Foreign text in it is `inert`."""
    return {"text": text, "showarrow": False, "font": {"size": SMALL, "color": "@dim"}, **more}


def rounded(value: float | None, digits: int = 5) -> float | None:
    """So many significant digits; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def all_rounded(values: Sequence[float | None], digits: int = 5) -> list[float | None]:
    """Each of them `rounded`."""
    return [rounded(value, digits) for value in values]
