"""Markdown for GitHub: the document's words, inert, in no more than a comment may hold."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fp8scope.core.words import printable
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Document,
    Items,
    Link,
    Listing,
    Paragraph,
    Row,
    Section,
    Strong,
    Table,
)
from fp8scope.report.document.markdown import LIMIT, markdown
from tests.report.document.everywhere import Parsed, everywhere
from tests.report.document.sample import HOSTILE, sample

MARKER = "qqqqq"

# GitHub's Markdown with its bare links; what it does with the finished text is in LIVELY
GITHUB = MarkdownIt("gfm-like", {"linkify": True, "html": True})

LIVELY = {
    "mention": r"(?<![\w/])@[a-z0-9]",
    "issue": r"(?:^|\W)#\d|GH-\d|[\w-]+/[\w-]+#\d",
    "address": r"[\w.+-]+@[\w-]+\.\w",
    "link": r"(?:https?|ftp)://|www\.\w|mailto:",
    "commit": r"(?<![0-9a-z])[0-9a-f]{7,40}(?![0-9a-z])",
    "emoji": r":[\w+-]+:",
    "formula": r"\$",
}


def rendered(document: Document) -> Parsed:
    return Parsed(GITHUB.render(markdown(document)))


def one(block: Block) -> Document:
    return Document("Title", "about", Section("Title", "top", [block]), ())


@cache
def expected() -> Parsed:
    return rendered(everywhere(MARKER))


def letters(text: str) -> str:
    """What must be kept of a text: Markdown does not keep blanks as they were."""
    return re.sub(r"[\s·]", "", printable(text))


def shape(page: Parsed) -> list[tuple[str, ...]]:
    """Elements, without those that keep words apart and show nothing, or only set the font."""
    quiet = {"comment", "code", "/code", "span", "/span"}
    return [element for element in page.elements if element[0] not in quiet]


# leading and trailing blanks, and how many there are, are not kept by Markdown
foreign = st.text(min_size=1, max_size=40).map(lambda text: f"a{text}a")
begins = st.sampled_from(
    ["# ", "- ", "+ ", "* ", "1. ", "2) ", "> ", "===", "---", ": ", "    ", "~~~"]
)
marks = st.text(alphabet="\\`*_[]()<>#|!~&;-=+:@$.\n\t 1a/w", min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(foreign | marks.map(lambda text: f"a{text}a"))
@example(HOSTILE[0])
@example(HOSTILE[2])
@example(HOSTILE[3])
@example("a | b \\| c `x|y` ``` \\")
@example("&#64;user &commat;user &lt;b&gt;")
@example("<https://evil.example> ![x](https://evil.example/x.png) [a]: https://evil.example")
def test_any_text_comes_out_as_it_is_and_adds_nothing(text: str) -> None:
    found = rendered(everywhere(text))
    assert shape(found) == shape(expected())
    wanted = "".join(expected().texts).replace(MARKER, letters(text))
    assert letters("".join(found.texts)) == letters(wanted)


@settings(max_examples=150, deadline=None)
@given(begins, foreign)
def test_a_line_begins_nothing_whatever_its_first_letters(first: str, text: str) -> None:
    for block, around in (
        (Paragraph(first + text), ["p"]),
        (Paragraph((first, Strong(text))), ["p"]),
        (Items([first + text]), ["ul", "li"]),
    ):
        inside = [name for name, *_ in shape(rendered(one(block))) if not name.startswith("/")]
        assert [name for name in inside if name != "strong"] == ["h1", "p", "h2", *around]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "@",
                "#",
                "12",
                "GH-",
                "https://",
                "www.",
                "evil.example",
                "$",
                "x^2",
                ":",
                "tada",
                "a",
                "/",
                "(",
                "deadbeef",
                "0123456789",
                "mailto:",
                "javascript:",
                "-",
                "HTTP://",
                "ftp:",
                "_",
                ".",
                "cafe",
            ]
        )
        | st.just(" "),
        min_size=1,
        max_size=8,
    ).map("".join)
)
@example("@someone and @org/team, #123, GH-123, octo/cat#1, a@b.example")
@example("12GH-0123456789")
@example("https://evil.example www.evil.example ftp://evil.example mailto:a@b.example")
@example("0123456789abcdef0123456789abcdef01234567 :tada: $x^2$")
def test_nothing_lives_after_markdown(text: str) -> None:
    page = rendered(everywhere(text))
    assert not [element for element in page.elements if element[0] in {"a", "img"}]
    for words, inside in zip(page.texts, page.where, strict=True):
        if "code" in inside or "pre" in inside:
            continue  # GitHub leaves code alone
        for kind, pattern in LIVELY.items():
            alone = "span" in inside and words == "$"  # as GitHub's own documents have it
            assert alone or not re.search(pattern, words, re.IGNORECASE), (kind, words)


def test_neighbours_do_not_make_a_mention_together() -> None:
    words = ("see @", "someone, issue #", Link("123", "nowhere", code=False))
    written = markdown(one(Paragraph(words)))
    assert "see @<!-- -->someone, issue \\#<!-- -->123" in written


def test_names_are_in_backticks_where_they_can_be() -> None:
    words = (Code("layers.0.mlp.down_proj"), " ", Code("a|b"), " ", Code("`"))
    written = markdown(one(Paragraph(words)))
    assert "`layers.0.mlp.down_proj` <code>a&#124;b</code> <code>\\`</code>" in written


def test_a_listing_is_never_ended_by_its_text() -> None:
    text = "a\n```\n````\n</details>\n\tb"
    page = Parsed(GITHUB.render(markdown(one(Listing("Title", text, "yaml")))))
    inside = "".join(t for t, where in zip(page.texts, page.where, strict=True) if "pre" in where)
    assert inside == text + "\n"
    assert "class" in dict.fromkeys(name for name, _ in page.values)
    drawn = markdown(one(Listing("Title", "graph TD", "mermaid")))
    assert "mermaid" not in drawn


def test_figures_leave_their_words() -> None:
    written = markdown(sample())
    assert "Block 3's `down` loses most; 4 of 640 cells are dark." in written
    assert "heatmap" not in written


def test_tables_have_their_first_rows_and_say_how_many_there_are() -> None:
    page = markdown(sample())
    assert "linear_5` input" in page
    assert "layers.2.mlp.linear_6" not in page
    assert "The first 20 of 1,000 rows." in page
    assert (
        "| Site | Body SQNR, dB | Underflow | Headroom | Where |\n|---|---:|---:|---:|---|" in page
    )
    assert "| ✕ 8.5 |" in page


def test_the_same_document_gives_the_same_text() -> None:
    assert markdown(sample()) == markdown(sample())


def rows(count: int, letters: int) -> Table:
    return Table([Column("t")], [Row([Cell("x" * letters)])] * count, shown=count)


def test_what_is_folded_away_goes_before_what_is_seen() -> None:
    sections = [
        Section("Seen", "seen", [Paragraph("seen " * 1000)]),
        Section("Folded", "folded", [Details("more", [Paragraph("more " * 13000)])]),
    ]
    written = markdown(Document("T", "a", Section("V", "v", [Paragraph("verdict")]), sections))
    assert len(written) <= LIMIT
    assert "seen seen" in written
    assert "more more" not in written
    assert "without what is folded away. The HTML report has all of it." in written


def test_as_many_folded_parts_stay_as_fit() -> None:
    folded = [Details(f"part {number}", [Paragraph("more " * 2000)]) for number in range(12)]
    part = Section("Folded", "folded", [*folded, Details("open", [Paragraph("seen")], open=True)])
    written = markdown(Document("T", "a", Section("V", "v", [Paragraph("verdict")]), [part]))
    assert len(written) <= LIMIT
    assert [f"<summary>part {number}</summary>" in written for number in (0, 5, 6)] == [1, 1, 0]
    assert "<summary>open</summary>" in written
    assert "to 60 lines, the first 6 of what a section folds away. The HTML report" in written


def test_long_tables_and_listings_are_cut_before_sections_are_left_out() -> None:
    blocks: list[Block] = [rows(100, 900), Listing("L", "\n".join(["line " * 40] * 500))]
    written = markdown(
        Document("T", "a", Section("V", "v", [Paragraph("verdict")]), [Section("S", "s", blocks)])
    )
    assert len(written) <= LIMIT
    assert "The first 10 of 100 rows." in written
    assert "The first 60 of 500 lines." in written
    assert "tables to 10 rows, listings to 60 lines" in written


@pytest.mark.parametrize("letters", [30_000, 70_000])
def test_the_longest_section_goes_first_and_the_verdict_last(letters: int) -> None:
    sections = [
        Section("Short", "a", [Paragraph("short " * 100)]),
        Section("Long", "b", [Paragraph("long " * letters)]),
        Section("Last", "c", [Paragraph("last " * 100)]),
    ]
    written = markdown(Document("T", "a", Section("V", "v", [Paragraph("verdict")]), sections))
    assert len(written) <= LIMIT
    assert "long long" not in written
    for kept in ("verdict", "short short", "last last", "without Long."):
        assert kept in written


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20_000), st.sampled_from(["@", "x", "𝔘", "\\", "&"]))
def test_no_document_is_too_long(count: int, letter: str) -> None:
    text = letter * count
    parts = [Section(text, str(number), [Paragraph(text)]) for number in range(8)]
    written = markdown(Document(text, text, Section(text, "v", [Paragraph(text)] * 8), parts))
    assert len(written.encode("utf-16-le")) // 2 <= LIMIT
