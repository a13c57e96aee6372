"""What all drawings share: axes, a legend, notes, and numbers as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

SMALL = 11
"""Pixels of a label inside a drawing."""


def layout(**more: Any) -> Json:
    """A layout; who shows it sets fonts, grounds and margins."""
    # one that drags a finger over it scrolls the page
    return {"showlegend": False, "dragmode": False, **more}


def axis(title: str = "", **more: Any) -> Json:
    """An axis with its title; `more` as plotly has it."""
    named = {"title": {"text": title, "standoff": 8, "font": {"size": 12}}} if title else {}
    return {**named, "automargin": True, "zeroline": False, "tickfont": {"size": SMALL}, **more}


def margin(**sides: int) -> dict[str, int]:
    """Of `l`, `r`, `t` and `b` pixels, where labels do not ask for more."""
    return {"l": 8, "r": 16, "t": 8, "b": 8} | sides


def legend(**more: Any) -> Json:
    """A legend in a line above the plot, so that it takes no width."""
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    return {**place, "font": {"size": SMALL}, **more}


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


def powers(low: int, high: int) -> list[str]:
    """Powers of ten as a log axis is labelled: 1e-5, 0.0001, …, 1."""
    return [f"{10.0**power:g}".replace("e-0", "e-") for power in range(low, high + 1)]
