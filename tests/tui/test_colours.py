"""Colours that everybody can tell apart, and text that everybody can read, in dark and light."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.style import Style
from textual.pilot import Pilot
from textual.screen import ModalScreen

from fp8scope.report.colours import PRECISIONS, STEPS, Rgb, luminance
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.colours import precision_style, shade
from fp8scope.tui.heat import HEADER
from tests.tui.browsing import NARROW, WIDE, all_of_demo, browse, overview, settled

Float64 = NDArray[np.float64]
SIGHTS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
"""What linear RGB becomes without one kind of cones (Machado, Oliveira and Fernandes, 2009)."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
READABLE = 4.5
"""Contrast of text that WCAG 2 asks for (AA)."""
NOTICED = 4.0
"""CIE76 differences from about 2.3 on are noticed; these are a good deal above."""
GRAPHICS = re.compile("[─-▟●⠀-⣿·┊‖▔▕]")


def ground(style: Style | None) -> Rgb:
    assert style
    assert style.bgcolor
    red, green, blue = style.bgcolor.get_truecolor()
    return red, green, blue


def lab(colour: Rgb, sight: str) -> Float64:
    """CIE L*a*b* of what somebody with this sight sees."""
    part = np.array(colour) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = TO_XYZ @ np.clip(SIGHTS[sight] @ linear, 0, 1) / (TO_XYZ @ np.ones(3))
    x, y, z = np.where(seen > 216 / 24389, np.cbrt(seen), (24389 / 27 * seen + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: Rgb, other: Rgb, sight: str) -> float:
    return float(np.linalg.norm(lab(one, sight) - lab(other, sight)))


def contrast(one: Rgb, other: Rgb) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_the_shades_of_the_heatmap_are_told_apart(dark: bool, sight: str) -> None:
    ramp = [ground(shade(step, dark)) for step in range(STEPS)]
    for near, far in pairwise(ramp):
        assert difference(near, far, sight) > NOTICED
    # and their order is seen: ever lighter on dark, ever darker on light
    lightness = [lab(colour, sight)[0] for colour in ramp]
    assert lightness == sorted(lightness, reverse=not dark)
    assert abs(lightness[-1] - lightness[0]) > 40


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_the_precisions_are_told_apart(dark: bool, sight: str) -> None:
    shown = {
        letter: ground(precision_style(name, dark)) for name, (letter, _) in PRECISIONS.items()
    }
    for (one, of_one), (other, of_other) in combinations(shown.items(), 2):
        assert difference(of_one, of_other, sight) > NOTICED, (one, other)


def low(app: BrowseApp) -> Counter[tuple[str, float]]:
    """Pieces of text on the screen that are hard to read, with their contrast."""
    found: Counter[tuple[str, float]] = Counter()
    on_top = app.screen.children[0].region if isinstance(app.screen, ModalScreen) else None
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        seen = strip
        if on_top is not None:  # what is behind it is dimmed
            inside = on_top.y <= y < on_top.bottom
            seen = strip.crop(on_top.x, on_top.right if inside else on_top.x)
        for text, style, _ in seen:
            words = GRAPHICS.sub("", text).strip()
            if not words or style is None or style.color is None or style.bgcolor is None:
                continue
            ratio = contrast(style.color.get_truecolor(), style.bgcolor.get_truecolor())
            if ratio < READABLE:
                found[words, round(ratio, 2)] += 1
    return found


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "160x50"])
@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_all_text_is_readable(dark: bool, size: tuple[int, int]) -> None:
    found: dict[str, Counter[tuple[str, float]]] = {}
    walk = {
        "overview": (),
        "help": ("question_mark",),
        "measures": ("escape", "v"),
        "palette": ("escape", "ctrl+p"),
        "layer": ("escape", "n", "enter"),
        "what if": ("a", "a", "}"),
        "sites": ("2",),
        "sites searched": ("slash", *"down"),
        "plan": ("enter", "3"),
        "plan changed": ("down", "b"),
        "solve": ("R",),
        "export": ("escape", "x"),
        "quit": ("escape", "q"),
    }

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        if not dark:
            await pilot.press("d")
        for name, keys in walk.items():
            for key in keys:
                await pilot.press(key)
                await settled(app, pilot)
            if bad := low(app):
                found[name] = bad

    browse(all_of_demo(), steps, size=size)
    assert not found, found


def test_the_cells_have_the_colour_of_their_number() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        heat = overview(app).heat

        def at(row: int, column: int) -> Style:
            """Of the cell as it is painted."""
            x = heat._label + column * heat._width + 2
            y = HEADER + row * heat._height
            strip = heat.render_line(y)
            style = next(iter(strip.crop(x, x + 1)))[1]
            assert style
            return style

        columns = app.snapshot.grid.columns
        down, query = columns.index("mlp.down_proj"), columns.index("self_attn.q_proj")
        for dark in (True, False):
            ranked = [
                at(0, down),
                at(2, query),
                at(1, query),
                at(2, columns.index("self_attn.o_proj")),
            ]
            shades = [shade(step, dark).bgcolor for step in range(STEPS)]
            steps_ = [shades.index(style.bgcolor) for style in ranked]
            assert steps_ == [9, 9, 3, 2]  # 0.066, 0.048, 0.0004 and 0.00007 nats
            await pilot.press("d")
            await pilot.pause()

    browse(all_of_demo(), steps)
