"""What every budget would buy: KL over step time, with the plan in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log10

from fp8scope.artefacts.plan import Plan
from fp8scope.core.words import nats
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.figures.drawing import SMALL, Json, axis, layout, margin, note, powers, rounded
from fp8scope.report.plan import speedup

MOST = 9
"""The decade at which the axis ends whatever a plan says that it costs."""


@dataclass(frozen=True)
class Mark:
    """A plan that is named in the drawing."""

    name: str
    kl: float
    time_us: float
    said: str
    symbol: str
    colour: str


def frontier(plan: Plan) -> Figure:
    """Each point is the best plan at its own step time; the plan, plain FP8 and BF16 are named.

    A log axis has no 0: a KL of 0 stands on the bottom line, which is labelled 0.
    """
    marks = _marks(plan)
    costs = [*(point.kl for point in plan.frontier), *(mark.kl for mark in marks)]
    known = [kl for kl in costs if kl > 0]
    low = floor(log10(min(known, default=1e-4))) - 1
    high = min(ceil(log10(max(known, default=1e-3)) + 0.05), MOST)
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [rounded(point.step_time_us) for point in plan.frontier],
        "y": _heights((point.kl for point in plan.frontier), low),
        "line": {"color": "@second", "width": 1},
        "marker": {"color": "@second", "size": 5},
        "text": [
            f"{inert(nats(point.kl))} nats per token<br>{point.effective_bits:.2f} bits per "
            f"weight, {point.bf16_groups} groups in BF16"
            for point in plan.frontier
        ],
        "hovertemplate": "%{text}<br>%{x:,.4~r} µs a step<extra></extra>",
    }
    budget = _budget(plan, low)
    drawn = layout(
        margin=margin(t=16, r=24),
        xaxis=axis("time of a step, µs (a bound)" if _is_bound(plan) else "time of a step, µs"),
        yaxis=axis(
            "nats per token, log",
            type="log",
            range=[low - 0.15, high],
            tickvals=[10.0**power for power in range(low, high + 1)],
            ticktext=["0", *powers(low + 1, high)],
        ),
        annotations=[*(_named(mark, low) for mark in marks), *(name for _, name in budget)],
        shapes=[line for line, _ in budget],
    )
    return Figure(
        name="frontier",
        title="What every budget would buy",
        says=_says(plan),
        views=[View("KL over step time", [line, *(_point(mark, low) for mark in marks)], drawn)],
        height=360,
    )


def _is_bound(plan: Plan) -> bool:
    return plan.cost.source == "roofline"


def _says(plan: Plan) -> str:
    found = plan.predicted
    bound = " by the roofline, which is a bound" if _is_bound(plan) else ""
    return (
        f"The plan costs {nats(found.nats.kl)} nats per token and runs {speedup(found)} as fast as "
        f"BF16{bound}. Left is faster, down is closer to BF16; every point is the best plan at its "
        "time, and KL 0 stands at the bottom of the log axis."
    )


def _marks(plan: Plan) -> list[Mark]:
    found = plan.predicted
    bits = f"{found.effective_bits:.2f} bits per weight, {_bf16(plan)} groups in BF16"
    marks = [
        Mark("BF16", 0.0, found.bf16_step_time_us, "nothing quantized", "circle-open", "@text"),
        Mark("plan", found.nats.kl, found.step_time_us, bits, "diamond", "@accent"),
    ]
    if found.plain_fp8 is not None:
        said = "every group in fp8_tensor"
        plain = Mark(
            "plain FP8", found.plain_fp8.kl, found.fp8_step_time_us, said, "square-open", "@text"
        )
        marks.insert(0, plain)
    return marks


def _bf16(plan: Plan) -> int:
    return sum(group.decided and group.precision == "bf16" for group in plan.groups)


def _heights(values: Iterable[float], low: int) -> list[float | None]:
    return [rounded(max(value, 10.0**low)) for value in values]


def _point(mark: Mark, low: int) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [rounded(mark.time_us)],
        "y": _heights([mark.kl], low),
        "marker": {"color": mark.colour, "size": 12, "symbol": mark.symbol, "line": {"width": 2}},
        "cliponaxis": False,
        "hovertemplate": f"{mark.name}: {inert(nats(mark.kl))} nats per token<br>{mark.said}<br>"
        "%{x:,.4~r} µs a step<extra></extra>",
    }


def _named(mark: Mark, low: int) -> Json:
    height = log10(max(mark.kl, 10.0**low))
    font = {"size": SMALL + 1, "color": mark.colour}
    place: Json = {"x": rounded(mark.time_us), "y": rounded(height)}
    if mark.name == "plan":  # below it, for nothing is better than what is drawn
        place |= {"xanchor": "left", "xshift": -8, "yanchor": "top", "yshift": -8}
    elif mark.name == "BF16":
        place |= {"xanchor": "right", "xshift": -12}
    else:
        place |= {"xanchor": "left", "xshift": 12}
    return note(mark.name, font=font, **place)


def _budget(plan: Plan, low: int) -> list[tuple[Json, Json]]:
    """The limit as a line with its name, where it is one of KL."""
    limit = plan.objective.value
    if plan.objective.limit != "max_kl" or limit <= 10.0**low:
        return []
    line = {"color": "@accent", "width": 1, "dash": "dot"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": rounded(limit), "y1": rounded(limit)}
    place = {"xref": "paper", "x": 1, "xanchor": "right", "y": rounded(log10(limit))}
    font = {"size": SMALL, "color": "@accent"}
    name = note(inert(f"budget {nats(limit)}"), font=font, yanchor="bottom", **place)
    return [({"type": "line", "line": line, **ends}, name)]
