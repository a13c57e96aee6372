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
    """The views of a figure for the script that draws them."""
    views = [{"data": view.data, "layout": view.layout} for view in figure.views]
    return inert_json(views)


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
