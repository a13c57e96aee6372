"""A report as a reader has it: in a browser that is offline, with every console message a fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fp8scope.core.words import printable
from fp8scope.report.document.html import html
from fp8scope.report.palette import palette
from tests.report.browser import Seen, browser, opened
from tests.report.document.sample import BLOCKS, HOSTILE, sample

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
}
SITES = "#tensors table"


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report") / "a report.html"
    written.write_bytes(html(sample()).encode())
    return written


@pytest.fixture(scope="module")
def shared(running: Any, file: Path) -> Iterator[Seen]:
    """One page for many tests: to open one takes a second."""
    with opened(running, file) as page:
        yield page


@pytest.fixture
def seen(shared: Seen) -> Iterator[Seen]:
    """A page as it was opened, but for figures that have been drawn."""
    shared.page.evaluate(
        "() => { history.replaceState(null, '', location.pathname); follow('');"
        "for (const folded of all('main details[open]')) folded.open = false;"
        "for (const table of all('table.whole')) unfold(table, false);"
        "scrollTo(0, 0) }"
    )
    shared.page.keyboard.press("Escape")
    yield shared
    shared.quiet()


@pytest.fixture(scope="module")
def phone(running: Any, file: Path) -> Iterator[Seen]:
    with opened(running, file, **PHONE) as page:
        yield page


def first_column(seen: Seen, table: str = SITES) -> list[str]:
    """What is shown of it, in its order."""
    cells = seen.page.locator(f"{table} tbody td:first-child").filter(visible=True)
    return [text.strip() for text in cells.all_inner_texts()]


def traces(seen: Seen, plot: str) -> Any:
    return seen.page.evaluate(f"document.querySelector('{plot} .plot').data")


def test_figures_are_drawn_when_they_come_near(shared: Seen) -> None:
    seen = shared  # the first test: nothing has been drawn
    folded = "#figure-magnitudes-0"
    assert seen.page.locator(f"{folded} .main-svg").count() == 0
    seen.drawn("#figure-heatmap .plot")
    assert len(traces(seen, "#figure-heatmap")[0]["z"]) == BLOCKS
    seen.page.click("#layer-0 > summary")
    seen.drawn(f"{folded} .plot")
    assert seen.page.locator(f"{folded} .bars .point").count() == 120
    assert seen.page.locator("#figure-magnitudes-1 .main-svg").count() == 0


def test_the_verdict_is_on_the_first_screen(seen: Seen) -> None:
    for selector in ("h1", "#verdict h2", "#verdict .facts", "#verdict ol"):
        box = seen.page.locator(selector).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800, selector


def test_hostile_text_is_text(seen: Seen) -> None:
    shown = seen.page.locator("#hostile > p").all_text_contents()
    assert shown == [printable(text) * 3 for text in HOSTILE]
    assert seen.page.locator("img, iframe, object, embed, [onerror], [onload]").count() == 0
    drawings = "document.querySelectorAll('svg:not(.plot svg, #js-plotly-tester)').length"
    assert seen.page.evaluate(drawings) == 0
    copied = seen.page.locator("#export code").last.text_content()
    assert "\n".join(map(printable, HOSTILE)).startswith(copied.split("\n")[0])


def test_hostile_names_under_the_pointer_are_text(seen: Seen) -> None:
    seen.drawn("#figure-heatmap .plot")
    box = seen.page.locator("#figure-heatmap .nsewdrag").bounding_box()
    seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    seen.page.wait_for_selector("#figure-heatmap .hoverlayer text")
    text = seen.page.locator("#figure-heatmap .hoverlayer").text_content()
    assert "</script><img src=x onerror=alert(1)>" in text
    assert "&amp; &lt;b&gt;" in text


def test_a_click_on_a_cell_opens_its_layer(seen: Seen) -> None:
    seen.drawn("#figure-heatmap .plot")
    box = seen.page.locator("#figure-heatmap .nsewdrag").bounding_box()
    seen.page.mouse.click(box["x"] + 20, box["y"] + box["height"] * 3.5 / BLOCKS)
    seen.page.wait_for_selector("#layer-3[open]")
    assert seen.page.url.endswith("#layer-3")


def test_search_finds_sections_layers_and_rows(seen: Seen) -> None:
    keyboard, page = seen.page.keyboard, seen.page
    keyboard.press("/")
    keyboard.type("overv")
    hits = page.locator("search li a")
    assert hits.all_inner_texts() == ["Overview"]
    page.fill("search input", "heatmap")  # a keyword of that section
    assert "Overview" in hits.all_inner_texts()
    page.fill("search input", "layers.3.mlp")
    status = page.locator("search p").inner_text()
    assert status == "8 hits"
    assert hits.count() == 8
    assert hits.first.inner_text().startswith("model.layers.3.mlp.down_proj")
    page.fill("search input", "LINEAR_6 sequence 993")
    assert page.locator("search p").inner_text() == "1 hit"
    keyboard.press("Enter")
    page.wait_for_selector("#site-993.marked")  # it was among the rows that are not shown at first
    assert page.locator("#site-993").is_visible()
    assert page.url.endswith("#site-993")
    page.fill("search input", "layers")
    assert page.locator("search p").inner_text() == "1,007 hits, the first 60"
    page.locator("search input").focus()
    keyboard.press("ArrowDown")
    keyboard.press("Escape")
    assert page.input_value("search input") == ""
    assert not page.locator("search div").is_visible()
    page.fill("search input", "no such layer")
    assert page.locator("search p").inner_text() == "0 hits"


def test_search_is_quick_over_a_thousand_rows(seen: Seen) -> None:
    seen.page.evaluate("searchIndex()")
    took = seen.page.evaluate(
        "(() => { const start = performance.now(); found('layers. sequence');"
        "return performance.now() - start })()"
    )
    assert took < 100  # 2 ms on a desk


def test_tables_show_their_first_rows_then_all(seen: Seen) -> None:
    assert len(first_column(seen)) == 20
    button = seen.page.locator("#tensors .more")
    assert button.inner_text() == "Show all 1,000 rows"
    button.click()
    assert len(first_column(seen)) == 1000
    button.click()
    assert len(first_column(seen)) == 20


def test_tables_sort_by_the_numbers_behind_the_words(seen: Seen) -> None:
    before = first_column(seen)
    head = seen.page.locator(f"{SITES} th").nth(2)  # underflow: some rows have none
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert first_column(seen)[0] == "layers.142.mlp.linear_5 input"
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(seen)[0] == "layers.0.mlp.linear_1 input"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert first_column(seen) == before
    seen.page.locator(f"{SITES} th button").first.click()
    seen.page.locator("#tensors .more").click()
    shown = first_column(seen)
    assert shown.index("layers.9.mlp.linear_0 input") < shown.index("layers.10.mlp.linear_0 input")


@pytest.mark.parametrize("anchor", ["site-555", "layer-4", "figure-magnitudes-2", "hostile-inner"])
def test_a_link_opens_what_is_folded_around_it(seen: Seen, anchor: str) -> None:
    seen.page.evaluate(f"location.hash = '{anchor}'")
    target = seen.page.locator(f"#{anchor}.marked")
    target.wait_for(state="visible")
    assert 0 <= target.bounding_box()["y"] < 800
    if anchor.startswith("figure"):
        seen.page.wait_for_selector(f"#{anchor} .main-svg")


def test_a_report_opens_at_the_layer_of_its_address(running: Any, file: Path) -> None:
    with opened(running, file, "#layer-4") as seen:
        target = seen.page.locator("#layer-4.marked[open]")
        assert 0 <= target.bounding_box()["y"] < 200
        seen.quiet()


def test_an_anchor_with_any_letters_is_found(seen: Seen) -> None:
    link = seen.page.evaluate(
        "(() => { const row = document.querySelector('[id^=\"hostile 3\"]');"
        "location.hash = encodeURIComponent(row.id); return row.id })()"
    )
    seen.page.wait_for_selector("tr.marked")
    assert seen.page.locator("tr.marked").get_attribute("id") == link
    seen.page.evaluate("location.hash = '%'")  # no fragment at all


def test_another_view_is_drawn(seen: Seen) -> None:
    seen.drawn("#figure-heatmap .plot")
    first = traces(seen, "#figure-heatmap")[0]["z"]
    seen.page.locator("#figure-heatmap").get_by_label("View").select_option(index=1)
    assert traces(seen, "#figure-heatmap")[0]["z"] != first


@pytest.mark.parametrize("clipboard", [True, False])
def test_listings_and_links_are_copied(seen: Seen, clipboard: bool) -> None:
    page = seen.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('nothing yet')")
    if not clipboard:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject() }")
    page.get_by_label("Copy vLLM").click()
    page.wait_for_selector("text=Copied")
    held = page.evaluate("navigator.clipboard.readText()")
    assert held == page.locator("#export code").first.text_content()
    assert held.startswith("quant_cfg:\n")
    page.locator("#layer-2 > summary .pilcrow").click()
    page.wait_for_selector("text=Link copied")
    assert page.evaluate("navigator.clipboard.readText()").endswith("html#layer-2")


def test_figures_follow_the_colours_of_the_screen(running: Any, file: Path) -> None:
    with opened(running, file, "#figure-magnitudes-0", color_scheme="dark") as seen:
        seen.drawn("#figure-magnitudes-0 .plot")
        used = traces(seen, "#figure-magnitudes-0")[0]["marker"]["color"]
        night, day = palette(dark=True), palette(dark=False)
        assert set(used) == {night["@accent"], night["@main"]}
        seen.page.emulate_media(color_scheme="light")
        seen.page.wait_for_function(
            "colour => document.querySelector('#figure-magnitudes-0 .plot').data[0].marker.color[0]"
            " === colour",
            arg=day["@accent"],
        )
        seen.quiet()


def test_a_phone_shows_the_verdict_and_never_scrolls_sideways(phone: Seen) -> None:
    page = phone.page
    facts = page.locator("#verdict .facts").bounding_box()
    assert facts["y"] + facts["height"] < 844
    page.evaluate("for (const folded of all('main details')) folded.open = true")
    phone.drawn(".plot")
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 390
    page.locator(".contents summary").tap()
    page.locator(".contents a", has_text="Layers").tap()
    assert page.evaluate("location.hash") == "#layers"
    assert not page.locator(".contents ol").first.is_visible()
    assert page.evaluate(width) == 390
    phone.quiet()


def test_a_phone_shows_the_beginning_of_what_is_long(phone: Seen) -> None:
    cell = phone.page.locator("#site-3 .long")
    before = cell.bounding_box()["height"]
    cell.tap()
    assert cell.bounding_box()["height"] > 3 * before
    phone.quiet()


def test_a_tap_offers_the_link_that_a_click_follows(phone: Seen) -> None:
    phone.page.evaluate("location.hash = ''")
    phone.drawn("#figure-heatmap .plot")
    phone.page.locator("#figure-heatmap .nsewdrag").tap(position={"x": 20, "y": 200})
    phone.page.wait_for_selector(".offer a")
    assert phone.page.evaluate("location.hash") == ""
    phone.page.locator(".offer a").tap()
    assert phone.page.evaluate("location.hash").startswith("#layer-")
    phone.quiet()


def test_paper_has_all_figures_and_all_rows(running: Any, file: Path, tmp_path: Path) -> None:
    with opened(running, file, color_scheme="dark") as seen:
        seen.page.evaluate(
            "addEventListener('beforeprint', () => { window.printed = {"
            "  open: document.querySelectorAll('main details:not([open])').length,"
            "  plots: [...document.querySelectorAll('.plot')].map((plot) =>"
            "    [plot.querySelectorAll('.main-svg').length > 0, plot._fullLayout.font.color])"
            "} })"
        )
        printed = seen.page.pdf(path=tmp_path / "report.pdf")
        state = seen.page.evaluate("window.printed")
        assert state["open"] == 0
        assert state["plots"] == [[True, palette(dark=False)["@text"]]] * 7
        assert printed.startswith(b"%PDF")
        assert printed.count(b"/Type /Page\n") > 20  # a thousand rows
        assert seen.page.locator("main details[open]").count() == 1  # as before
        seen.quiet()


def test_without_javascript_everything_but_the_figures_is_there(running: Any, file: Path) -> None:
    with opened(running, file, java_script_enabled=False) as seen:
        assert seen.page.get_by_text("JavaScript is off").is_visible()
        assert len(first_column(seen)) == 1000
        assert seen.page.locator("#figure-heatmap .says").is_visible()
        assert not seen.page.locator("search").is_visible()
        seen.page.click("#layer-1 > summary")
        assert seen.page.locator("#layer-1 table").is_visible()
        seen.quiet()


def test_the_keyboard_reaches_everything(seen: Seen) -> None:
    reached: list[str] = []
    seen.page.focus(".skip")
    for _ in range(14):
        seen.page.keyboard.press("Tab")
        reached.append(
            seen.page.evaluate(
                "(() => { const at = document.activeElement;"
                "const style = getComputedStyle(at);"
                "return style.outlineStyle === 'none' ? 'unseen' : at.localName })()"
            )
        )
    assert "unseen" not in reached
    assert {"a", "input"} <= set(reached)
    labels = "[...document.querySelectorAll('.plot')].every((plot) => plot.ariaLabel)"
    assert seen.page.evaluate(labels)


def test_a_row_is_found_by_where_it_stood_before_anything_was_sorted(
    running: Any, file: Path
) -> None:
    third = "document.querySelector('#tensors tbody tr:nth-child(3)')"
    name = f"{third}.cells[0].textContent"
    with opened(running, file) as unsorted, opened(running, file) as seen:
        at = unsorted.page.evaluate(f"[...document.querySelectorAll('tbody tr')].indexOf({third})")
        wanted = unsorted.page.evaluate(name)
        for _ in range(2):
            seen.page.locator(f"{SITES} th button").first.click()
        assert seen.page.evaluate(name) != wanted
        assert seen.page.evaluate(f"rowOf(':row{at}').cells[0].textContent") == wanted
