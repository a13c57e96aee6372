"""Drawings as JSON inside a page: short, and inert."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fp8scope.report.document.blocks import Figure

# What an HTML parser could take for the end of a script, and what older JavaScript for a line's end
_INERT = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
_DIGITS = 6
_WORTH = 40
"""Letters from which on a part that stands twice is written once."""


def figure_json(figure: Figure) -> str:
    """The views of a figure for the script that draws them, which `figures.js` unpacks.

    Views have much in common. What stands in more than one place is in `same`, and `{"=": n}` where
    it belongs is its place there; no key of plotly's is called so.
    """
    views = _lean([{"data": view.data, "layout": view.layout} for view in figure.views])
    found: Counter[str] = Counter()
    _count(views, found)
    repeated = [written for written, times in found.items() if times > 1]
    places = {written: place for place, written in enumerate(repeated)}
    same = ",".join(repeated)
    return _inert(f'{{"same":[{same}],"views":{_written(_packed(views, places))}}}')


def inert_json(value: Any) -> str:
    """JSON for the inside of a script element. Numbers to six digits; NaN and infinity are null."""
    return _inert(_written(_lean(value)))


def _written(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _inert(written: str) -> str:
    return "".join(_INERT.get(letter, letter) for letter in written)


def _count(value: Any, found: Counter[str]) -> None:
    """How often each part stands there; what is in a part that is known is not counted again."""
    if not isinstance(value, dict | list):
        return
    written = _written(value)
    if len(written) < _WORTH:
        return
    found[written] += 1
    if found[written] == 1:
        for inner in value.values() if isinstance(value, dict) else value:
            _count(inner, found)


def _packed(value: Any, places: Mapping[str, int]) -> Any:
    if not isinstance(value, dict | list):
        return value
    place = places.get(_written(value))
    if place is not None:
        return {"=": place}
    if isinstance(value, dict):
        return {key: _packed(inner, places) for key, inner in value.items()}
    return [_packed(inner, places) for inner in value]


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
