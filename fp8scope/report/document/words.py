"""Running text without its marks, for places that hold nothing but letters."""

from __future__ import annotations

from fp8scope.report.document.blocks import Excerpt, Inline, Words


def parts(words: Words) -> tuple[Inline, ...]:
    """Running text in parts, also if it is one string."""
    return (words,) if isinstance(words, str) else words


def plain(words: Words) -> str:
    """What a reader reads."""
    return "".join(part if isinstance(part, str) else _letters(part) for part in parts(words))


def _letters(part: Inline) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Excerpt):
        return f"{part.before}«{part.token}»{part.after}"
    return part.text
