"""How faults name what they are about."""

from __future__ import annotations

from collections.abc import Collection, Iterable

SHOWN = 3
BARE = "FP8 without a scale"


def some(names: Iterable[str]) -> str:
    """`a, b, c and 5 more`."""
    known = list(names)
    left = len(known) - SHOWN
    return ", ".join(known[:SHOWN]) + (f" and {left:,} more" if left > 0 else "")


def many(names: Collection[str], noun: str) -> str:
    """`1 weight (a)`, `5 weights (a, b, c and 2 more)`."""
    return f"{counted(len(names), noun)} ({some(names)})"


def are(names: Collection[str], noun: str) -> str:
    """`1 weight (a) is`, `2 weights (a, b) are`."""
    return f"{many(names, noun)} {verb(names, 'is', 'are')}"


def have(names: Collection[str], noun: str) -> str:
    """`1 weight (a) has`, `2 weights (a, b) have`."""
    return f"{many(names, noun)} {verb(names, 'has', 'have')}"


def counted(count: int, noun: str) -> str:
    """`1 weight`, `5 weights`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def verb(names: Collection[object], one: str, several: str) -> str:
    """`has` of one, `have` of several."""
    return one if len(names) == 1 else several
