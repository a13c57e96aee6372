"""Whether output is as shown: words equal, measured numbers near."""

from __future__ import annotations

import re
from collections.abc import Sequence

ANY = "…"
NEAR = 0.10
NUMBER = re.compile(
    r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?=[^\w.]|\.\W|\.$|$|[a-zA-Zµ]{1,2}\b)"
)
UNIT = re.compile(r"[×%]|[a-zA-Zµ]{1,2}\b")


def difference(shown: Sequence[str], real: str) -> str | None:
    """None where `real` is as the lines `shown`, else the first words that are not there."""
    words, at = real.split(), 0
    parts = _parts(" ".join(shown).split())
    for number, part in enumerate(parts):
        first, last = number == 0, number == len(parts) - 1
        starts = range(at, len(words) - len(part) + 1)
        if last:  # to the end of what is there
            starts = starts[-1:] if starts else starts
        if first:
            starts = range(0, 1) if 0 in starts else range(0)
        start = next((i for i in starts if _same(part, words[i : i + len(part)])), None)
        if start is None:
            return _where(part, words, at)
        at = start + len(part)
    return None


def _parts(words: Sequence[str]) -> list[list[str]]:
    """The words between what stands for any words."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ANY:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _same(shown: Sequence[str], real: Sequence[str]) -> bool:
    return len(shown) == len(real) and all(map(same_word, shown, real))


def same_word(shown: str, real: str) -> bool:
    """Equal but for measured numbers, which may be near."""
    if shown == real:
        return True
    if NUMBER.sub("#", shown) != NUMBER.sub("#", real):
        return False
    pairs = zip(NUMBER.finditer(shown), NUMBER.finditer(real), strict=True)
    return all(_near(a, b) for a, b in pairs)


def _near(shown: re.Match[str], real: re.Match[str]) -> bool:
    a, b = (match[0].replace(",", "") for match in (shown, real))
    if a == b:
        return True
    measured = any(mark in shown[0] for mark in ".,e") or UNIT.match(shown.string, shown.end())
    if not measured:
        return False
    step = 10.0 ** -len(a.partition("e")[0].partition(".")[2])
    return abs(float(a) - float(b)) <= max(NEAR * abs(float(a)), step * 1.001)


def _where(part: Sequence[str], words: Sequence[str], at: int) -> str:
    """The longest beginning of the part that is there, and how it goes on in truth."""
    best, goes_on = 0, list(words[at : at + 12])
    for start in range(at, len(words)):
        length = 0
        for shown, real in zip(part, words[start:], strict=False):
            if not same_word(shown, real):
                break
            length += 1
        if length > best:
            best, goes_on = length, list(words[start + length : start + length + 12])
    before = " ".join(part[max(0, best - 8) : best])
    return (
        f"after “{before}” the page says “{' '.join(part[best : best + 12])}”, "
        f"the command “{' '.join(goes_on)}”"
    )
