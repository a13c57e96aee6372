"""From the tables and sentences that every view has to blocks of a document."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from fp8scope.analyze.thresholds import DAMAGED_DB, FLOOR_DB
from fp8scope.core.words import decibel, nats, printable
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Column,
    Excerpt,
    Items,
    Paragraph,
    Row,
    Table,
    Tone,
    Words,
)
from fp8scope.report.pages.names import Names
from fp8scope.report.plan import capital
from fp8scope.report.sheet import PLACES, Entry, Sheet

_NUMBERED = re.compile(r"^\d+\. ")


def table(of: Sheet) -> Table:
    """A sheet as it is."""
    return Table(
        columns=[
            Column(name.replace("\n", " "), numeric=at > 0 and name not in PLACES)
            for at, name in enumerate(of.header)
        ],
        rows=[Row([Cell(_words(entry)) for entry in row]) for row in of.rows],
        caption=capital(of.title),
    )


def _words(entry: Entry) -> Words:
    if isinstance(entry, Excerpt):
        return (excerpt(entry.before, entry.token, entry.after),) if entry.token else ""
    return printable(entry)


def excerpt(before: str, token: str, after: str) -> Excerpt:
    """A token in its text, without control characters."""
    return Excerpt(printable(before), printable(token), printable(after))


def prose(sentences: Sequence[str], names: Names) -> list[Block]:
    """Sentences one below the other, those with numbers as a numbered list; modules are links."""
    blocks: list[Block] = []
    run: list[str] = []
    for sentence in sentences:
        if _NUMBERED.match(sentence):
            run.append(_NUMBERED.sub("", sentence))
            continue
        blocks += _list(run, names)
        run = []
        blocks.append(Paragraph(names.linked(sentence)))
    return blocks + _list(run, names)


def _list(sentences: Sequence[str], names: Names) -> list[Block]:
    items = [names.linked(sentence) for sentence in sentences]
    return [Items(items, numbered=True)] if items else []


def nats_cell(value: float | None, tone: Tone = "") -> Cell:
    """Nats per token; empty where they are not known, infinite ones as ∞."""
    if value is None or math.isnan(value):
        return Cell("")
    return Cell("∞" if math.isinf(value) else nats(value), sort=_sort(value), tone=tone)


def decibel_cell(value: float) -> Cell:
    """A body SQNR, marked where the tensor suffers."""
    tone: Tone = "bad" if value < DAMAGED_DB else "warn" if value < FLOOR_DB else ""
    return Cell(decibel(value), sort=_sort(value), tone=tone)


def number_cell(words: str, value: float | None) -> Cell:
    """Words that sort by their number."""
    return Cell(words, sort=None if value is None or math.isnan(value) else _sort(value))


def _sort(value: float) -> float:
    """JSON and HTML have no infinity; nothing else is as large."""
    return value if math.isfinite(value) else math.copysign(1e308, value)


def facts_table(caption: str, entries: Iterable[tuple[str, Words]]) -> Table:
    """Names and values, all of them shown."""
    rows = [Row([Cell(name), Cell(value)]) for name, value in entries]
    return Table([Column("what"), Column("value")], rows, caption, shown=max(20, len(rows)))
