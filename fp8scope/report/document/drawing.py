"""Drawings as JSON inside a page: short, and inert."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fp8scope.report.document.blocks import Figure

# What an HTML parser could take for the end of a script, and what older JavaScript for a line's end
_INERT = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
_DIGITS = 6


def figure_json(figure: Figure) -> str:
    """The views of a figure for the script that draws them.

    Where a click leads (`customdata`) is often the same in all views: 20 kB of a large heatmap. A
    trace that has it as the first view's trace of its number has, says `true`.
    """
    first = figure.views[0].data if figure.views else ()
    views = [
        {
            "data": [
                _short_of(trace, first[at] if number and at < len(first) else {})
                for at, trace in enumerate(view.data)
            ],
            "layout": view.layout,
        }
        for number, view in enumerate(figure.views)
    ]
    return inert_json(views)


def _short_of(trace: Mapping[str, Any], first: Mapping[str, Any]) -> Mapping[str, Any]:
    links = trace.get("customdata")
    return {**trace, "customdata": True} if links and links == first.get("customdata") else trace


def inert_json(value: Any) -> str:
    """JSON for the inside of a script element. Numbers to six digits; NaN and infinity are null."""
    written = json.dumps(_lean(value), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return "".join(_INERT.get(letter, letter) for letter in written)


def _lean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _lean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_lean(inner) for inner in value]
    if isinstance(value, float):
        return _short(value)
    return value


def _short(number: float) -> float | int | None:
    if not math.isfinite(number):
        return None
    short = float(f"{number:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
