"""How numbers, names and foreign text are written for a person, the same in every table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from rich.cells import cell_len
from rich.text import Text

from fp8scope.analyze.measures import SiteMeasures, TopValue
from fp8scope.analyze.thresholds import NO_HEADROOM
from fp8scope.core.sites import Site

# what a terminal would obey, and marks that reverse the direction of what follows
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_BEFORE_NUMBER = re.compile(r"((?:[^.]+\.)*?)[^.]+\.\d+(?:\.|$)")


def literal(text: str) -> Text:
    """Text of a model or a prompt: no markup, no control characters."""
    return Text(_CONTROLS.sub("·", text))


def percent(rate: float) -> str:
    """A rate in [0, 1] as per cent; 0 only if nothing at all was counted."""
    if rate == 0:
        return "0"
    if rate < 1e-4:
        return "<0.01%"
    return f"{100 * rate:.2g}%" if rate < 0.1 else f"{100 * rate:.0f}%"


def decibel(value: float) -> str:
    """One decimal and the unit; "exact" where there is no error at all."""
    return "exact" if value == math.inf else f"{value:.1f} dB"


def number(value: float) -> str:
    """Four digits, in full between a thousandth and a million."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.2e}"


def nats(value: float) -> str:
    """Nats per token: 0.240, 0.0056, <0.0001."""
    if math.isnan(value):
        return "not known"
    if 0 < value < 1e-4:
        return "<0.0001"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def times(value: float) -> str:
    """A ratio in three digits, in full up to a million."""
    return f"{value:.2f}" if value < 10 else f"{value:.3g}" if value < 1e3 else number(value)


def headroom(row: SiteMeasures) -> str:
    """`0.68× prose`; nothing where no value would be clipped, or nothing can be compared."""
    if row.headroom is None or row.headroom >= NO_HEADROOM:
        return ""
    tag = row.headroom_tag
    shown = "<0.01" if row.headroom < 0.005 else times(row.headroom)
    return literal(f"{shown}× {tag if len(tag) <= 16 else tag[:15] + '…'}").plain


def role(row: SiteMeasures) -> str:
    """The role, and how many other modules read the same tensor: `input +2`."""
    others = len(row.shared_by) - 1
    return f"{row.site.role} +{others}" if others else str(row.site.role)


def common_prefix(modules: Iterable[str]) -> str:
    """What comes before the numbered blocks in most of the names: `model.`, or ""."""
    found = Counter(match[1] for match in map(_BEFORE_NUMBER.match, modules) if match)
    return found.most_common(1)[0][0] if found else ""


def short_name(name: str, prefix: str) -> str:
    """A module's name without the prefix, safe to print."""
    return literal(name.removeprefix(prefix)).plain


def site_name(site: Site, prefix: str = "") -> str:
    """`layers.0.mlp.down_proj input`: without the prefix, safe to print."""
    return literal(f"{site.module.removeprefix(prefix)} {site.role}").plain


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


def in_text(before: str, token: str, after: str) -> Text:
    """The token between the text around it, marked so that it shows without colours too."""
    marked = literal(f"«{token}»")
    marked.stylize("bold")
    return literal(before).append_text(marked).append_text(literal(after)) if token else Text()
