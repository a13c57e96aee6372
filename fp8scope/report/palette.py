"""Colours by name, so that one drawing serves light and dark screens and paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.report.colours import STEPS, Rgb, precision_colour, ramp

Palette = Mapping[str, Any]
"""A colour (`#rrggbb`) or a plotly colour scale by name, which begins with "@"."""


def palette(*, dark: bool) -> dict[str, Any]:
    """The names that drawings may use.

    `@text`, `@dim`, `@grid`, `@paper`; `@main`, `@second`, `@accent` (what is lost);
    `@ramp`, the heatmap's colour scale from good to bad; a precision's (`@fp8_token`);
    `@line0` to `@line7` for curves that must be told apart.
    """
    light = {"text": "#16191d", "dim": "#5c6570", "grid": "#d9dde3", "paper": "#ffffff"}
    light |= {"main": "#1f5f99", "second": "#7fa8cc", "accent": "#b35900"}
    night = {"text": "#e4e6ea", "dim": "#98a2ae", "grid": "#2b3440", "paper": "#10141a"}
    night |= {"main": "#5aa9e6", "second": "#3f6a94", "accent": "#ffac40"}
    named = {f"@{name}": colour for name, colour in (night if dark else light).items()}
    shades = [[step / (STEPS - 1), _hex(ramp(step / (STEPS - 1), dark))] for step in range(STEPS)]
    precisions = ("fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth", "bf16", "fp8")
    return (
        named
        | {"@ramp": shades}
        | {f"@{name}": _hex(precision_colour(name, dark)) for name in precisions}
        | {f"@line{number}": colour for number, colour in enumerate(_LINES[dark])}
    )


def resolved(drawing: Any, colours: Palette) -> Any:
    """A drawing, or a part of one, with its colours looked up. Raises KeyError for an unknown name.

    Only under keys that hold colours: elsewhere "@accent" is a text like any other.
    """
    if isinstance(drawing, Mapping):
        return {
            key: _looked_up(value, colours) if _holds_colour(key) else resolved(value, colours)
            for key, value in drawing.items()
        }
    if isinstance(drawing, list | tuple):
        return [resolved(part, colours) for part in drawing]
    return drawing


def _holds_colour(key: str) -> bool:
    return key.endswith(("color", "colorscale"))


def _looked_up(value: Any, colours: Palette) -> Any:
    if isinstance(value, str):
        return colours[value] if value.startswith("@") else value
    if isinstance(value, list | tuple):
        return [_looked_up(part, colours) for part in value]
    return resolved(value, colours)


def _hex(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


# Okabe and Ito's colours (2008), darker or lighter where the ground asks for it
_LINES = {
    False: ("#0072b2", "#b35900", "#00795a", "#a0527a", "#5b7fa6", "#7a6a00", "#8c4a2f", "#444444"),
    True: ("#56b4e9", "#ffac40", "#3fc79a", "#e59fc6", "#9fb8d4", "#f0e442", "#d98f6c", "#cccccc"),
}
