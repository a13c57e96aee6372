"""Every screen, character by character, as it was when a person last looked at it.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/tui/test_goldens.py, and read the diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from fp8scope.profile.reader import read_profile
from fp8scope.report.snapshot import Snapshot, filled, opened
from fp8scope.tui.app import BrowseApp
from tests.tui.browsing import DEMO, NARROW, WIDE, all_of_demo, browse, demo, settled
from tests.tui.host import screen_text

GOLDEN = Path(__file__).parent / "golden"
WALKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "demo": {
        "overview": (),
        "overview-body-sqnr": ("m", "m", "n"),
        "measures": ("v",),
        "overview-headroom": ("down", "down", "down", "enter"),
        "help-overview": ("question_mark",),
        "layer": ("escape", "v", "home", "enter", "n", "enter"),
        "layer-values": ("v",),
        "layer-scale": ("}", "]", "]", "o"),
        "layer-smoothed": ("=", "o", "o", "o", "o", "a", "a", "a", "a"),
        "help-layer": ("question_mark",),
        "layer-cache": ("escape", "escape", "end", "up", "right", "enter"),
        "sites": ("2",),
        "sites-sorted-and-searched": ("s", "s", "s", "r", "slash", *"down", "enter"),
        "help-sites": ("question_mark",),
        "plan": ("escape", "3"),
        "plan-changed": ("down", "down", "down", "b"),
        "plan-by-kl": ("o",),
        "help-plan": ("question_mark",),
        "solve": ("escape", "R"),
        "export": ("escape", "x"),
        "quit": ("escape", "q"),
        "overview-planned": ("escape", "1", "M"),
    },
    "stories260K": {
        "overview": (),
        "layer": ("n", "enter"),
        "sites": ("2",),
        "plan": ("3",),
    },
    "unscored": {"overview": (), "layer": ("enter",), "plan": ("3",)},
}
"""By profile and name of the file: the keys that lead there from the one before."""
IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURES = {"browse-overview": ("n",), "browse-layer": ("n", "enter"), "browse-plan": ("3",)}
"""Screenshots of README and docs, by name of the file: the keys that lead there."""
PICTURE_SIZE = (120, 36)
FULL = re.compile(r"\d\.\d{7,}(e-?\d+)?")
"""A number in full, of which the last digits may differ from machine to machine."""


@cache
def subject(name: str) -> Snapshot:
    """All that is known of a profile that is in the repository; of the demo also unscored."""
    if name == "demo":
        return all_of_demo()
    of = replace(demo(), sensitivity=None) if name == "unscored" else None
    read = of or read_profile(DEMO.with_stem(name))
    return [*filled(opened(Path("profile.h5"), read))][-1]


@cache
def walked(profile: str, size: tuple[int, int]) -> Mapping[str, str]:
    """The characters of each screen, once nothing is read any more."""
    found: dict[str, str] = {}

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        for name, keys in WALKS[profile].items():
            await settled(app, pilot)
            for key in keys:
                await pilot.press(key)
                await settled(app, pilot)
            found[name] = screen_text(app)

    browse(subject(profile), steps, size=size)
    return found


def comparable(text: str) -> str:
    """Without what differs from machine to machine."""
    lines = (FULL.sub(lambda number: f"{float(number[0]):.6g}", line) for line in text.split("\n"))
    return "".join(f"{line.rstrip()}\n" for line in lines)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "160x50"])
@pytest.mark.parametrize(
    ("profile", "name"), [(profile, name) for profile, walk in WALKS.items() for name in walk]
)
def test_the_characters_of_a_screen(profile: str, name: str, size: tuple[int, int]) -> None:
    found = comparable(walked(profile, size)[name])
    path = GOLDEN / f"{profile}-{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("name", PICTURES)
def test_the_screenshots_show_what_is_there(name: str) -> None:
    found = picture(PICTURES[name])
    path = IMAGES / f"{name}.svg"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert path.stat().st_size < 150_000
    assert texts(path.read_text()) == texts(found)


def picture(keys: tuple[str, ...]) -> str:
    """The screen as SVG, which asks nobody for a font."""
    found = []

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        for key in keys:
            await pilot.press(key)
            await settled(app, pilot)
        found.append(app.export_screenshot(title="fp8scope browse profiles/demo.h5"))

    browse(subject("demo"), steps, size=PICTURE_SIZE)
    plain = re.sub(r"@font-face \{.*?\}\s*", "", found[0], flags=re.DOTALL)
    return plain.replace("Fira Code, monospace", "monospace").replace("Fira Code", "monospace")


def texts(svg: str) -> list[str]:
    """What is written in it."""
    return [comparable(text) for text in re.findall(r">([^<>]*)</text>", svg)]


def test_no_golden_is_left_over() -> None:
    wanted = {
        f"{profile}-{name}-{columns}x{lines}.txt"
        for profile, walk in WALKS.items()
        for name in walk
        for columns, lines in (NARROW, WIDE)
    }
    assert {path.name for path in GOLDEN.iterdir()} == wanted
