"""Links of README.md and docs/ lead somewhere: pages, headings, images. mkdocs sees docs/ alone.

Nothing is fetched: links to other sites are only well formed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs import pages

LINK = re.compile(r"(!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
CODE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$|`[^`\n]+`", re.M | re.S)
HEADING = re.compile(r"^#{1,6} +(.*?)(?: *\{ *#([\w-]+) *\})? *#*$", re.M)


def prose(path: Path) -> str:
    """The page without its code."""
    return CODE.sub("", path.read_text())


def links(path: Path) -> Iterator[tuple[bool, str]]:
    """Whether it is an image, and where it leads."""
    for image, target in LINK.findall(prose(path)):
        yield bool(image), target
    for source in re.findall(r"<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", prose(path)):
        yield "<img" in path.read_text(), source


def anchors(path: Path) -> set[str]:
    """Names of headings that GitHub and mkdocs agree on."""
    fenced = re.sub(r"^( *)(`{3,}).*?^\1\2 *$", "", path.read_text(), flags=re.M | re.S)
    found: set[str] = set()
    for words, own in HEADING.findall(fenced):
        text = re.sub(r"[`*]|\]\([^)]*\)|\[", "", words)
        found |= {own} if own else {on_github(text)} & {in_mkdocs(text)}
    return found


def on_github(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def in_mkdocs(heading: str) -> str:
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@pytest.mark.parametrize("page", pages.markdown(), ids=pages.name)
def test_links_lead_somewhere(page: Path) -> None:
    for image, target in links(page):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            assert parts.scheme == "https", f"{target} is not https"
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), f"{target} names no host"
            assert not image, f"{target}: an image of another site does not show offline"
            continue
        assert not parts.path.startswith("/"), f"{target} is not relative"
        there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert there.is_relative_to(pages.ROOT), f"{target} leads out of the repository"
        assert there.exists(), f"{target} does not exist"
        if parts.fragment:
            assert parts.fragment in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", pages.markdown(), ids=pages.name)
def test_links_are_seen(page: Path) -> None:
    """No link is written in a way that the pattern above does not see."""
    assert prose(page).count("](") == len(LINK.findall(prose(page)))
    assert not re.search(r"^\[[^\]]+\]: ", prose(page), re.M), "reference links are not checked"


def test_every_image_is_on_a_page() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in pages.markdown()
        for image, target in links(page)
        if image and not urlsplit(target).scheme
    }
    assert {path for path in (pages.DOCS / "images").iterdir() if path.is_file()} <= shown


def test_headings() -> None:
    assert on_github("What plan says, per tag") == "what-plan-says-per-tag"
    assert on_github("A — B") != in_mkdocs("A — B")
    assert on_github("What if?") == in_mkdocs("What if?") == "what-if"
