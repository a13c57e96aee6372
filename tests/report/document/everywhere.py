"""One text in every place of a document, and what an HTML parser makes of a page."""

from __future__ import annotations

from html.parser import HTMLParser

from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Document,
    Excerpt,
    Fact,
    Facts,
    Figure,
    Items,
    Link,
    Listing,
    Paragraph,
    Row,
    Section,
    Strong,
    Table,
    View,
    Words,
)


def everywhere(text: str) -> Document:
    """A document that says `text` in every kind of block, and nothing else."""
    words: Words = (
        text,
        Code(text),
        Strong(text),
        Link(text, "there"),
        Link(text, "there", code=False),
        Link(text, "nowhere"),
        Excerpt(text, text, text),
    )
    drawing = {"type": "bar", "x": [text], "name": text}
    blocks: list[Block] = [
        Paragraph(text),
        Paragraph(words),
        Items((text, words)),
        Items((words, text), numbered=True),
        Facts((Fact(text, text, text, "bad"), Fact(text, text))),
        Table(
            (Column(text, about=text), Column(text, numeric=True)),
            [Row((Cell(text, tone="warn"), Cell(words, 1.0)), "there"), Row((Cell(text),) * 2)],
            text,
            shown=1,
        ),
        Figure("drawing", text, words, [View(text, [drawing], {"title": text})] * 2),
        Listing(text, text, text, words),
    ]
    inner = Section(text, "inner", [Paragraph(text)], text)
    section = Section(
        text, "section", [*blocks, Details(words, blocks[:5], "folded")], text, (inner,)
    )
    return Document(text, text, Section(text, "verdict", blocks[:5], text), (section,))


class Parsed(HTMLParser):
    """A page's elements with their attributes' names, its texts, and its attributes' values."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.where: list[tuple[str, ...]] = []  # the open elements around each text
        self._inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))
        if tag in self._inside:
            del self._inside[len(self._inside) - 1 - self._inside[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        self.where.append(tuple(self._inside))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.elements.append(("instruction", data))
