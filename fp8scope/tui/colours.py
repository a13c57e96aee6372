"""The browser's themes, and the colours of every view as styles of text."""

from __future__ import annotations

from functools import lru_cache

from rich.color import Color
from rich.style import Style
from textual.theme import Theme

from fp8scope.report.colours import STEPS, Rgb, precision_colour, ramp, text_on

DARK = Theme(
    name="fp8scope-dark",
    primary="#5aa9e6",
    secondary="#4d84bd",
    accent="#ffac40",
    warning="#ffac40",
    error="#ff8a5c",
    success="#5aa9e6",
    foreground="#e4e6ea",
    background="#10141a",
    surface="#171c24",
    panel="#202733",
    dark=True,
)
LIGHT = Theme(
    name="fp8scope-light",
    primary="#1f5f99",
    secondary="#4477a8",
    accent="#b35900",
    warning="#b35900",
    error="#a33a00",
    success="#1f5f99",
    foreground="#16191d",
    background="#fafafa",
    surface="#f0f2f5",
    panel="#e3e7ec",
    dark=False,
)


@lru_cache(maxsize=4 * STEPS)
def shade(step: int, dark: bool) -> Style:
    """Text on the ramp's shade 0 to 9."""
    return _on(ramp(step / (STEPS - 1), dark))


@lru_cache(maxsize=16)
def precision_style(precision: str, dark: bool) -> Style:
    """Text on the colour of a precision."""
    return _on(precision_colour(precision, dark))


def _on(colour: Rgb) -> Style:
    return Style(color=Color.from_rgb(*text_on(colour)), bgcolor=Color.from_rgb(*colour))
