"""Real reports in a browser: nothing on the console, figures drawn, links that open a layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fp8scope.report.document.html import html
from fp8scope.report.figures.anchors import anchor
from tests.report.browser import browser, opened
from tests.report.pages.subjects import report, snapshot, text

DOWN = "model.layers.3.mlp.down_proj"


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as started:
        yield started


def written(folder: Path, name: str) -> Path:
    path = folder / "report.html"
    path.write_bytes(html(report(name)).encode())
    return path


def test_the_answer_is_on_the_first_screen(running: Any, tmp_path: Path) -> None:
    with opened(running, written(tmp_path, "demo, planned")) as seen:
        page = seen.page
        for words in ("Nothing to exclude", "This plan costs", "Step", "smoothing at α 0.75"):
            box = page.get_by_text(words).first.bounding_box()
            assert box["y"] + box["height"] < 800, words
        seen.quiet()


def test_a_link_opens_the_layer_and_its_figures_are_drawn(running: Any, tmp_path: Path) -> None:
    with opened(running, written(tmp_path, "demo, planned"), f"#{DOWN}") as seen:
        layer = f'[id="{DOWN}"]'
        seen.page.wait_for_selector(f"{layer}[open]")
        assert "836,1" in seen.page.inner_text(layer)
        seen.drawn(f"{layer} .plot")
        seen.quiet()


@pytest.mark.parametrize("name", ["hostile, planned", "mixture of experts", "not scored"])
def test_every_figure_is_drawn_and_nothing_is_obeyed(
    running: Any, tmp_path: Path, name: str
) -> None:
    with opened(running, written(tmp_path, name)) as seen:
        page = seen.page
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        seen.drawn()
        assert page.locator(".main-svg").count() > 0
        assert page.evaluate("document.images.length") == 0
        assert page.title() == report(name).title
        seen.quiet()


def test_a_hostile_name_is_linked_to(running: Any, tmp_path: Path) -> None:
    known = snapshot("hostile, planned")
    name = known.profile.structure.groups[0].members[1]
    file = written(tmp_path, "hostile, planned")
    with opened(running, file) as seen:
        seen.page.evaluate("to => { location.hash = to }", anchor(name))
        row = seen.page.locator(f'[id="{anchor(name)}"]')
        row.wait_for(state="visible")
        assert text(report("hostile, planned").verdict.blocks[0]) in seen.page.inner_text("body")
        seen.quiet()


def test_a_module_may_be_called_as_a_library_is(running: Any, tmp_path: Path) -> None:
    page = html(report("llama")).replace('id="lm_head"', "id=Plotly")
    assert "id=Plotly" in page
    path = tmp_path / "report.html"
    path.write_text(page)
    with opened(running, path) as seen:
        assert seen.page.evaluate("document.getElementById('Plotly').tagName") in ("TR", "DETAILS")
        seen.drawn("#figure-heatmap .plot")
        seen.quiet()
