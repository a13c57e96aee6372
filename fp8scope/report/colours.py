"""Colours of every view: the ramp of a heatmap, and the precisions.

The ramp goes from blue to orange, and its luminance with it: away from the background the worse it
is. So it can be read by the colour-blind, and in greys.
"""

from __future__ import annotations

STEPS = 10
"""Shades of the ramp; a level's digit, 0 to 9, names its shade."""

Rgb = tuple[int, int, int]

# level 0, in between, level 1
_DARK_RAMP: tuple[Rgb, ...] = ((24, 44, 74), (72, 92, 124), (150, 128, 110), (255, 172, 64))
_LIGHT_RAMP: tuple[Rgb, ...] = ((222, 234, 248), (170, 190, 216), (206, 140, 72), (150, 58, 0))
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)

PRECISIONS = {
    "fp8_tensor": ("T", "tensor"),
    "fp8_token": ("K", "token"),
    "fp8_block": ("B", "block"),
    "fp8_smooth": ("S", "smooth"),
    "fp8": ("T", "fp8"),
    "bf16": ("16", "bf16"),
}
"""How each is written where there is little room, and where there is some."""

# Okabe and Ito's colours (2008), which the colour-blind can tell apart; BF16 stands out
_PRECISION_COLOURS: dict[str, tuple[Rgb, Rgb]] = {
    "fp8_tensor": ((24, 44, 74), (222, 234, 248)),
    "fp8": ((24, 44, 74), (222, 234, 248)),
    "fp8_token": ((0, 84, 130), (86, 180, 233)),
    "fp8_block": ((0, 110, 84), (110, 200, 170)),
    "fp8_smooth": ((150, 88, 124), (220, 160, 195)),
    "bf16": ((240, 180, 60), (160, 70, 0)),
}


def digit(level: float) -> int:
    """The shade of a level in [0, 1], as 0 to 9."""
    return min(STEPS - 1, int(level * STEPS))


def ramp(level: float, dark: bool) -> Rgb:
    """The colour of a level in [0, 1]."""
    colours = _DARK_RAMP if dark else _LIGHT_RAMP
    at = level * (len(colours) - 1)
    low = min(int(at), len(colours) - 2)
    share = at - low
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(colours[low], colours[low + 1], strict=True)
    )
    return red, green, blue


def precision_colour(precision: str, dark: bool) -> Rgb:
    """The colour of a precision."""
    return _PRECISION_COLOURS[precision][0 if dark else 1]


def text_on(colour: Rgb) -> Rgb:
    """Black or white, whichever is the more readable on it."""
    bright = luminance(colour)
    return _BLACK if (bright + 0.05) / 0.05 >= 1.05 / (bright + 0.05) else _WHITE


def luminance(colour: Rgb) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
