"""Spend more until a budget holds: plan, measure, and plan anew within a tighter limit.

A planner keeps to what it predicts. Where a plan costs more than it should, the next is planned
within a limit that is smaller by as much (budget / measured), so that it keeps to the budget if it
costs too much in the same proportion; groups add, so this mostly takes one round. But a limit is
never less than a quarter of the last: where one group costs far more than predicted, all others
would have to pay for it. It is always below what the last plan was predicted to cost, so every
round gives something back to BF16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fp8scope.analyze.ratios import Nats
from fp8scope.core.choices import Term
from fp8scope.measure.measurement import Comparison, Measurement

ROUNDS = 12
"""Most plans that are measured. The last is planned within a limit of 0."""
SLOWEST = 0.25
"""Least share of a limit that the next one is."""
HASTE_AFTER = 4
"""Plans after which each limit is halved once more than the plan before's."""


class Planned(Protocol):
    """A plan as the loop sees it: what it quantizes, and its predicted KL in nats per token."""

    @property
    def terms(self) -> Sequence[Term]:
        """Groups and KV caches with their precision; what is not named stays BF16."""

    @property
    def kl(self) -> float:
        """Predicted KL of all terms together."""

    @property
    def error(self) -> float:
        """Its standard error."""


Replan = Callable[[float], Planned | None]
"""The best plan whose predicted KL is at most so much; None where there is none."""


@dataclass(frozen=True)
class Round:
    """One plan, the limit that it was planned within, and what it costs."""

    limit: float
    plan: Planned
    measurement: Measurement

    @property
    def comparison(self) -> Comparison:
        """What was predicted against what was measured."""
        return Comparison(Nats(self.plan.kl, self.plan.error), self.measurement.whole.kl)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the tags."""
        return {
            "limit_nats": self.limit,
            "quantized": len(self.plan.terms),
            **self.comparison.to_json(),
            **self.measurement.whole.to_json(),
        }


@dataclass(frozen=True)
class Spending:
    """All rounds, the last being the result, and whether it is within `budget` (None: any is)."""

    rounds: tuple[Round, ...]
    budget: float | None

    @property
    def result(self) -> Round:
        """The last round."""
        return self.rounds[-1]

    @property
    def met(self) -> bool:
        """Whether the measured KL is within the budget."""
        return self.budget is None or self.result.measurement.kl <= self.budget

    def to_json(self) -> dict[str, Any]:
        """What stands in plan.json as `measured`: the result with its tags, and every round."""
        return {
            "budget_nats": self.budget,
            "met": self.met,
            **self.result.comparison.to_json(),
            **self.result.measurement.to_json(),
            "rounds": [each.to_json() for each in self.rounds],
        }


def meet_budget(
    first: Planned,
    replan: Replan,
    measure: Callable[[Sequence[Term]], Measurement],
    budget: float,
) -> Spending:
    """Measure `first`, which was planned within `budget`, and go on until the measured KL holds.

    It ends unmet where `replan` has no other plan left within the limit (groups that the user
    wants in FP8 whatever they cost): at most `ROUNDS` plans are measured.
    """
    rounds = [Round(budget, first, measure(first.terms))]
    while rounds[-1].measurement.kl > budget and len(rounds) < ROUNDS:
        following = _another(rounds, replan, budget)
        if following is None:
            break
        limit, plan = following
        rounds.append(Round(limit, plan, measure(plan.terms)))
    return Spending(tuple(rounds), budget)


def _another(
    rounds: Sequence[Round], replan: Replan, budget: float
) -> tuple[float, Planned] | None:
    """The next limit with its plan, which is none of those that were measured."""
    seen = [frozenset(found.plan.terms) for found in rounds]
    limit = _tighter(rounds, budget)
    while True:
        plan = replan(limit)
        if plan is not None and frozenset(plan.terms) not in seen:
            return limit, plan
        if limit == 0:
            return None
        limit = limit / 2 if limit > budget / 2**ROUNDS else 0.0


def _tighter(rounds: Sequence[Round], budget: float) -> float:
    last = rounds[-1]
    if len(rounds) == ROUNDS - 1:
        return 0.0
    hurry = 0.5 ** max(0, len(rounds) - HASTE_AFTER)
    most = min(last.plan.kl, last.limit)
    return most * hurry * max(SLOWEST, budget / last.measurement.kl)
