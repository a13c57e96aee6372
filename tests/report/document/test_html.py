"""The HTML of a report: whole, inert, short, and the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from functools import cache
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fp8scope.core.words import printable
from fp8scope.report.colours import luminance
from fp8scope.report.document.anchors import anchors, dangling, repeated
from fp8scope.report.document.blocks import (
    Cell,
    Column,
    Details,
    Document,
    Figure,
    Link,
    Paragraph,
    Row,
    Section,
    Table,
    View,
)
from fp8scope.report.document.drawing import figure_json, inert_json
from fp8scope.report.document.html import _plotly, html, ranks
from fp8scope.report.palette import palette
from tests.report.document.everywhere import Parsed, everywhere
from tests.report.document.sample import HOSTILE, sample

MARKER = "qqqqq"


def parsed(document: Document) -> Parsed:
    """The page without plotly.js, which is long and always the same."""
    return Parsed(html(document).replace(_plotly(), ""))


@cache
def expected() -> Parsed:
    return parsed(everywhere(MARKER))


# texts that a page's own words do not hold, so that they can be told apart
foreign = st.text(min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(foreign)
@example(HOSTILE[0])
@example(HOSTILE[1])
@example(HOSTILE[2])
@example("]]><!DOCTYPE x><?php ?>")
@example("'\" onmouseover=x &quot; &#x3c;b> &lt")
@example("{{ document }}{% endmacro %}{# #}")
@example("<!--<script>")
def test_any_text_comes_out_as_it_is_and_adds_nothing(text: str) -> None:
    found = parsed(everywhere(text))
    assert found.elements == expected().elements
    shown = printable(text)
    for name, value in expected().values:
        if MARKER in value and name != "content":
            assert (name, value.replace(MARKER, shown)) in found.values
    places = [place for place, word in enumerate(expected().texts) if MARKER in word]
    assert len(places) > 60
    for place in places:
        wanted, got = expected().texts[place], found.texts[place]
        if "pre" in found.where[place]:  # lines and tabs are part of what is copied
            assert got == re.sub(r"[^\n\t]+", lambda run: printable(run[0]), text)
        elif wanted.startswith('{"same"'):  # a drawing's own text is made inert by whoever draws it
            assert json.loads(got) == json.loads(wanted.replace(MARKER, json.dumps(text)[1:-1]))
        else:
            assert got == wanted.replace(MARKER, shown)


@settings(deadline=None)
@given(st.recursive(st.text() | st.floats() | st.integers(), st.lists))
def test_json_inside_a_script_cannot_end_it(value: object) -> None:
    written = inert_json({"value": value})
    assert not set("<>&\u2028\u2029") & set(written)
    json.loads(written)


def test_numbers_of_drawings_are_short_and_never_nan() -> None:
    data = [{"y": [0.1234567891, float("nan"), float("inf"), 3.0, 12345678, 1e-9]}]
    assert inert_json(data) == '[{"y":[0.123457,null,null,3,12345678,1e-09]}]'


def unpacked(part: Any, same: list[Any]) -> Any:
    """As figures.js has it."""
    if isinstance(part, dict) and "=" in part:
        return same[part["="]]
    if isinstance(part, dict):
        return {key: unpacked(inner, same) for key, inner in part.items()}
    return [unpacked(inner, same) for inner in part] if isinstance(part, list) else part


drawings = st.recursive(
    st.text("ab=", max_size=60) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(drawings, min_size=1, max_size=4), drawings)
def test_what_views_have_in_common_is_written_once_and_comes_back(
    own: list[Any], shared: Any
) -> None:
    views = [View("view", [{"own": part, "shared": shared}], {"again": shared}) for part in own]
    packed = json.loads(figure_json(Figure("name", "title", "says", views)))
    wanted = [{"data": view.data, "layout": view.layout} for view in views]
    assert unpacked(packed["views"], packed["same"]) == wanted


def test_views_that_say_the_same_are_little_longer_than_one() -> None:
    names = [[f"#layers.{row}.{column}" for column in range(9)] for row in range(80)]
    data = [{"customdata": names}]

    def size(count: int) -> int:
        return len(figure_json(Figure("name", "title", "says", [View("v", data, {})] * count)))

    assert size(10) < size(1) + 500


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else() -> None:
    page = html(sample())
    values = Parsed(page.replace(_plotly(), "")).values
    contents = next(value for _, value in values if value.startswith("default-src"))
    assert contents.startswith("default-src 'none'; ")
    allowed = re.findall(r"'sha256-([^']+)'", contents)
    kept = r'<script(?: type="text/plain" id=":plotly")?>(.*?)</script>'
    scripts = re.findall(kept, page, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert set(allowed) == hashes
    assert len(allowed) == len(scripts) == 3
    for source in ("unsafe-eval", "http", "*", "'self'"):
        assert source not in contents
    assert re.search("script-src[^;]*unsafe-inline", contents) is None


def test_nothing_is_loaded_from_elsewhere() -> None:
    loads = ("src", "srcset", "href", "action", "data", "poster", "formaction")
    leading = [value for name, value in parsed(sample()).values if name in loads]
    assert len(leading) > 20
    assert [value for value in leading if value[0] != "#" and value != "data:,"] == []


def test_the_same_document_gives_the_same_bytes() -> None:
    assert html(sample()) == html(sample())


def test_every_link_leads_to_the_one_element_of_that_id() -> None:
    values = parsed(sample()).values
    ids = [value for name, value in values if name == "id"]
    assert len(ids) == len(set(ids))
    links = [unquote(value[1:]) for name, value in values if name == "href" and value[0] == "#"]
    assert len(links) > 20
    assert set(links) <= set(ids)


def test_a_link_to_nowhere_is_text() -> None:
    section = Section("Title", "top", [Paragraph((Link("gone", "gone"), Link("top", "top")))])
    document = Document("Title", "about", section, ())
    assert dangling(document) == ["gone"]
    assert '<p><code>gone</code><a href="#top"><code>top</code></a></p>' in html(document)


def test_anchors_are_counted_wherever_they_stand() -> None:
    table = Table([Column("a")], [Row([Cell("a")], "row"), Row([Cell("a")])])
    folded = Details("summary", [Details("inner", [table], "inner")], "folded")
    part = Section("Title", "top", [folded], inner=[Section("Inner", "inner", [])])
    document = Document("Title", "about", part, [])
    assert anchors(document) == {"top": 1, "folded": 1, "inner": 2, "row": 1}
    assert repeated(document) == ["inner"]
    assert (repeated(sample()), dangling(sample())) == ([], [])


def test_text_that_is_no_utf8_does_not_break_a_page() -> None:
    html(everywhere("half a pair \ud800 and \udfff")).encode()


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(), max_size=30))
def test_ranks_order_as_the_numbers_do(numbers: list[float | None]) -> None:
    table = Table([Column("n")], [Row([Cell("", number)]) for number in numbers])
    written = ranks(table, 0)
    known = [number for number in numbers if number is not None and not math.isnan(number)]
    if not known:
        assert written == ""
        return
    places = [int(rank) for rank in written.split(",") if rank]
    assert [bool(rank) for rank in written.split(",")] == [number in known for number in numbers]
    for number, rank in zip(known, places, strict=True):
        for other, after in zip(known, places, strict=True):
            assert (number < other) == (rank < after)


def test_what_surrounds_a_report_is_small() -> None:
    section = Section("Title", "top", [Paragraph("text")])
    size = len(html(Document("Title", "about", section, ())).encode())
    assert size - len(_plotly().encode()) < 60_000


def test_a_large_table_is_lean() -> None:
    def size(count: int) -> int:
        rows = [
            Row(
                [Cell(f"layers.{place}"), Cell("1.23", place), Cell("4.56", -place)], f"a{place:04}"
            )
            for place in range(count)
        ]
        columns = [Column("name"), Column("x", numeric=True), Column("y", numeric=True)]
        part = Section("Title", "top", [Table(columns, rows)])
        return len(html(Document("Title", "about", part, ())).encode())

    letters = len("layers.10001.234.56a1000")
    assert (size(2000) - size(1000)) / 1000 - letters < 50


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_of_text_can_be_read(dark: bool) -> None:
    style = html(sample()).split("<style>")[1].split("</style>")[0]
    wanted = {
        name[1:]: value for name, value in palette(dark=dark).items() if isinstance(value, str)
    }
    own = re.findall(r"--soft:(.*?);--good:(.*?);--warn:(.*?);--bad:(.*?);--mark:(#\w+)", style)
    soft, good, warn, bad, mark = own[1 if dark else 0]
    texts = [wanted["text"], wanted["dim"], wanted["main"], good, warn, bad]
    for ground in (wanted["paper"], soft):
        for colour in texts:
            assert contrast(colour, ground) >= 4.5, (colour, ground)
    for colour in (wanted["text"], wanted["main"]):
        assert contrast(colour, mark) >= 4.5, (colour, mark)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    bright, dim = sorted((luminance(rgb(one)), luminance(rgb(other))), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def rgb(colour: str) -> tuple[int, int, int]:
    digits = colour.removeprefix("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
