"""The loop that spends until a budget holds: it spends more each round, and it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.analyze.ratios import Nats
from fp8scope.core.choices import Term
from fp8scope.measure.api import unmet
from fp8scope.measure.budget import ROUNDS, Spending, meet_budget
from fp8scope.measure.measurement import Measured, Measurement
from tests.measure.subjects import Plan

Costs = Mapping[str, float]


def measurement(kl: float) -> Measurement:
    return Measurement(Measured(Nats(kl, 0.0), 1, 1, Nats(0, 0), 1, 1, 1), {}, "", ())


def planner(predicted: Costs, kept: Sequence[str] = ()) -> Callable[[float], Plan | None]:
    """Gives up the dearest groups first, whose prediction is exceeded; never those `kept`."""

    def replan(limit: float) -> Plan | None:
        names = sorted(predicted, key=lambda name: (name in kept, -predicted[name], name))
        while sum(predicted[name] for name in names) > limit:
            if not names or names[0] in kept:
                return None
            names = names[1:]
        kl = sum(predicted[name] for name in names)
        return Plan([Term(name, "fp8_tensor") for name in sorted(names)], kl)

    return replan


def spend(predicted: Costs, true: Costs, budget: float, kept: Sequence[str] = ()) -> Spending:
    replan = planner(predicted, kept)
    first = replan(budget) or replan(math.inf)
    assert first is not None

    def measure(terms: Sequence[Term]) -> Measurement:
        return measurement(sum(true[term.group] for term in terms))

    return meet_budget(first, replan, measure, budget)


def test_a_plan_that_holds_is_the_only_one() -> None:
    found = spend({"a": 0.01, "b": 0.002}, {"a": 0.011, "b": 0.002}, 0.02)
    assert found.met
    assert len(found.rounds) == 1
    assert found.result.limit == 0.02


def test_in_proportion_one_round_is_enough() -> None:
    predicted = {f"g{i}": 0.001 * (1 + i) for i in range(12)}
    true = {name: 1.3 * kl for name, kl in predicted.items()}
    found = spend(predicted, true, 0.05)
    assert found.met
    assert len(found.rounds) == 2
    first, second = found.rounds
    assert second.limit == pytest.approx(first.plan.kl * 0.05 / first.measurement.kl)
    assert set(second.plan.terms) < set(first.plan.terms)


def test_one_group_that_was_told_wrong_does_not_cost_all_others() -> None:
    """300 times what was predicted: a limit 1/80 of the budget would leave nothing in FP8."""
    predicted = {"bad": 0.005, **{f"g{i}": 0.0005 for i in range(10)}}
    true = {**predicted, "bad": 1.5}
    found = spend(predicted, true, 0.02)
    assert found.met
    assert "bad" not in {term.group for term in found.result.plan.terms}
    assert len(found.result.plan.terms) >= 5


numbers = st.floats(1e-9, 2, allow_nan=False)


@given(
    st.lists(st.tuples(numbers, st.one_of(numbers, st.just(math.inf))), min_size=1, max_size=12),
    st.one_of(st.just(0.0), st.floats(1e-6, 1)),
)
def test_it_ends_within_the_budget_and_spends_more_each_round(
    groups: list[tuple[float, float]], budget: float
) -> None:
    predicted = {f"g{i}": kl for i, (kl, _) in enumerate(groups)}
    true = {f"g{i}": kl for i, (_, kl) in enumerate(groups)}
    found = spend(predicted, true, budget)
    assert found.met
    assert 1 <= len(found.rounds) <= ROUNDS
    for before, after in zip(found.rounds, found.rounds[1:], strict=False):
        assert after.limit < before.limit
        assert after.plan.kl <= after.limit
        assert len(after.plan.terms) < len(before.plan.terms)
        assert before.measurement.kl > budget
    assert spend(predicted, true, budget) == found  # and it is the same each time


def test_what_the_user_keeps_ends_it_unmet() -> None:
    found = spend({"a": 0.01, "b": 0.002}, {"a": 0.5, "b": 0.1}, 0.013, kept=["b"])
    assert not found.met
    assert [term.group for term in found.result.plan.terms] == ["b"]
    assert len(found.rounds) == 2
    assert unmet(found) == (
        "the measured KL is 0.1 nats per token, the budget 0.013, "
        "and no plan that is left costs less (2 measured)"
    )


def test_a_planner_that_ignores_the_limit_is_asked_no_more_than_so_often() -> None:
    asked = count()

    def stubborn(limit: float) -> Plan:
        next(asked)
        return Plan([Term("a", "fp8_tensor")])

    found = meet_budget(stubborn(1), stubborn, lambda _: measurement(1.0), 0.01)
    assert not found.met
    assert len(found.rounds) == 1
    assert next(asked) < 2 * ROUNDS


def test_what_is_not_a_number_is_too_much() -> None:
    answers = iter([math.nan, math.inf, 0.001])
    replan = planner({"a": 0.02, "b": 0.004, "c": 0.001})
    first = replan(0.03)
    assert first is not None
    found = meet_budget(first, replan, lambda _: measurement(next(answers)), 0.03)
    assert found.met
    assert [len(r.plan.terms) for r in found.rounds] == [3, 2, 1]
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [each["kl_nats"] for each in data["rounds"]] == [None, None, 0.001]
    assert [each["quantized"] for each in data["rounds"]] == [3, 2, 1]
    assert (data["kl_nats"], data["met"], data["budget_nats"]) == (0.001, True, 0.03)
