"""What a plan will cost and give, in numbers and in one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fp8scope.analyze.ratios import Nats
from fp8scope.analyze.thresholds import HARM_NATS, UNEXPLAINED_TIMES
from fp8scope.artefacts.plan import Group, Objective, Point, Predicted
from fp8scope.artefacts.plan import Nats as Stated
from fp8scope.core.choices import Kind, Term
from fp8scope.core.words import common_prefix, fine_nats, nats, percent, short_name
from fp8scope.plan.clusters import PLAIN
from fp8scope.plan.cost import BF16, FP8_BITS
from fp8scope.plan.frontier import frontier
from fp8scope.plan.planner import Choice, Planner, Sums
from fp8scope.plan.reasons import WORDS

ROUNDING = 1e-9
NAMED = 8


def predicted(planner: Planner, sums: Sums) -> Predicted:
    """A choice's own numbers, and those of all BF16 and all plain FP8 beside it."""
    everything = _measured_plain(planner) or _plain_fp8(planner)
    return Predicted(
        **_numbers(sums),
        plain_fp8=_stated(everything) if math.isfinite(everything.kl) else None,
        bf16_step_time_us=planner.everything_us(BF16),
        fp8_step_time_us=planner.everything_us(PLAIN),
    )


def predicted_again(found: Predicted, sums: Sums) -> Predicted:
    """The prediction of another choice for the same model; at once."""
    return found.model_copy(update=_numbers(sums))


def limited(found: Predicted, objective: Objective) -> float:
    """What the objective limits."""
    by_limit = {
        "max_kl": found.nats.kl,
        "effective_bits": found.effective_bits,
        "max_bf16_share": found.bf16_share,
    }
    return by_limit[objective.limit]


def over(found: Predicted, objective: Objective) -> bool:
    """Whether the objective's limit is not kept, beyond rounding."""
    return limited(found, objective) > objective.value * (1 + ROUNDING) + ROUNDING


def _plain_fp8(planner: Planner) -> Nats:
    """The sum of all groups, each with one static scale per tensor; not a number where the scan
    scored none in that.
    """
    plain, terms = (Term(unit.name, PLAIN) for unit in planner.decided), planner.scores.terms()
    rows = [terms[term] for term in plain if term in terms]
    return planner.scores.together(rows)[0] if rows else Nats(math.nan, math.nan)


def _measured_plain(planner: Planner) -> Nats | None:
    """The whole model in plain FP8, where the scan measured all that is decided on together."""
    wanted = {Term(unit.name, PLAIN) for unit in planner.decided}
    for score in planner.scores.kind(Kind.MODEL):
        if set(score.row.terms) == wanted:
            return score.measured
    return None


def doubts(planner: Planner, choice: Choice) -> list[str]:
    """What is known against the prediction, and against the plan."""
    found, alone, whole = [], _plain_fp8(planner).kl, _measured_plain(planner)
    if whole and whole.kl >= HARM_NATS and whole.kl > UNEXPLAINED_TIMES * alone:
        found.append(
            f"the whole model in plain FP8 was measured at {nats(whole.kl)} nats per token, its "
            f"groups sum to {nats(alone)}: predictions are too low here, --measure tells"
        )
    if choice.kl >= HARM_NATS:
        found.append(
            f"{nats(choice.kl)} nats per token are about {percent(choice.kl)} of perplexity, more "
            "than migrations commonly allow; --max-kl 0.005 says what half a per cent would take"
        )
    return found


def by_hand(planner: Planner, choice: Choice, objective: Objective) -> list[str]:
    """Which groups a person has set, and whether that breaks what was asked for."""
    pinned, names = planner.asked.pinned, [unit.name for unit in planner.decided]
    if not pinned:
        return []
    prefix = common_prefix(linear.name for linear in planner.profile.structure.linears)
    named = [f"{short_name(n, prefix)} ({pinned[n]})" for n in names if n in pinned]
    rest = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    found = [f"changed by hand: {', '.join(named[:NAMED])}{rest}"]
    if over(numbers := predicted(planner, choice.sums), objective):
        what = f"{objective.limit} is {limited(numbers, objective):.4g}"
        found.append(f"{what}, over the {objective.value:.4g} that was asked for")
    return found


def cache_offer(planner: Planner, choice: Choice) -> list[str]:
    """What an FP8 KV cache would cost and save, where the plan leaves it in BF16."""
    layers = planner.profile.structure.kv_layers
    quantized = {term.group for term in choice.terms}
    rows = [planner.rows.get(Term(layer.group, PLAIN)) for layer in layers]
    known = [row for row in rows if row is not None]
    if not layers or len(known) < len(layers) or layers[0].group in quantized:
        return []
    cost = planner.scores.together(known)[0]
    saved = sum(
        planner.cost.cache_us(layer, BF16) - planner.cost.cache_us(layer, PLAIN) for layer in layers
    )
    return [
        f"the KV cache is in BF16; FP8 there would cost {fine_nats(cost.kl)} nats per token and "
        f"take {percent(saved / choice.time_us)} off the step (--kv-cache fp8)"
    ]


def points(planner: Planner, choice: Choice) -> tuple[Point, ...]:
    """The frontier, with the step's time whole and bits per weight."""
    return tuple(
        Point(
            kl=point.kl,
            effective_bits=point.bits / planner.elements,
            step_time_us=point.time_us + planner.fixed_us,
            bf16_groups=point.bf16_groups,
        )
        for point in frontier(choice.problem)
    )


def summary(planner: Planner, choice: Choice, objective: Objective, groups: Sequence[Group]) -> str:
    """What runs in what, what that costs, and how fast it is."""
    names = {unit.name for unit in planner.decided}
    counts = Counter(str(group.precision) for group in groups if group.name in names)
    kinds = [f"{counts[name]} with {WORDS[name]}" for name in WORDS if counts[name]]
    with_what = f" ({', '.join(kinds)})" if kinds else ""
    excluded = counts[BF16]
    cached = {cache.group for cluster in choice.problem.clusters for cache in cluster.caches}
    stored = [term for term in choice.terms if term.group in cached]
    if stored:
        cost = planner.scores.together([planner.rows[term] for term in stored])[0]
        with_what += f" and an FP8 KV cache ({nats(cost.kl)} of it)"
    said = "nothing to exclude"
    if excluded:
        said = f"{excluded} of {len(names)} groups {'stays' if excluded == 1 else 'stay'} in BF16"
    budget = f" of a budget of {nats(objective.value)}" if objective.limit == "max_kl" else ""
    faster = planner.everything_us(BF16) / choice.time_us
    hand = "changed by hand; " if planner.asked.pinned else ""
    return (
        f"{hand}{said}{with_what}: {nats(choice.nats.kl)} ± {_error(choice.nats)} nats per "
        f"token{budget}, {choice.bits:.4g} bits per weight, and linears and KV cache "
        f"{faster:.2f}× as fast as in BF16"
    )


def _numbers(sums: Sums) -> dict[str, Any]:
    """The fields of `Predicted` that depend on what is chosen."""
    return {
        "nats": _stated(sums.nats),
        "tags": {tag: _stated(found) for tag, found in sums.tags.items()},
        "effective_bits": sums.bits,
        "bf16_share": min(max(sums.bits / FP8_BITS - 1, 0.0), 1.0),
        "step_time_us": sums.time_us,
    }


def _error(found: Nats) -> str:
    return percent(found.error / found.kl) if found.kl > 0 and found.error > 0 else "0"


def _stated(found: Nats) -> Stated:
    return Stated(kl=found.kl, error=0.0 if math.isnan(found.error) else found.error)
