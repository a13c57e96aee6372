"""An analysis as one page of sentences, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from fp8scope.analyze.analysis import Analysis
from fp8scope.analyze.groups import GroupFinding, unexplained
from fp8scope.analyze.kvcache import CachedLayer
from fp8scope.analyze.sensitivity import Score
from fp8scope.analyze.verdict import judge
from fp8scope.core.words import common_prefix
from fp8scope.report.convergence import convergence_rows, convergence_sentences
from fp8scope.report.experts import coverage_row, coverage_table
from fp8scope.report.groups import (
    group_rows,
    group_sentences,
    model_sentences,
    score_row,
    spread_sentences,
    tag_sentences,
)
from fp8scope.report.headroom import headroom_rows, headroom_sentences
from fp8scope.report.kvcache import cache_sentences, kvcache_rows, kvcache_sentences
from fp8scope.report.rows import finite, profile_summary, site_row, verdict_row
from fp8scope.report.scaling import scaling_row, scaling_sentences
from fp8scope.report.words import literal

MOST_EXPERTS = 10


def analysis_page(found: Analysis) -> RenderableType:
    """The findings, the worst first, under a heading for each question."""
    prefix = common_prefix(group.group for group in found.groups)
    sections = {
        "Use cases": tag_sentences(found.tags, prefix),
        "Static or dynamic scales": scaling_sentences(found.scaling),
        "Headroom": headroom_sentences(found.headroom),
        "Convergence": convergence_sentences(found.convergence),
        "KV cache": kvcache_sentences(found.kv_cache),
    }
    page = [where_it_hurts(found.models, found.groups, found.kv_cache)]
    page += [_section(heading, said) for heading, said in sections.items() if said]
    if found.experts:
        page.append(coverage_table(found.experts, MOST_EXPERTS))
    return Group(*page)


def where_it_hurts(
    models: Mapping[str, Score], groups: Sequence[GroupFinding], caches: Sequence[CachedLayer]
) -> RenderableType:
    """`harm_sentences` under their heading."""
    prefix = common_prefix(group.group for group in groups)
    names = f"; names without their first “{literal(prefix).plain}”" if prefix else ""
    return _section(f"Where FP8 hurts{names}", harm_sentences(models, groups, caches))


def harm_sentences(
    models: Mapping[str, Score], groups: Sequence[GroupFinding], caches: Sequence[CachedLayer]
) -> list[str]:
    """What FP8 costs the whole model, and the groups and caches that are to blame."""
    return [
        *model_sentences(models),
        *group_sentences(groups, too_low=unexplained(models, groups)),
        *spread_sentences(models, groups),
        *cache_sentences(caches),
    ]


def _section(heading: str, sentences: Sequence[str]) -> RenderableType:
    """A heading, its sentences indented, and an empty line."""
    return Group(Text(heading, style="bold"), *map(_Indented, sentences), Text())


@dataclass(frozen=True)
class _Indented:
    """A sentence two cells to the right; no blanks at the ends of its lines, unlike `Padding`."""

    sentence: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Text(self.sentence).wrap(console, max(1, options.max_width - 2)):
            line.rstrip()
            yield Text("  ").append_text(line)


def analysis_row(found: Analysis) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        **profile_summary(found.profile),
        "verdict": verdict_row(judge(found.sites)),
        "models": {name: score_row(score) for name, score in found.models.items()},
        "harmful": [group.group for group in found.harmful],
        "predictions_too_low": unexplained(found.models, found.groups),
        "groups": group_rows(found.groups),
        "tag_damage": [
            {**vars(tag), "whole": finite(tag.whole), "nats": finite(tag.nats)}
            for tag in found.tags
        ],
        "scaling": scaling_row(found.scaling),
        "headroom": headroom_rows(found.headroom),
        "convergence": convergence_rows(found.convergence),
        "kv_cache": kvcache_rows(found.kv_cache),
        **({"experts": [coverage_row(row) for row in found.experts]} if found.experts else {}),
        "rows": [site_row(row) for row in found.sites],
    }
