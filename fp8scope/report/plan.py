"""A plan for a person: the verdict, what is not plain FP8 and why, what other budgets buy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from fp8scope.artefacts.plan import Group, Nats, Plan, Point, Predicted
from fp8scope.core.words import common_prefix, nats, percent, short_name, times
from fp8scope.report.words import literal

ROWS = 8
"""Of the frontier."""


def plan_page(plan: Plan) -> Renderables:
    """Everything that `fp8scope plan` shows."""
    prefix = common_prefix(module.name for module in plan.modules)
    heading = f"Plan for {plan.model.name}"
    heading += f"; names without their first “{prefix}”" if prefix else ""
    head = literal(heading)
    head.stylize("bold")
    parts: list[Text | Table] = [head, literal(f"  {capital(plan.summary)}.")]
    parts += [literal(f"  {line}") for line in asked_sentences(plan)]
    parts += [literal(f"  {line}") for line in measured_sentences(plan)]
    parts += _reasons(plan, prefix)
    parts += [literal(f"  {line}") for line in note_sentences(plan)]
    parts += [Text(), frontier_table(plan)]
    return Renderables(*parts)


def note_sentences(plan: Plan) -> list[str]:
    """What whoever reads the plan should know besides."""
    return [f"Note: {literal(note).plain}." for note in plan.notes]


def frontier_table(plan: Plan) -> Table:
    """What other budgets would buy, the plan's own row among them."""
    table = Table(title="What other budgets would buy", title_justify="left", box=None)
    for name in ("nats per token", "bits per weight", "step, µs", "groups in BF16", ""):
        table.add_column(name, justify="right")
    for point, mine in frontier_points(plan.frontier, own_point(plan)):
        table.add_row(
            nats(point.kl),
            f"{point.effective_bits:.2f}",
            f"{point.step_time_us:,.4g}",
            str(point.bf16_groups),
            "this plan" if mine else "",
            style="bold" if mine else "",
        )
    return table


def own_point(plan: Plan) -> Point:
    """Where the plan itself stands on its frontier."""
    return Point(
        kl=plan.predicted.nats.kl,
        effective_bits=plan.predicted.effective_bits,
        step_time_us=plan.predicted.step_time_us,
        bf16_groups=sum(group.precision == "bf16" for group in decided(plan)),
    )


def frontier_points(frontier: Sequence[Point], own: Point) -> list[tuple[Point, bool]]:
    """Some points of the frontier, and a plan's own among them, by falling KL; which is its own."""
    shown = [(point, False) for point in _some(frontier) if not _same(point, own)]
    return sorted([*shown, (own, True)], key=lambda row: -row[0].kl)


def _same(point: Point, own: Point) -> bool:
    return math.isclose(point.kl, own.kl, rel_tol=1e-6, abs_tol=1e-12) and math.isclose(
        point.step_time_us, own.step_time_us, rel_tol=1e-6
    )


def asked_sentences(plan: Plan) -> list[str]:
    """What was asked, what plain FP8 would cost, and what each tag is predicted to."""
    found, objective = plan.predicted, plan.objective
    budget = {
        "max_kl": f"at most {nats(objective.value)} nats per token",
        "effective_bits": f"at most {objective.value:g} bits per weight",
        "max_bf16_share": f"at most {percent(objective.value)} of the weights in BF16",
    }[objective.limit]
    preset = f" (preset {objective.preset})" if objective.preset else ""
    cost = plan.cost
    where = cost.gpu if cost.source == "roofline" else f"{cost.measured_from} ({cost.gpu})"
    plain = "give no numbers"
    if found.plain_fp8:
        plain = f"cost {nats(found.plain_fp8.kl)} nats per token"
    tags = ", ".join(f"{tag} {nats(own.kl)}" for tag, own in _worst_first(found.tags))
    lines = [
        f"Asked: {budget}{preset}. Times: {cost.source} of {where}, batch {cost.batch}, context "
        f"{cost.context}, {cost.generate} tokens generated.",
        f"Plain FP8 everywhere would {plain}.",
    ]
    return lines + ([f"By tag: {tags}."] if len(found.tags) > 1 else [])


def measured_sentences(plan: Plan) -> list[str]:
    """What measuring said, and how it compares."""
    if plan.measured is None:
        return []
    found, rounds = plan.measured, len(plan.measured.rounds)
    compared = "as predicted, within two standard errors"
    if not found.within_two_errors:
        compared = f"{_number(found.measured_over_predicted)}× what was predicted"
    line = (
        f"Measured on {found.sequences} held-out sequences ({found.tokens:,} tokens): "
        f"{_number(found.kl_nats, nats)} nats per token, {compared}; perplexity "
        f"{_number(found.true_perplexity)} → {_number(found.perplexity)}; "
        f"{_number(found.top1_agreement, percent)} of the most probable tokens stay."
    )
    tags = ", ".join(
        f"{tag} {_number(own.kl_nats, nats)} (perplexity {_number(own.true_perplexity)} → "
        f"{_number(own.perplexity)})"
        for tag, own in sorted(found.tags.items(), key=lambda item: -(item[1].kl_nats or 0))
    )
    if found.budget_nats is not None:
        line += f" {_kept(plan.objective.solved_for, found.met)}"
    lines = [line] + ([f"By tag, measured: {tags}."] if len(found.tags) > 1 else [])
    if rounds > 1:
        kls = ", ".join(_number(each.kl_nats, nats) for each in plan.measured.rounds)
        lines.append(f"{rounds} plans were measured, for the budget was missed: {kls}.")
    return lines


def _kept(solved_for: float | None, met: bool) -> str:
    """Whether the measured KL keeps to the budget."""
    if not met:
        return "That is over the budget, and no plan that is left costs less."
    again = "" if solved_for is None else f", for which it was planned within {nats(solved_for)}"
    return f"That is within the budget{again}."


def _number(value: float | None, form: Callable[[float], str] = times) -> str:
    return "not a number" if value is None else form(value)


def _reasons(plan: Plan, prefix: str) -> list[Text | Table]:
    lines: list[Text | Table] = [
        literal(f"  {number}. {short_name(group.name, prefix)}: {_name(group)}: {group.reason}.")
        for number, group in enumerate(told_groups(plan), start=1)
    ]
    plain = plain_sentence(plan, prefix)
    return [*lines, literal(f"  {plain}")] if plain else lines


def told_groups(plan: Plan) -> list[Group]:
    """What is not plain FP8: BF16 first, then by what plain FP8 would cost."""
    told = [group for group in decided(plan) if group.precision != "fp8_tensor"]
    return sorted(told, key=lambda group: (group.precision != "bf16", -_plain_cost(group)))


def plain_sentence(plan: Plan, prefix: str) -> str:
    """How many groups are plain FP8, and what they cost at most; "" where none is."""
    plain = [group for group in decided(plan) if group.precision == "fp8_tensor"]
    if not plain:
        return ""
    worst = max(plain, key=lambda group: group.evidence.kl)
    others = "All groups run" if len(plain) == len(decided(plan)) else "The other groups run"
    return (
        f"{others} with one static scale per tensor ({len(plain)}), at most "
        f"{nats(worst.evidence.kl)} nats per token each ({short_name(worst.name, prefix)})."
    )


def speedup(found: Predicted) -> str:
    """How many times as fast as in BF16: `1.91×`."""
    # a plan that was changed by hand may take no time at all
    gain = found.bf16_step_time_us / found.step_time_us if found.step_time_us else math.inf
    return f"{'∞' if math.isinf(gain) else times(gain)}×"


def decided(plan: Plan) -> list[Group]:
    """The groups that the plan decides on: without lm_head and routers."""
    return [group for group in plan.groups if group.decided]


def _name(group: Group) -> str:
    return "BF16" if group.precision == "bf16" else group.precision


def _plain_cost(group: Group) -> float:
    return group.evidence.candidates.get("fp8_tensor", 0.0)


def _worst_first(tags: dict[str, Nats]) -> list[tuple[str, Nats]]:
    return sorted(tags.items(), key=lambda item: -item[1].kl)


def _some(points: Sequence[Point]) -> list[Point]:
    """At most `ROWS`, both ends among them."""
    step = max(1, -(-len(points) // ROWS))
    return [point for i, point in enumerate(points) if i % step == 0 or i == len(points) - 1]


def capital(sentence: str) -> str:
    """With a capital letter."""
    return sentence[:1].upper() + sentence[1:]
