"""Names and texts that try to be markup, from a profile to the end: nothing of them is obeyed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from fp8scope.core.words import printable
from fp8scope.report.document.html import html
from fp8scope.report.document.markdown import markdown
from tests.report.pages.subjects import HOSTILE, report, snapshot, text

BOTH = pytest.mark.parametrize("name", ["hostile", "hostile, planned"])
SAFE = printable(HOSTILE)


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@BOTH
def test_they_come_out_as_text_and_as_nothing_else(name: str) -> None:
    page = Reader(html(report(name)))
    harmless = Reader(html(report(name.replace("hostile", "llama"))))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements} | {"del"}
    assert "img" not in {tag for tag, _ in page.elements}
    handlers = [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert handlers == []
    assert "alert" not in "".join(str(a.get("src")) for _, a in page.elements)
    assert SAFE in "".join(page.text)


@BOTH
def test_no_control_characters_are_left(name: str) -> None:
    said = text(report(name).verdict) + "".join(map(text, report(name).sections))
    assert said.count(SAFE) > 50
    assert "\u202e" not in said
    assert f"{HOSTILE[:20]}" in said


def test_commands_quote_what_a_shell_would_obey() -> None:
    said = text(report("hostile").verdict)
    assert "fp8scope plan profile.h5" in said
    assert snapshot("hostile").profile.model["name"] == HOSTILE


@BOTH
def test_markdown_has_no_element_of_them(name: str) -> None:
    said = markdown(report(name))
    assert len(said) <= 65_536
    outside = re.sub(r"(?ms)^(`{3,})[^\n]*\n.*?^\1`*$", "", said)
    assert len(outside) < len(said)
    for markup in ("<img", "</script>", "<!--%"):
        assert markup not in re.sub(r"(`+)[^`].*?\1", "", outside)
