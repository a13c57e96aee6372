"""How numbers and names are written for a person, the same everywhere."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from fp8scope.core.sites import Site

# what a terminal would obey, and marks that reverse the direction of what follows
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_BEFORE_NUMBER = re.compile(r"((?:[^.]+\.)*?)[^.]+\.\d+(?:\.|$)")


def printable(text: str) -> str:
    """Foreign text without control characters."""
    return _CONTROLS.sub("·", text)


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


def nats_within(value: float, error: float) -> str:
    """Nats per token and their standard error: 0.240 ± 1.8%; without an error that is not known."""
    known = value > 0 and not math.isnan(error)
    return f"{nats(value)} ± {percent(error / value)}" if known else nats(value)


def fine_nats(value: float) -> str:
    """Nats per token to two digits, however small: 0.066, 0.000074."""
    return f"{value:.{max(3, 1 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def times(value: float) -> str:
    """A ratio in three digits, in full up to a million; 0.00 only if it is zero."""
    if 0 < value < 0.005:
        return "<0.01"
    return f"{value:.2f}" if value < 10 else f"{value:.3g}" if value < 1e3 else number(value)


def common_prefix(modules: Iterable[str]) -> str:
    """What comes before the numbered blocks in most of the names: `model.`, or ""."""
    found = Counter(match[1] for match in map(_BEFORE_NUMBER.match, modules) if match)
    return found.most_common(1)[0][0] if found else ""


def short_name(name: str, prefix: str) -> str:
    """A module's name without the prefix, safe to print."""
    return printable(name.removeprefix(prefix))


def site_name(site: Site, prefix: str = "") -> str:
    """`layers.0.mlp.down_proj input`: without the prefix, safe to print."""
    return printable(f"{site.module.removeprefix(prefix)} {site.role}")
