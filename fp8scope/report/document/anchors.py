"""Where links may lead, and whether they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fp8scope.report.document.blocks import Details, Document, Link, Row, Section


def figure_anchor(name: str) -> str:
    """The anchor of the figure of that name."""
    return f"figure-{name}"


def anchors(document: Document) -> Counter[str]:
    """Every anchor of sections, details and rows, and how often it stands there."""
    found = (part.anchor for part in _parts(document) if isinstance(part, Section | Details | Row))
    return Counter(anchor for anchor in found if anchor)


def repeated(document: Document) -> list[str]:
    """Anchors that stand more than once: a fault of whoever made the document."""
    return [anchor for anchor, count in anchors(document).items() if count > 1]


def dangling(document: Document) -> list[str]:
    """Targets of links that are nowhere, figures' points not included."""
    known = anchors(document)
    links = (part.anchor for part in _parts(document) if isinstance(part, Link))
    return sorted({anchor for anchor in links if anchor not in known})


def _parts(part: Any) -> Iterator[Any]:
    """A part of a document and all that is in it; drawings are not looked into."""
    if is_dataclass(part):
        yield part
        for field in fields(part):
            yield from _parts(getattr(part, field.name))
    elif isinstance(part, Iterable) and not isinstance(part, str | dict):
        for inner in part:
            yield from _parts(inner)
