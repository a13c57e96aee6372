"""How amax grows: closed forms against all subsets, and verdicts on invented sequences."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.analyze.convergence import (
    Convergence,
    State,
    convergence,
    expected_amax,
    growth_curve,
    site_convergence,
)
from fp8scope.core.magnitude import BF16
from fp8scope.profile.record import SiteRecord
from tests.analyze.sites import of_amax, of_values
from tests.profiles import KEYS, Q_INPUT, build

Float32 = NDArray[np.float32]
AMAX = st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=8).map(
    lambda values: np.array(values, np.float32)
)


@given(AMAX, st.data())
def test_the_expectation_is_the_mean_over_all_subsets(amax: Float32, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(amax)))
    brute = np.mean([max(subset) for subset in combinations(amax.astype(float), k)])
    assert expected_amax(amax, k) == pytest.approx(brute, rel=1e-9, abs=1e-9)


@given(AMAX)
def test_half_would_clip_counts_the_splits(amax: Float32) -> None:
    n = len(amax)
    halves = [set(half) for half in combinations(range(n), n // 2)]

    def clips(half: set[int]) -> bool:
        inside = max((float(amax[i]) for i in half), default=-1.0)
        return bool(amax.max() * np.float32(448 / 464) > np.float32(inside))

    assert growth_curve(amax).half_would_clip == pytest.approx(np.mean([*map(clips, halves)]))


@given(AMAX)
def test_a_curve_rises_to_the_amax(amax: Float32) -> None:
    curve = growth_curve(amax)
    counts, expected = zip(*curve.points, strict=True)
    assert counts[0] == 1
    assert list(counts) == sorted(set(counts))
    assert all(y >= x * (1 - 1e-12) for x, y in pairwise(expected))
    assert (curve.sequences, curve.amax) == (len(amax), amax.max())
    assert expected[0] == pytest.approx(amax.astype(float).mean())
    assert curve.predicted(2 * curve.sequences) >= curve.amax


@pytest.mark.parametrize(("n", "further"), [(1, 1), (4, 1), (3, 2), (2, 4)])
def test_the_chance_to_be_exceeded_is_that_of_where_the_largest_lies(n: int, further: int) -> None:
    curve = growth_curve(np.arange(n, dtype=np.float32))
    places = list(combinations(range(n + further), further))
    exceeded = np.mean([n + further - 1 in later for later in places])
    assert curve.exceeded_within(further) == pytest.approx(exceeded)


def test_the_step_of_an_exponential_tail_is_known() -> None:
    """The expected maximum of n standard exponentials is H_n: it grows by ln 2 a doubling."""
    rng = np.random.default_rng(0)
    curves = [growth_curve(rng.exponential(1, 256).astype(np.float32)) for _ in range(50)]
    assert np.mean([curve.step for curve in curves]) == pytest.approx(np.log(2), abs=0.08)
    predicted = np.mean([curve.predicted(256 * 8) for curve in curves])
    assert predicted == pytest.approx(np.log(256 * 8) + 0.5772, abs=0.4)


def of(*amax: float, tags: tuple[str, ...] = ("a",)) -> Convergence:
    return site_convergence(of_amax(tags, *amax), Q_INPUT)


def test_what_stays_the_same_has_settled() -> None:
    found = of(*[8.0] * 16)
    assert (found.state, found.growth, found.more, found.alone) == (State.SETTLED, 1, 0, False)
    assert found.margin(1000) == 1
    assert found.curves["a"].leaders == 16
    assert found.curves["a"].half_would_clip == 0


def test_a_slow_growth_asks_for_a_margin() -> None:
    found = of(*np.geomspace(2, 8, 16))
    assert found.state is State.GROWING
    assert 1.05 < found.margin(2) == pytest.approx(found.growth)
    assert found.margin(1000) > found.margin(10)
    curve = found.curves["a"]
    then = curve.sequences + found.more
    assert curve.predicted(2 * then) / curve.predicted(then) == pytest.approx(464 / 448)


def test_a_fast_growth_asks_for_more_sequences() -> None:
    found = of(*[1.0] * 62, 4096, 4096)
    assert (found.state, found.alone) == (State.UNSETTLED, False)
    assert found.growth > 1.25
    curve = found.curves["a"]
    then = curve.sequences + found.more
    assert 1.24 < curve.predicted(2 * then) / curve.predicted(then) <= 1.25
    assert found.tag == "a"


def test_one_sequence_alone_is_not_settled() -> None:
    found = of(*[8.0] * 15, 16)
    assert (found.state, found.alone, found.more) == (State.UNSETTLED, True, 16)
    assert found.curves["a"].half_would_clip == 0.5
    assert of(*[8.0] * 15, 9).state is State.SETTLED
    assert of(*[8.0] * 14, 16, 16).alone is False


def test_the_tag_that_counts_is_the_one_that_lifts_the_site() -> None:
    """`a` stays at 64, `b` grows fast and far below it."""
    growing = [8, *[2.0**-i for i in range(15)]]
    amax = [value for pair in zip([64.0] * 16, growing, strict=True) for value in pair]
    found = of(*amax, tags=("a", "b"))
    assert (found.state, found.growth) == (State.SETTLED, 1)
    amax = [value for pair in zip([0.5] * 16, growing, strict=True) for value in pair]
    found = of(*amax, tags=("a", "b"))
    assert (found.state, found.tag) == (State.UNSETTLED, "b")


def test_few_sequences_say_nothing() -> None:
    assert of(*[8.0] * 7).state is State.UNKNOWN
    assert of(*[8.0] * 8).state is State.SETTLED
    assert of(8.0, 8.0, 32.0).state is State.UNKNOWN
    assert of(8.0).runner_up == 0


def test_a_silent_site_has_settled() -> None:
    zero = [np.zeros((3, 8), np.float32)] * 8
    found = site_convergence(of_values(("a",), *zero), Q_INPUT)
    assert (found.state, found.growth, found.more, found.margin(10)) == (State.SETTLED, 1, 0, 1)


def test_a_site_without_any_sequence_is_not_known() -> None:
    profile = of_amax(("a",), *[8.0] * 9)
    empty = SiteRecord.empty(BF16, tags=1, samples=9, channels=8)
    profile.sites = {Q_INPUT: empty}
    (found,) = convergence(profile)
    assert (found.state, found.growth, found.more, found.tag) == (State.UNKNOWN, 1, 0, "")
    assert found.margin(1000) == 1


def test_the_least_settled_comes_first() -> None:
    found = convergence(build(indices=range(40)))
    assert {row.site for row in found} == {Q_INPUT, KEYS}
    assert [row.growth for row in found] == sorted((row.growth for row in found), reverse=True)
