"""A figure as PNG: of the size that was asked for, in its colours; one line where it cannot be."""

from __future__ import annotations

import struct
import sys

import pytest

from fp8scope.errors import Missing
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.image import png
from fp8scope.report.palette import palette
from tests.report.browser import WITHOUT, chromium

LIGHT, DARK = palette(dark=False), palette(dark=True)
BAR = {"type": "bar", "x": ["a", "b"], "y": [1, 3], "marker": {"color": "@main"}}
FIGURE = Figure(
    "bars", "Bars", "b is larger.", [View("one", [BAR], {}), View("none", [], {})], height=120
)
needs_browser = pytest.mark.skipif(chromium() is None, reason=WITHOUT)


def size(image: bytes) -> tuple[int, int]:
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    return width, height


@needs_browser
def test_a_view_by_number_and_by_title_in_light_and_dark() -> None:
    light = png(FIGURE, 0, LIGHT, width=300, scale=2)
    assert size(light) == (600, 240)
    empty = png(FIGURE, "none", LIGHT, width=300, height=90, scale=1)
    assert size(empty) == (300, 90)
    dark = png(FIGURE, "one", DARK, width=300, scale=2)
    assert size(dark) == size(light)
    assert dark != light


@pytest.mark.parametrize("view", [-1, 2, "two"])
def test_a_view_that_is_not_there(view: int | str) -> None:
    with pytest.raises(KeyError):
        png(FIGURE, view, LIGHT)


def test_without_kaleido_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(Missing, match=r"drawn as PNG.*pip install 'fp8scope\[png\]'"):
        png(FIGURE, 0, LIGHT)


def test_without_a_browser_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    with pytest.raises(Missing, match=r"no Chromium or Chrome is found.*BROWSER_PATH"):
        png(FIGURE, 0, LIGHT)


def test_with_a_browser_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    with pytest.raises(Missing, match="drawn as PNG"):
        png(FIGURE, 0, LIGHT)
