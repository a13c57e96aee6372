"""A document as a comment on a pull request, in GitHub's Markdown.

Drawings are left out; what they say stays. Links become plain names: a comment has no anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from fp8scope.report.document import github
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Details,
    Document,
    Facts,
    Figure,
    Inline,
    Items,
    Link,
    Listing,
    Paragraph,
    Section,
    Strong,
    Table,
    Tone,
    Words,
)
from fp8scope.report.document.words import parts, plain

LIMIT = 65_536
"""GitHub refuses longer comments."""

_MARKS: dict[Tone, str] = {"good": "✓ ", "warn": "△ ", "bad": "✕ ", "": ""}
_WHOLE_REPORT = "The HTML report has all of it."


@dataclass(frozen=True)
class _Level:
    """How much is said: rows of a table, lines of a listing, folded parts of a section."""

    rows: int
    lines: int
    folded: int


_ALL = 10**6
# what is long and what is folded away goes first
_LEVELS = (
    _Level(_ALL, _ALL, _ALL),
    _Level(10, 60, _ALL),
    _Level(10, 60, 6),
    _Level(10, 60, 3),
    _Level(10, 60, 0),
    _Level(5, 20, 0),
)


@dataclass(frozen=True)
class _Piece:
    """A part that is there or left out as a whole."""

    title: str
    text: str
    verdict: bool


def markdown(document: Document) -> str:
    """The document in at most `LIMIT` characters; what was left out for that is said at its end."""
    head = f"# {_short(document.title)}\n\n{github.line(_short(document.about))}"
    for level in _LEVELS:
        pieces = _pieces(document, level)
        comment = _joined(head, pieces, "" if level == _LEVELS[0] else _left_out(level, []))
        if _length(comment) <= LIMIT:
            return comment
    missing: list[str] = []
    while pieces and _length(comment) > LIMIT:
        # the longest section first, so that most of them stay; the verdict last of all
        longest = max(pieces, key=lambda piece: (not piece.verdict, len(piece.text)))
        pieces.remove(longest)
        missing.append(longest.title)
        comment = _joined(head, pieces, _left_out(level, missing))
    return comment


def _length(comment: str) -> int:
    return len(comment.encode("utf-16-le", "replace")) // 2


def _joined(head: str, pieces: Sequence[_Piece], end: str) -> str:
    comment = "\n\n".join(filter(None, (head, *(piece.text for piece in pieces), end))) + "\n"
    # half of a surrogate pair, as file names may hold, has no place in UTF-8
    return comment.encode("utf-8", "replace").decode("utf-8")


def _left_out(level: _Level, missing: Sequence[str]) -> str:
    cuts = [f"tables to {level.rows} rows", f"listings to {level.lines} lines"]
    if level.folded < _ALL:
        first = f"the first {level.folded} of what a section folds away"
        cuts += [first if level.folded else "without what is folded away"]
    names = ", ".join(_short(title, 80) for title in dict.fromkeys(missing[:20]))
    more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
    cuts += [f"without {names}{more}"] if missing else []
    return f"Cut to fit a comment ({LIMIT:,} characters): {', '.join(cuts)}. {_WHOLE_REPORT}"


def _short(foreign: str, most: int = 500) -> str:
    return github.text(foreign if len(foreign) <= most else f"{foreign[:most]}…")


def _pieces(document: Document, level: _Level) -> list[_Piece]:
    verdict = document.verdict
    heading = _Piece(verdict.title, f"## {github.text(verdict.title)}", True)
    blocks = [_Piece(verdict.title, written, True) for written in _blocks(verdict, level)]
    inner = [_Piece(part.title, _section(part, level, 3), True) for part in verdict.inner]
    rest = [_Piece(part.title, _section(part, level, 2), False) for part in document.sections]
    return [piece for piece in (heading, *blocks, *inner, *rest) if piece.text]


def _section(part: Section, level: _Level, depth: int) -> str:
    heading = f"{'#' * depth} {github.text(part.title)}"
    inner = (_section(below, level, min(depth + 1, 6)) for below in part.inner)
    return _together((heading, *_blocks(part, level), *inner))


def _blocks(part: Section, level: _Level) -> Iterator[str]:
    folded = 0
    for block in part.blocks:
        if isinstance(block, Details) and not block.open:
            folded += 1
            if folded > level.folded:
                continue
        yield _block(block, level)


def _together(written: Sequence[str]) -> str:
    return "\n\n".join(filter(None, written))


def _block(block: Block, level: _Level) -> str:
    match block:
        case Paragraph():
            written = github.line(_words(block.words))
        case Items():
            written = _items(block)
        case Facts():
            written = _facts(block)
        case Table():
            written = _table(block, level)
        case Figure():
            written = f"<strong>{github.text(block.title)}.</strong> {_words(block.says)}"
        case Listing():
            written = _listing(block, level)
        case Details():
            written = _details(block, level)
    return written


def _items(block: Items) -> str:
    marks = (f"{place}." if block.numbered else "-" for place in range(1, len(block.items) + 1))
    lines = (github.line(_words(item)) for item in block.items)
    return "\n".join(f"{mark} {line}" for mark, line in zip(marks, lines, strict=True))


def _facts(block: Facts) -> str:
    rows = (
        (
            github.text(fact.label),
            _MARKS[fact.tone] + github.text(fact.value),
            github.text(fact.note),
        )
        for fact in block.facts
    )
    return "\n".join(("| | | |", "|---|---|---|", *map(_row, rows)))


def _table(block: Table, level: _Level) -> str:
    shown = block.rows[: min(block.shown, level.rows)]
    lines = [
        _row([github.text(column.title) for column in block.columns]),
        f"|{'|'.join('---:' if column.numeric else '---' for column in block.columns)}|",
        *(_row([_cell(cell) for cell in row.cells]) for row in shown),
    ]
    caption = f"<strong>{github.text(block.caption)}</strong>" if block.caption else ""
    left = len(block.rows) - len(shown)
    count = f"The first {len(shown)} of {len(block.rows):,} rows." if left else ""
    return _together((caption, "\n".join(lines), count))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    return _MARKS[cell.tone] + _words(cell.words)


def _listing(block: Listing, level: _Level) -> str:
    lines = block.text.split("\n")
    cut = len(lines) - level.lines
    count = f"The first {level.lines} of {len(lines):,} lines." if cut > 0 else ""
    fenced = github.fenced("\n".join(lines[: level.lines]), block.language)
    title = f"<strong>{github.text(block.title)}</strong>"
    return _together((title, fenced, count, github.line(_words(block.note))))


def _details(block: Details, level: _Level) -> str:
    summary = _written(block.summary, github.text_in_html, github.code_in_html)
    inside = _together([_block(inner, level) for inner in block.blocks])
    opening = "<details open>" if block.open else "<details>"
    return f"{opening}<summary>{summary}</summary>\n\n{inside}\n\n</details>"


def _words(words: Words) -> str:
    return _written(words, github.text, github.code)


def _written(words: Words, text: Callable[[str], str], code: Callable[[str], str]) -> str:
    return "".join(
        text(part)
        if isinstance(part, str)
        else code(part.text)
        if isinstance(part, Code | Link)
        else f"<strong>{text(part.text)}</strong>"
        if isinstance(part, Strong)
        else f"{text(part.before)}<strong>«{text(part.token)}»</strong>{text(part.after)}"
        for part in _merged(words)
    )


def _merged(words: Words) -> Iterator[Inline]:
    """Neighbouring strings as one: what they say together must be inert too."""
    named = (
        plain((part,)) if isinstance(part, Link) and not part.code else part
        for part in parts(words)
    )
    for strings, run in groupby(named, lambda part: isinstance(part, str)):
        if strings:
            yield plain(tuple(run))
        else:
            yield from run
