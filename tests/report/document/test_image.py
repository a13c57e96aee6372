"""A figure as PNG: of the size that was asked for, in its colours; one line where it cannot be."""

from __future__ import annotations

import struct
import sys
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from fp8scope.errors import Missing
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.image import TITLE, png
from fp8scope.report.palette import Palette, palette
from tests.report.browser import WITHOUT, chromium

LIGHT, DARK = palette(dark=False), palette(dark=True)
BAR = {"type": "bar", "x": ["a", "b"], "y": [1, 3], "marker": {"color": "@main"}}
FIGURE = Figure(
    "bars", "Bars", "b is larger.", [View("one", [BAR], {}), View("none", [], {})], height=80
)
Bytes = NDArray[np.uint8]
needs_browser = pytest.mark.skipif(chromium() is None, reason=WITHOUT)


def size(image: bytes) -> tuple[int, int]:
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def colours_of(colours: Palette) -> set[str]:
    """Of the ground and of the bars."""
    return {colours["@paper"], colours["@main"]}


def pixels(image: bytes) -> set[str]:
    """The colours in an image of 8 bits for each of red, green and blue, and perhaps alpha."""
    width, height = size(image)
    depth, kind = image[24], image[25]
    assert (depth, image[28]) == (8, 0)
    bands = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        if image[at + 4 : at + 8] == b"IDAT":
            data += image[at + 8 : at + 8 + length]
        at += length + 12
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * bands)
    found, above = set(), np.zeros(width * bands, np.uint8)
    for row in rows:
        above = _unfiltered(int(row[0]), row[1:], above, bands)
        found |= {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in above.reshape(-1, bands)[:, :3].tolist()}
    return found


def _unfiltered(kind: int, row: Bytes, above: Bytes, bands: int) -> Bytes:
    """A line as PNG's filters (RFC 2083, 6) had it before."""
    out = row.astype(np.int64)
    over = above.astype(np.int64)
    for i in range(len(out)):
        left = out[i - bands] if i >= bands else 0
        corner = over[i - bands] if i >= bands else 0
        paeth = min((left, over[i], corner), key=lambda x: abs(left + over[i] - corner - x))
        guess = (0, left, over[i], (left + over[i]) // 2, paeth)[kind]
        out[i] = (out[i] + guess) % 256
    return out.astype(np.uint8)


@needs_browser
def test_a_view_by_number_and_by_title_in_light_and_dark() -> None:
    light = png(FIGURE, 0, LIGHT, width=120, scale=2)
    assert size(light) == (240, 2 * (FIGURE.height + TITLE))
    dark = png(FIGURE, "one", DARK, width=100, height=60, scale=1)
    assert size(dark) == (100, 60)
    assert colours_of(LIGHT) <= pixels(light)
    assert colours_of(DARK) <= pixels(dark)


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
