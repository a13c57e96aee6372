"""What FP8 costs in nats per token: the worst groups, and one group in every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, log10

from fp8scope.analyze.sensitivity import Score
from fp8scope.analyze.thresholds import HARM_NATS
from fp8scope.core.words import nats, short_name
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drawing import (
    SMALL,
    Json,
    all_rounded,
    axis,
    layout,
    legend,
    margin,
    note,
    powers,
    rounded,
)
from fp8scope.report.figures.places import Places
from fp8scope.report.findings import FEWEST_NATS, term_words, with_error
from fp8scope.report.measures import PLAIN
from fp8scope.report.snapshot import Snapshot

OTHERS = {
    "fp8_token": ("@line2", "circle"),
    "fp8_block": ("@line3", "square"),
    "fp8_smooth": ("@line1", "diamond"),
}
"""The candidates that are a remedy: each with a colour, and a form for who sees no colours."""


def worst_groups(snapshot: Snapshot, count: int = 25) -> Figure | None:
    """The groups and KV caches that cost most with one static scale per tensor, the worst on top.

    lm_head is left out, which stays in BF16 anyway. None where nothing was scored.
    """
    found = {
        name: scores[PLAIN]
        for name, scores in snapshot.scores.items()
        if PLAIN in scores and _in_block(snapshot, name)
    }
    names = sorted(found, key=lambda name: -found[name].kl)[:count]
    if not names:
        return None
    places = Places(snapshot)
    rows = {name: snapshot.scores[name] for name in names}
    traces = [_bars([rows[name][PLAIN] for name in names], names, places)]
    traces += [
        _marks(
            other, {name: own[other] for name, own in rows.items() if other in own}, rows, places
        )
        for other in OTHERS
        if any(other in own for own in rows.values())
    ]
    lines = [(HARM_NATS, "finding"), *_budget(snapshot)]
    scale = _scale([score for own in rows.values() for score in own.values()], lines)
    drawn = layout(
        margin=margin(t=60),
        showlegend=True,
        legend=legend(yref="container", y=1, yanchor="top"),
        xaxis=scale,
        yaxis=_rows([places.label(name) for name in names]),
        **_lines(lines),
    )
    return Figure(
        name="worst-groups",
        title="What costs most in FP8",
        says=_worst_words(snapshot, found, names),
        views=[View("nats per token of each alone", traces, drawn)],
        height=118 + 22 * len(names),
    )


def costs(scores: Sequence[Score], pairs: Sequence[Score], budget: float | None = None) -> Figure:
    """One group in every candidate; a second view has it smoothed with what that is folded into.

    scores: not empty, in the order in which they are drawn. budget: of the plan, in nats.
    """
    lines = _limit(budget)
    alone = View("alone", *_candidates(scores, lines))
    folded = [View("with what it is folded into", *_candidates(pairs, lines))] if pairs else []
    group = scores[0].row.terms[-1].group
    best, worst = (pick(scores, key=lambda score: score.kl) for pick in (min, max))
    says = f"Cheapest is {_term(best)} at {with_error(best)} nats per token"
    says += "" if best is worst else f", dearest {_term(worst)} at {with_error(worst)}"
    how = [score.measured is not None for score in (*scores, *pairs)]
    said = "All measured" if all(how) else "What is measured is darker" if any(how) else "Predicted"
    return Figure(
        name=f"costs-{anchor(group)}",
        title="What it costs",
        says=f"{says}. {said}; the lines are one standard error.",
        views=[alone, *folded],
        height=70 + 22 * max(len(scores), len(pairs)),
    )


def _in_block(snapshot: Snapshot, group: str) -> bool:
    finding = (snapshot.groups or {}).get(group)
    return finding is None or finding.in_block


def _budget(snapshot: Snapshot) -> list[tuple[float, str]]:
    plan = snapshot.plan
    if plan is None or plan.objective.limit != "max_kl":
        return []
    return _limit(plan.objective.value)


def _limit(budget: float | None) -> list[tuple[float, str]]:
    """The budget as a line; none where it is beyond all that is drawn."""
    return [] if budget is None or budget > MOST_NATS else [(budget, "budget")]


def _worst_words(snapshot: Snapshot, found: Mapping[str, Score], names: Sequence[str]) -> str:
    over = sum(score.kl >= HARM_NATS for score in found.values())
    worst = names[0]
    return (
        f"{short_name(worst, snapshot.prefix)} costs most with one static scale per tensor, "
        f"{with_error(found[worst])} nats per token; {over} of {len(found)} groups and KV caches "
        f"alone cost {HARM_NATS:g} or more. The {len(names)} worst are shown; the lines are "
        "one standard error."
    )


def _bars(scores: Sequence[Score], names: Sequence[str], places: Places) -> Json:
    return {
        "type": "bar",
        "orientation": "h",
        "name": PLAIN,
        "y": list(range(len(scores))),
        **_values(scores),
        "width": 0.7,
        "marker": {"color": "@second"},
        "text": [
            _hover(score, places.full(name)) for name, score in zip(names, scores, strict=True)
        ],
        "textposition": "none",
        "hovertemplate": f"%{{text}}<extra>{PLAIN}</extra>",
        "customdata": [f"#{anchor(name)}" for name in names],
    }


def _marks(
    candidate: str, scores: Mapping[str, Score], rows: Mapping[str, object], places: Places
) -> Json:
    colour, symbol = OTHERS[candidate]
    at = {name: number for number, name in enumerate(rows)}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": candidate,
        "y": [at[name] for name in scores],
        **_values(list(scores.values()), colour),
        "marker": {
            "color": colour,
            "symbol": symbol,
            "size": 8,
            "line": {"color": "@paper", "width": 1},
        },
        "text": [_hover(score, places.full(name)) for name, score in scores.items()],
        "hovertemplate": f"%{{text}}<extra>{candidate}</extra>",
        "customdata": [f"#{anchor(name)}" for name in scores],
    }


def _hover(score: Score, name: str) -> str:
    worst = score.worst_tag
    most = f"most in {worst}: {nats(score.tags[worst].kl)}" if worst else ""
    how = "measured" if score.measured else "predicted"
    said = (f"{with_error(score)} nats per token, {how}", most)
    return "<br>".join([name, *(inert(line) for line in said if line)])


def _values(scores: Sequence[Score], colour: str = "@text") -> Json:
    """Lengths and one standard error. What is below the axis is drawn at its end, for a log axis
    has no 0; infinity far beyond.
    """
    kl = [max(score.kl, FEWEST_NATS) if isfinite(score.kl) else MOST_NATS for score in scores]
    errors = [score.nats.error if isfinite(score.nats.error) else 0.0 for score in scores]
    below = [min(error, value - FEWEST_NATS / 2) for value, error in zip(kl, errors, strict=True)]
    return {
        "x": all_rounded(kl),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": all_rounded(errors, 3),
            "arrayminus": all_rounded(below, 3),
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
    }


MOST_NATS = 100.0
"""Where an infinite KL is drawn."""


def _scale(scores: Sequence[Score], lines: Sequence[tuple[float, str]]) -> Json:
    """From 10⁻⁵ nats to the decade above the largest; the labels are powers of ten in full."""
    ends = [min(_end(score), MOST_NATS) for score in scores]
    high = max([1e-4, *ends, *(at for at, _ in lines)])
    low, top = round(log10(FEWEST_NATS)), ceil(log10(high) + 0.05)
    return axis(
        "nats per token, log",
        type="log",
        range=[low, top],
        tickvals=[10.0**power for power in range(low, top + 1)],
        ticktext=[f"≤{FEWEST_NATS:g}".replace("e-0", "e-"), *powers(low + 1, top)],
        tickangle=0,
    )


def _end(score: Score) -> float:
    error = score.nats.error
    return score.kl + (error if isfinite(error) else 0.0)


def _rows(labels: Sequence[str]) -> Json:
    return axis(
        autorange="reversed",
        tickvals=list(range(len(labels))),
        ticktext=list(labels),
        showgrid=False,
        ticks="",
    )


def _lines(lines: Sequence[tuple[float, str]]) -> Json:
    """Limits across the plot, each named at its top, to the left of the others or to the right."""
    shapes, notes = [], []
    for number, (at, name) in enumerate(sorted((max(at, FEWEST_NATS), name) for at, name in lines)):
        line = {"color": "@accent", "width": 1, "dash": "dot"}
        ends = {"x0": rounded(at), "x1": rounded(at), "yref": "paper", "y0": 0, "y1": 1}
        shapes.append({"type": "line", "line": line, **ends})
        side = "center" if len(lines) == 1 else "left" if number else "right"
        place = {"x": rounded(log10(at)), "xanchor": side, "yref": "paper", "y": 1}
        font = {"size": SMALL, "color": "@accent"}
        notes.append(note(inert(f"{name} {nats(at)}"), font=font, yanchor="bottom", **place))
    return {"shapes": shapes, "annotations": notes}


def _candidates(
    scores: Sequence[Score], lines: Sequence[tuple[float, str]]
) -> tuple[list[Json], Json]:
    names = [_term(score) for score in scores]
    trace: Json = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(scores))),
        **_values(scores),
        "width": 0.7,
        "marker": {"color": ["@main" if score.measured else "@second" for score in scores]},
        "text": [_hover(score, inert(name)) for name, score in zip(names, scores, strict=True)],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
    }
    limits = _lines(lines)
    limits["annotations"] += [
        note(inert(nats(score.kl)), xref="paper", x=1, xanchor="left", xshift=4, y=row)
        for row, score in enumerate(scores)
    ]
    drawn = layout(
        margin=margin(t=20, r=56),
        xaxis=_scale(scores, lines),
        yaxis=_rows([inert(name) for name in names]),
        **limits,
    )
    return [trace], drawn


def _term(score: Score) -> str:
    return term_words(score.row.terms[-1])
