"""What a report consists of, before anybody decides whether it becomes HTML or Markdown.

Plain values only: all text here is foreign until a writer has escaped it, and writers escape all of
it. Nothing in this package knows what FP8 is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Tone = Literal["good", "warn", "bad", ""]
"""What a value says: drawn as a colour and a mark, never as a colour alone."""


@dataclass(frozen=True)
class Code:
    """A name or a command inside a sentence, in a fixed-width font."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that a reader who skims must see."""

    text: str


@dataclass(frozen=True)
class Link:
    """To an `anchor` in this document; `code` sets the text in a fixed-width font."""

    text: str
    anchor: str
    code: bool = True


@dataclass(frozen=True)
class Excerpt:
    """A token in the text around it, marked as «token» so that it shows without colours too."""

    before: str
    token: str
    after: str


Inline: TypeAlias = str | Code | Strong | Link | Excerpt
Words: TypeAlias = str | tuple[Inline, ...]
"""Running text: a string, or a string in parts."""


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    words: Words


@dataclass(frozen=True)
class Items:
    """A list; numbered where the order matters."""

    items: Sequence[Words]
    numbered: bool = False


@dataclass(frozen=True)
class Fact:
    """One figure of the first screen: `value` large, `label` over it, `note` under it."""

    label: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Facts:
    """Figures side by side."""

    facts: Sequence[Fact]


@dataclass(frozen=True)
class Column:
    """A column; `numeric` is set to the right and sorts by `Cell.sort`."""

    title: str
    numeric: bool = False
    about: str = ""


@dataclass(frozen=True)
class Cell:
    """`sort` is the number behind the words, None where there is none."""

    words: Words
    sort: float | None = None
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """`anchor` makes it the target of links; one anchor stands once in a document."""

    cells: Sequence[Cell]
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """Rows in the order that matters most; readers may sort by another column.

    `shown` of many rows are seen at first, the rest on demand. Markdown has the first `shown` only,
    and says how many there are.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    shown: int = 20


@dataclass(frozen=True)
class View:
    """One drawing: `data` and `layout` as plotly's JSON has them, its colours as names.

    A string under a key that ends in "color" or "colorscale" may be a name of `report.palette`
    (`@accent`), which is looked up when the drawing is shown, in light or dark. Text that comes
    from a model or a prompt goes through `document.inert.inert`, because plotly reads some HTML.
    `customdata` that begins with "#" is where a click leads.
    """

    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A drawing, or several to choose from (`views`). `name` is unique in a document and names
    the file of `--format png`; `says` is what it shows in one or two sentences, for those who do
    not see it; `height` in pixels.
    """

    name: str
    title: str
    says: Words
    views: Sequence[View]
    height: int = 420


@dataclass(frozen=True)
class Listing:
    """Text to copy: a config or a command. `note` says what to do with it."""

    title: str
    text: str
    language: str = ""
    note: Words = ""


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away behind `summary`."""

    summary: Words
    blocks: Sequence[Block]
    anchor: str = ""
    open: bool = False


Block: TypeAlias = Paragraph | Items | Facts | Table | Figure | Listing | Details


@dataclass(frozen=True)
class Section:
    """A part with a heading. Search finds it by `title` and `keywords`."""

    title: str
    anchor: str
    blocks: Sequence[Block]
    keywords: str = ""
    inner: Sequence[Section] = field(default=())


@dataclass(frozen=True)
class Document:
    """A whole report. `verdict` is the first screen; `about` says in one line what it is of."""

    title: str
    about: str
    verdict: Section
    sections: Sequence[Section]


def figures(document: Document) -> Iterator[Figure]:
    """All figures, in the order of the document."""
    for section in (document.verdict, *document.sections):
        yield from _figures_of(section)


def _figures_of(section: Section) -> Iterator[Figure]:
    yield from _among(section.blocks)
    for inner in section.inner:
        yield from _figures_of(inner)


def _among(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from _among(block.blocks)
