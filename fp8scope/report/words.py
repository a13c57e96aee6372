"""How numbers, names and foreign text are written for a person, the same in every table."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from fp8scope.analyze.measures import SiteMeasures, TopValue
from fp8scope.analyze.thresholds import NO_HEADROOM
from fp8scope.core.words import printable, times


def literal(text: str) -> Text:
    """Text of a model or a prompt: no markup, no control characters."""
    return Text(printable(text))


def headroom(row: SiteMeasures) -> str:
    """`0.68× prose`; nothing where no value would be clipped, or nothing can be compared."""
    if row.headroom is None or row.headroom >= NO_HEADROOM:
        return ""
    tag = row.headroom_tag
    return literal(f"{times(row.headroom)}× {tag if len(tag) <= 16 else tag[:15] + '…'}").plain


def role(row: SiteMeasures) -> str:
    """The role, and how many other modules read the same tensor: `input +2`."""
    others = len(row.shared_by) - 1
    return f"{row.site.role} +{others}" if others else str(row.site.role)


def shorten(name: str, width: int) -> str:
    """A module's name in at most `width` cells if that can be had without cutting a part."""
    while cell_len(name) > width and "." in name:
        name = "…" + name.partition(".")[2]
    return name


def place(value: TopValue, width: int) -> Text:
    """Tag, token number and the «token» in its text, in exactly one line of `width` cells."""
    start = f"{value.tag} {value.position}: "
    room = width - cell_len(start + value.token) - 2
    before = value.before[-(room * 2 // 3) :] if room > 1 else ""
    text = literal(start).append_text(in_text(before, value.token, value.after))
    text.truncate(width, overflow="ellipsis")
    return text


def in_text(before: str, token: str, after: str, highlight: str = "bold") -> Text:
    """The token between the text around it, marked so that it shows without colours too."""
    marked = literal(f"«{token}»")
    marked.stylize(highlight)
    return literal(before).append_text(marked).append_text(literal(after)) if token else Text()
