"""What changed between two profiles: rows for JSON, sentences for a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fp8scope.analyze.compare import Comparison, SiteChange
from fp8scope.analyze.thresholds import DAMAGED_DB
from fp8scope.analyze.weight_changes import WeightChange
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import common_prefix, decibel, number, percent, site_name, times
from fp8scope.report.headroom import saturation_row, saturation_words
from fp8scope.report.rows import finite
from fp8scope.report.words import literal

NAMED = 3


def comparison_row(found: Comparison) -> dict[str, Any]:
    """Everything as plain values, sites and weights worst first; None for an infinite ratio."""
    return {
        "drift": found.drift,
        "sites": [_site(row) for row in found.sites],
        "weights_compared": found.weights_compared,
        "weights": [_weight(row) for row in found.weights],
        "tags_only_a": list(found.tags_only_a),
        "tags_only_b": list(found.tags_only_b),
        "not_compared": list(found.not_compared),
    }


def comparison_sentences(found: Comparison) -> list[str]:
    """What changed, one sentence a topic, in the order of harm."""
    prefix = common_prefix(row.site.module for row in found.sites)

    def name(site: Site) -> str:
        return site_name(site, prefix)

    said = [_clipped(found, name), _damaged(found, name), _amax(found.sites, name)]
    said += [_outliers(found.sites, name), _weights(found, name)]
    for tags, side, other in ((found.tags_only_a, "A", "B"), (found.tags_only_b, "B", "A")):
        if tags:
            names = ", ".join(literal(tag).plain for tag in tags)
            said.append(f"Tags of {side} that {other} does not have: {names}.")
    if found.not_compared:
        said.append(
            f"Not compared, of one side alone or of another width: "
            f"{_few([literal(site).plain for site in found.not_compared])}."
        )
    return [sentence for sentence in said if sentence]


def gate_sentence(found: Comparison, limit: float) -> str | None:
    """Why the drift is more than `limit` (a share of sequences), or None where it is not."""
    if found.drift <= limit:
        return None
    row = max(found.sites, key=lambda row: row.drift)
    tag, of = max(
        [*row.tags.items(), ("all text", row.whole)], key=lambda entry: entry[1].far_interval[0]
    )
    return (
        f"{site_name(row.site)}: A's scale clips {of.far_sequences} of {of.sequences} sequences of "
        f"{literal(tag)} by more than 20%, at 95% confidence over {percent(found.drift)} of such "
        f"text; the limit is {percent(limit)}"
    )


_Name = Callable[[Site], str]


def _clipped(found: Comparison, name: _Name) -> str:
    clipped = [row for row in found.sites if row.whole.saturated_sequences]
    start, total = "A's static scales clip", len(found.sites)
    if not clipped:
        return f"{start} nothing of B at any of {total} sites."
    worst = clipped[0]
    words = saturation_words(worst.tags[worst.worst_tag], worst.worst_tag)
    return f"{start} B at {len(clipped)} of {total} sites, worst {name(worst.site)}: {words}."


def _damaged(found: Comparison, name: _Name) -> str:
    """What B's own scales do, and how the order of the sites changed."""
    damaged = [row for row in found.sites if row.newly_damaged]
    first_a, first_b = (
        min(found.sites, key=rank) for rank in (lambda row: row.rank_a, lambda row: row.rank_b)
    )
    if not damaged:
        said = f"No site is newly damaged (body SQNR under {DAMAGED_DB:.0f} dB)"
    else:
        worst = [
            f"{name(row.site)} {decibel(row.a.error.body_sqnr_db)} → "
            f"{decibel(row.b.error.body_sqnr_db)}"
            for row in damaged
        ]
        said = f"Newly damaged (body SQNR under {DAMAGED_DB:.0f} dB): {_few(worst)}"
    if first_a is first_b:
        return f"{said}; most severe in both is {name(first_b.site)}."
    return f"{said}; most severe in B is {name(first_b.site)} (place {first_b.rank_a} in A)."


def _amax(sites: Sequence[SiteChange], name: _Name) -> str:
    most = max(sites, key=lambda row: row.amax_ratio)
    least = min(sites, key=lambda row: row.amax_ratio)
    parts = [
        f"{verb} most at {name(row.site)}: {number(row.a.amax)} → {number(row.b.amax)} "
        f"({times(row.amax_ratio)}×)"
        for verb, row in (("grew", most), ("fell", least))
        if (row.amax_ratio > 1) is (verb == "grew") and row.amax_ratio != 1
    ]
    return f"The amax {'; it '.join(parts)}." if parts else "Every amax is the same."


def _outliers(sites: Sequence[SiteChange], name: _Name) -> str:
    found = [
        f"{name(row.site)} channel {new.channel} ({times(new.over_median_b)}× the median channel, "
        f"{times(new.over_median_a)}× in A)"
        for row in sites
        for new in row.new_outliers
    ]
    return f"New outlier channels: {_few(found)}." if found else ""


def _weights(found: Comparison, name: _Name) -> str:
    if not found.weights:
        return f"All {found.weights_compared} weights are the same."
    worst = found.weights[0]
    return (
        f"{len(found.weights)} of {found.weights_compared} weights differ, worst "
        f"{name(Site(worst.module, Role.WEIGHT))}: amax {number(worst.amax_a)} → "
        f"{number(worst.amax_b)}, body SQNR {decibel(worst.body_db_a)} → "
        f"{decibel(worst.body_db_b)}, {worst.rows_changed} of {worst.rows} rows."
    )


def _few(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _site(row: SiteChange) -> dict[str, Any]:
    return {
        "module": row.site.module,
        "role": str(row.site.role),
        "amax_a": row.a.amax,
        "amax_b": row.b.amax,
        "amax_ratio": finite(row.amax_ratio),
        "drift": row.drift,
        "under_scale_of_a": {
            "all": saturation_row(row.whole),
            "tags": {tag: saturation_row(of) for tag, of in row.tags.items()},
        },
        "body_sqnr_db_a": finite(row.a.error.body_sqnr_db),
        "body_sqnr_db_b": finite(row.b.error.body_sqnr_db),
        "newly_damaged": row.newly_damaged,
        "new_outlier_channels": [vars(new) for new in row.new_outliers],
        "rank_a": row.rank_a,
        "rank_b": row.rank_b,
    }


def _weight(row: WeightChange) -> dict[str, Any]:
    return {
        "module": row.module,
        "amax_a": row.amax_a,
        "amax_b": row.amax_b,
        "amax_ratio": finite(row.amax_ratio) if not math.isnan(row.amax_ratio) else None,
        "body_sqnr_db_a": finite(row.body_db_a),
        "body_sqnr_db_b": finite(row.body_db_b),
        "rows_changed": row.rows_changed,
        "rows": row.rows,
        "newly_damaged": row.newly_damaged,
    }
