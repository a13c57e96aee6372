"""Has the amax settled: rows for JSON, sentences for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fp8scope.analyze.convergence import FEWEST, Convergence, Curve, State
from fp8scope.analyze.scaling import MOST_TRAFFIC
from fp8scope.core.words import common_prefix, percent, site_name, times
from fp8scope.report.words import literal

MOST_TIMES = 20  # the text that there is: more is hardly ever to be had


def convergence_rows(found: Sequence[Convergence]) -> list[dict[str, Any]]:
    """One per site, in their order; `curve` is [sequences, expected amax] by tag."""
    return [
        {
            "module": row.site.module,
            "role": str(row.site.role),
            "state": str(row.state),
            "amax": row.amax,
            "growth_if_doubled": row.growth,
            "growing_tag": row.tag,
            "more_sequences": row.more,
            "one_sequence_alone": row.alone,
            "margin_for_1000_times": row.margin(MOST_TRAFFIC),
            "tags": {tag: _curve(curve) for tag, curve in row.curves.items()},
        }
        for row in found
    ]


def convergence_sentences(found: Sequence[Convergence]) -> list[str]:
    """What has settled, what has not and what it takes, and what cannot be known."""
    if not found:
        return []
    prefix = common_prefix(row.site.module for row in found)
    by_state = {state: [row for row in found if row.state is state] for state in State}
    settled = len(by_state[State.SETTLED])
    there = ": twice as much such text would clip nothing" if settled else ""
    said = [f"The amax has settled at {settled} of {len(found)} sites{there}."]
    said += [
        words(rows, site_name(rows[0].site, prefix))
        for state, words in ((State.UNSETTLED, _unsettled), (State.GROWING, _growing))
        if (rows := by_state[state])
    ]
    if by_state[State.UNKNOWN]:
        said.append(
            f"Not known for {len(by_state[State.UNKNOWN])} sites: "
            f"a tag has under {FEWEST} sequences."
        )
    fewest = min((curve.sequences for curve in found[0].curves.values()), default=0)
    if fewest >= FEWEST:
        said.append(
            f"What fewer than 1 in {fewest // 3} sequences of a tag do may be missing altogether."
        )
    return said


def _unsettled(rows: Sequence[Convergence], name: str) -> str:
    worst = rows[0]
    why = (
        f"one sequence alone sets its scale, {times(worst.amax / worst.runner_up)}× the next"
        if worst.alone and worst.runner_up
        else f"{percent(worst.growth - 1)} more with twice the text"
    )
    return (
        f"Not settled at {len(rows)}, worst {name} ({why}): "
        f"about {worst.more:,} more sequences of {literal(worst.tag)}."
    )


def _growing(rows: Sequence[Convergence], name: str) -> str:
    worst = rows[0]
    widest = max(row.margin(MOST_TRAFFIC) for row in rows)
    few = worst.more <= MOST_TIMES * worst.curves[worst.tag].sequences
    text = (
        f"about {worst.more:,} more sequences would settle it"
        if few
        else "no affordable text settles it"
    )
    return (
        f"Still growing at {len(rows)}, most at {name}: {percent(worst.growth - 1)} with twice as "
        f"much {literal(worst.tag)} ({text}); if it goes on so, scales up to {times(widest)}× as "
        f"wide would hold {MOST_TRAFFIC} times the text."
    )


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "sequences": curve.sequences,
        "amax": curve.amax,
        "step_per_doubling": curve.step,
        "leaders": curve.leaders,
        "next_exceeds_at_most": curve.exceeded_within(1),
        "half_would_clip": curve.half_would_clip,
        "curve": [list(point) for point in curve.points],
    }
