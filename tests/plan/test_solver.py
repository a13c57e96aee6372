"""The solver against every combination, and the frontier against the solver."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.plan.frontier import MOST_POINTS, Point, frontier
from fp8scope.plan.objective import Limit, Objective
from fp8scope.plan.problem import Problem, Way
from fp8scope.plan.solver import MINIMISED, solve

Ways = list[list[Way]]


def way(kl: float, time_us: float, bits: float) -> Way:
    return Way((), kl, time_us, bits)


# round numbers: many ties, and limits that are reached exactly
NUMBERS = st.integers(0, 12).map(lambda number: number / 8)
WAYS = st.builds(way, NUMBERS, NUMBERS, NUMBERS)
CLUSTERS = st.lists(st.lists(WAYS, min_size=1, max_size=4), min_size=1, max_size=5)


def sums(ways: Ways, numbers: Sequence[int]) -> dict[Limit, float]:
    chosen = [own[number] for own, number in zip(ways, numbers, strict=True)]
    return {of: sum(getattr(one, of) for one in chosen) for of in Limit}


def best(ways: Ways, objective: Objective) -> tuple[float, float] | None:
    """The least of what comes first, and then of what comes second, of all combinations."""
    first, second = MINIMISED[objective.limit]
    every = (sums(ways, numbers) for numbers in product(*(range(len(own)) for own in ways)))
    kept = (found for found in every if found[objective.limit] <= objective.value)
    return min(((found[first], found[second]) for found in kept), default=None)


@settings(max_examples=150, deadline=None)
@given(CLUSTERS, st.sampled_from(list(Limit)), st.integers(0, 64).map(lambda number: number / 8))
def test_as_good_as_every_combination(ways: Ways, limit: Limit, value: float) -> None:
    objective, (first, second) = Objective(limit, value), MINIMISED[limit]
    numbers, expected = solve(ways, objective), best(ways, objective)
    if numbers is None or expected is None:
        assert numbers is None
        assert expected is None
        return
    found = sums(ways, numbers)
    assert found[limit] <= value
    assert (found[first], found[second]) == pytest.approx(expected)


TINY = [[way(1e-9, 1.0, 8.0), way(0.0, 2.0, 16.0)], [way(30.0, 1.0, 8.0), way(0.0, 2.0, 16.0)]]


def test_no_loss_is_to_be_had_however_small_some_losses_are() -> None:
    """A billionth of a nat beside 30: far below what HiGHS can tell from nothing."""
    assert solve(TINY, Objective(Limit.KL, 0.0)) == [1, 1]
    assert solve(TINY, Objective(Limit.KL, 1e-9)) == [0, 1]


@pytest.mark.parametrize("over", [1e-3, 1e-6, 1e-7, 3e-8, 1e-8])
def test_a_limit_that_is_just_missed(over: float) -> None:
    """What is faster costs a little too much: by less than the tolerance of HiGHS."""
    ways = [[way(1.0 + over, 1.0, 8.0), way(1.0, 2.0, 16.0)]] * 3
    assert solve(ways, Objective(Limit.KL, 3.0)) == [1, 1, 1]
    assert solve(ways, Objective(Limit.KL, 3.0 + 3 * over)) == [0, 0, 0]
    assert solve(ways, Objective(Limit.KL, 2.9)) is None


def test_small_losses_count_beside_one_that_cannot_be_helped() -> None:
    """30 nats, whatever is done; what can be chosen are millionths."""
    small = [way(2e-6, 1.0, 8.0), way(1e-6, 1.0, 16.0)]
    larger = [way(3e-6, 1.0, 8.0), way(1e-6, 1.0, 16.0)]
    ways = [[way(30.0, 1.0, 8.0)], small, larger, small]
    assert solve(ways, Objective(Limit.BITS, 40.0)) == [0, 0, 1, 0]


@pytest.mark.parametrize("limit", list(Limit))
def test_limits_without_end_and_sums_that_are_off_by_rounding(limit: Limit) -> None:
    ways = [[way(0.1, 0.1, 0.1), way(0.3, 0.3, 0.3)]] * 3
    assert solve(ways, Objective(limit, 1e300)) == [0, 0, 0]
    assert solve(ways, Objective(limit, 0.3)) == [0, 0, 0]  # three tenths are 0.30000000000000004
    assert solve(ways, Objective(limit, 0.29)) is None


def test_within_a_ten_thousandth_where_that_is_enough() -> None:
    ways = [[way(0.01 * i, 10.0, 8.0), way(0.0, 10.0 + i, 16.0)] for i in range(1, 20)]
    objective = Objective(Limit.KL, 0.5)
    exact, quick = solve(ways, objective), solve(ways, objective, gap=1e-4)
    assert exact is not None
    assert quick is not None
    assert sums(ways, quick)[Limit.KL] <= 0.5
    assert sums(ways, quick)[Limit.TIME] <= sums(ways, exact)[Limit.TIME] * 1.0001


# ---- the frontier


def points(ways: Ways) -> list[Point]:
    return frontier(Problem((), ways, ()))


def bf16_too(ways: Ways) -> Ways:
    """With a way without loss for each cluster, slower than the rest."""
    return [[*own, way(0.0, 2.0, 16.0)] for own in ways]


@settings(max_examples=100, deadline=None)
@given(CLUSTERS.map(bf16_too))
def test_the_frontier_is_convex_and_each_of_its_points_the_best_at_its_time(ways: Ways) -> None:
    found = points(ways)
    assert found[-1].kl == 0
    assert found[0].time_us == pytest.approx(sum(min(one.time_us for one in own) for own in ways))
    slopes = []
    for before, after in pairwise(found):
        assert after.kl < before.kl
        assert after.time_us > before.time_us
        slopes.append((before.kl - after.kl) / (after.time_us - before.time_us))
    assert slopes == pytest.approx(sorted(slopes, reverse=True))
    for point in found:
        expected = best(ways, Objective(Limit.TIME, point.time_us * (1 + 1e-12)))
        assert expected is not None
        assert point.kl == pytest.approx(expected[0])


def test_a_long_frontier_keeps_its_ends() -> None:
    ways = [[way(0.01 * i, 10.0, 8.0), way(0.0, 10.0 + 1 / i, 16.0)] for i in range(1, 101)]
    found = points(ways)
    assert len(found) == MOST_POINTS
    assert (found[0].time_us, found[-1].kl) == (1000.0, 0.0)


def test_only_what_is_slower_and_better_is_on_it() -> None:
    """The second cluster is fastest in BF16."""
    ways = [
        [way(0.2, 1.0, 8.0), way(0.19, 1.9, 8.0), way(0.0, 2.0, 16.0)],
        [way(0.1, 3.0, 8.0), way(0.0, 2.0, 16.0)],
    ]
    assert [point[:3] for point in points(ways)] == [(0.2, 24.0, 3.0), (0.0, 32.0, 4.0)]
