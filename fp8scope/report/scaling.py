"""Static or dynamic scales: rows for JSON, sentences for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from fp8scope.analyze.convergence import State
from fp8scope.analyze.scaling import Need, Scaling, ScalingVerdict
from fp8scope.analyze.thresholds import DAMAGED_DB
from fp8scope.core.words import common_prefix, decibel, site_name, times
from fp8scope.report.rows import finite
from fp8scope.report.words import literal


def scaling_row(verdict: ScalingVerdict) -> dict[str, Any]:
    """The need of the whole model, and of each input, the worst first."""
    return {
        "need": str(verdict.need),
        "counts": {str(need): len(verdict.of(need)) for need in Need},
        "inputs": [_row(row) for row in verdict.rows],
    }


def scaling_sentences(verdict: ScalingVerdict) -> list[str]:
    """What is safe with static scales, what is not and why, and which tags must stay."""
    rows = verdict.rows
    if not rows:
        return []
    prefix = common_prefix(row.site.module for row in rows)
    static = len(verdict.of(Need.STATIC))
    count = f"all {len(rows)}" if static == len(rows) else f"{static} of {len(rows)}"
    said = [f"Static scales are safe for {count} linear inputs."]
    for need, words in _WORDS.items():
        found = verdict.of(need)
        if found:
            said.append(words(found, site_name(found[0].site, prefix)))
    for tag, sites in Counter(row.keep_tag for row in rows if row.keep_tag).items():
        which = "1 scale hangs" if sites == 1 else f"{sites} scales hang"
        said.append(f"{which} on {literal(tag)} alone: keep it in the calibration.")
    return said


def _more(rows: list[Scaling], name: str) -> str:
    return (
        f"{len(rows)} damaged with a scale per token too, worst {name}: body SQNR "
        f"{decibel(rows[0].static_db)} static, {decibel(rows[0].token_db)} per token. Smoothing "
        "cures that; whether the output suffers is for the nats to say."
    )


def _dynamic(rows: list[Scaling], name: str) -> str:
    worst = rows[0]
    why = (
        f"the body of {literal(worst.lowest_tag)} is lost under the largest value, "
        f"{decibel(worst.static_db)} static, {decibel(worst.token_db)} per token"
        if worst.static_db < DAMAGED_DB
        else f"its amax has not settled, about {worst.convergence.more:,} more sequences of "
        f"{literal(worst.convergence.tag)}"
        if worst.convergence.state is State.UNSETTLED
        else "its amax grows, and its body bears no wider scale"
    )
    return f"A scale per token for {len(rows)}, worst {name}: {why}."


def _unknown(rows: list[Scaling], _: str) -> str:
    return f"Not known for {len(rows)}: too few sequences."


def _margin(rows: list[Scaling], _: str) -> str:
    widest = max(row.margin for row in rows)
    lowest = min(row.margin_db for row in rows)
    return (
        f"{len(rows)} want a margin, scales up to {times(widest)}× as wide: their amax still "
        f"grows. It costs E4M3 nothing (body SQNR from {decibel(lowest)})."
    )


_WORDS: Mapping[Need, Callable[[list[Scaling], str], str]] = {
    Need.MORE: _more,
    Need.DYNAMIC: _dynamic,
    Need.UNKNOWN: _unknown,
    Need.MARGIN: _margin,
}


def _row(row: Scaling) -> dict[str, Any]:
    return {
        "module": row.site.module,
        "role": str(row.site.role),
        "need": str(row.need),
        "static_body_sqnr_db": finite(row.static_db),
        "lowest_tag": row.lowest_tag,
        "token_body_sqnr_db": finite(row.token_db),
        "margin": row.margin,
        "margin_body_sqnr_db": finite(row.margin_db),
        "amax_over_median_sequence": row.spread,
        "keep_tag": row.keep_tag,
        "convergence": str(row.convergence.state),
        "growth_if_doubled": row.convergence.growth,
    }
