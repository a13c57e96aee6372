"""Of every figure: plotly takes it, its colours are names, what is foreign is inert."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from fp8scope.report.document.blocks import Figure
from fp8scope.report.palette import palette, resolved
from fp8scope.report.snapshot import Snapshot
from tests.report.figures.subjects import (
    demo_with_plan,
    every_figure,
    hostile,
    hostile_without_blocks,
    strings,
    whole,
)
from tests.tui.browsing import mixture, without_blocks

Make = Callable[[], Snapshot]
MAKES: list[Make] = [
    demo_with_plan,
    hostile,
    hostile_without_blocks,
    lambda: whole(mixture()),
    lambda: whole(without_blocks()),
]
TAGS = re.compile(r"</?(?:br|sup|extra)>")


def drawings(make: Make) -> list[Figure]:
    found = every_figure(make())
    assert len({figure.name for figure in found}) == len(found) >= 2
    return found


def test_the_demo_has_every_figure() -> None:
    assert len(every_figure(demo_with_plan())) == 8


@pytest.mark.parametrize("make", MAKES)
def test_plotly_knows_every_attribute_and_json_every_number(make: Make) -> None:
    from plotly.graph_objects import Figure as PlotlyFigure

    for figure in drawings(make):
        for view in figure.views:
            drawing = {"data": view.data, "layout": view.layout}
            json.dumps(drawing, allow_nan=False)
            for dark in (False, True):
                PlotlyFigure(resolved(drawing, palette(dark=dark)))


@pytest.mark.parametrize("make", MAKES)
def test_every_colour_is_a_name_of_the_palette(make: Make) -> None:
    known = palette(dark=True)
    for figure in drawings(make):
        for view in figure.views:
            for key, text in strings({"data": view.data, "layout": view.layout}):
                if key.endswith(("color", "colorscale")):
                    assert text in known, (figure.name, key)


@pytest.mark.parametrize("make", MAKES)
def test_says_what_it_shows_in_printable_words(make: Make) -> None:
    for figure in drawings(make):
        for text in (figure.title, figure.says, *(view.title for view in figure.views)):
            assert isinstance(text, str)
            assert text
            assert not re.search("[\n\u202e]", text)
            assert "nan" not in text


@pytest.mark.parametrize("make", [hostile, hostile_without_blocks])
def test_hostile_names_and_tags_are_shown_letter_by_letter(make: Make) -> None:
    shown = 0
    for figure in drawings(make):
        assert re.fullmatch("[!-~]+", figure.name)
        for view in figure.views:
            for key, text in strings({"data": view.data, "layout": view.layout}):
                shown += "onerror" in text and "&lt;img" in text
                rest = TAGS.sub("", text)
                assert not re.search("[<>\n\u202e]", rest), (figure.name, key, text)
                assert "%{evil}" not in text, (figure.name, key)
    assert shown > 20
