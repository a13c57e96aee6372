"""The table of routed experts: how many the text has not reached, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from fp8scope.analyze.coverage import Coverage, Load
from fp8scope.analyze.thresholds import STARVED_TOKENS
from fp8scope.core.words import common_prefix, printable
from fp8scope.report.sheet import Sheet, sheet

MOST_TAGS = 4


def coverage_table(found: Sequence[Coverage], count: int) -> RenderableType:
    """The sentence on all layers, and a table of the `count` worst, if any expert is short."""
    said, table = Text(coverage_sentence(found)), coverage_sheet(found, count)
    return Group(said, Text(), table) if table.rows else said


def coverage_sentence(found: Sequence[Coverage]) -> str:
    """How many experts there are, and how many are short of tokens."""
    dead, starved = (-sum(coverage.severity[i] for coverage in found) for i in (0, 1))
    experts = sum(len(coverage.whole.tokens) for coverage in found)
    layers = "1 layer" if len(found) == 1 else f"{len(found)} layers"
    return (
        f"{experts} routed experts in {layers}: {dead} dead (no token), "
        f"{starved} starved (under {STARVED_TOKENS} tokens)."
    )


def coverage_sheet(found: Sequence[Coverage], count: int) -> Sheet:
    """The `count` worst layers in which an expert is short; without rows where none is."""
    short = [coverage for coverage in found if any(coverage.severity)]
    title = f"first {min(count, len(short))} of {len(short)} layers with such experts"
    tags = _worst_tags(short) if short else []
    if len(tags) > 1:
        title += "; by tag, dead + starved"
    return _sheet(title, short[:count], tags if len(tags) > 1 else [])


def coverage_row(coverage: Coverage) -> dict[str, Any]:
    """A layer's experts as plain values; experts by number."""
    return {
        "module": coverage.module,
        **_load(coverage.whole),
        "tags": {tag: _load(load) for tag, load in coverage.tags.items()},
    }


def _load(load: Load) -> dict[str, Any]:
    return {"tokens": load.tokens.tolist(), "dead": load.dead, "starved": load.starved}


def _worst_tags(found: Sequence[Coverage]) -> list[str]:
    """The tags of which most experts are short, at most `MOST_TAGS`."""

    def reached(tag: str) -> int:
        return sum(int((c.tags[tag].tokens >= STARVED_TOKENS).sum()) for c in found)

    return sorted(found[0].tags, key=reached)[:MOST_TAGS]


def _sheet(title: str, found: Sequence[Coverage], tags: Sequence[str]) -> Sheet:
    prefix = common_prefix(coverage.module for coverage in found)
    headers = ("module", "experts", "dead", "starved", "fewest\ntokens", "median", "most")
    rows = []
    for coverage in found:
        whole = coverage.whole
        quantiles = np.quantile(whole.tokens, (0, 0.5, 1), method="inverted_cdf").tolist()
        numbers = (len(whole.tokens), len(whole.dead), len(whole.starved), *quantiles)
        by_tag = [
            f"{len(load.dead)} + {len(load.starved)}"
            for load in (coverage.tags[tag] for tag in tags)
        ]
        name = coverage.module.removeprefix(prefix)
        rows.append((name, *(f"{number:,}" for number in numbers), *by_tag))
    return sheet(title, (*headers, *map(printable, tags)), rows)
