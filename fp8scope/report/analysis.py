"""An analysis as one page of sentences, and as plain values for JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from fp8scope.analyze.analysis import Analysis
from fp8scope.analyze.verdict import judge
from fp8scope.report.convergence import convergence_rows, convergence_sentences
from fp8scope.report.experts import coverage_row, coverage_table
from fp8scope.report.groups import (
    group_rows,
    group_sentences,
    model_sentences,
    score_row,
    tag_sentences,
)
from fp8scope.report.headroom import headroom_rows, headroom_sentences
from fp8scope.report.kvcache import kvcache_rows, kvcache_sentences
from fp8scope.report.rows import finite, profile_summary, site_row, verdict_row
from fp8scope.report.scaling import scaling_row, scaling_sentences
from fp8scope.report.words import common_prefix, literal

MOST_EXPERTS = 10


def analysis_page(found: Analysis) -> RenderableType:
    """The findings, the worst first, under a heading for each question."""
    prefix = common_prefix(group.group for group in found.groups)
    sections = {
        "Where FP8 hurts": [*model_sentences(found.models), *group_sentences(found.groups)],
        "Use cases": tag_sentences(found.tags, prefix),
        "Static or dynamic scales": scaling_sentences(found.scaling),
        "Headroom": headroom_sentences(found.headroom),
        "Convergence": convergence_sentences(found.convergence),
        "KV cache": kvcache_sentences(found.kv_cache),
    }
    page: list[RenderableType] = []
    if prefix:
        page.append(Text(f"Names without their first “{literal(prefix).plain}”.\n"))
    for heading, sentences in sections.items():
        if sentences:
            page.append(Text(heading, style="bold"))
            page += [Text(f"  {sentence}") for sentence in sentences]
            page.append(Text())
    if found.experts:
        page.append(coverage_table(found.experts, MOST_EXPERTS))
    return Group(*page)


def analysis_row(found: Analysis) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        **profile_summary(found.profile),
        "verdict": verdict_row(judge(found.sites)),
        "models": {name: score_row(score) for name, score in found.models.items()},
        "harmful": [group.group for group in found.harmful],
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
