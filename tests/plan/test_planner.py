"""Choices from invented nats: limits, wishes, numbers that are none, and how sure a plan is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.core.choices import Term
from fp8scope.errors import BadInput
from fp8scope.plan.certainty import certainty
from fp8scope.plan.objective import PRESETS, Limit, Objective, Preset, budget, rounding_nats
from fp8scope.plan.planner import Asked, Choice, Planner
from fp8scope.plan.problem import Way
from fp8scope.profile.record import Profile
from tests.plan import invented
from tests.plan.invented import Nats, group

BASE = invented.profile()
"""Shared: do not change it."""
QKV, UP, DOWN = (group(0, name) for name in ("qkv", "gate_up", "down"))
TENSOR = ("fp8_tensor",)


def planner(nats: Nats, asked: Asked | None = None, of: Profile = BASE) -> Planner:
    return Planner(invented.with_nats(of, nats), invented.cost(of), asked)


def precisions(choice: Choice) -> dict[str, str]:
    return {term.group: term.candidate for term in choice.terms}


def within(maker: Planner, kl: float) -> Choice:
    return maker.choose(Objective(Limit.KL, kl))


# ---- limits

SEEDS = st.integers(0, 40)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.sampled_from([False, True]))
def test_more_of_a_budget_never_makes_it_worse(seed: int, cache: bool) -> None:
    maker = planner(invented.random_nats(seed), Asked(cache=cache))
    bits = [maker.choose(maker.bits(8 + i / 2)) for i in range(17)]
    fast, slow = maker.everything_us("fp8_tensor"), maker.everything_us("bf16")
    times = [maker.choose(Objective(Limit.TIME, slow + i * (slow - fast) / 8)) for i in range(5)]
    for tight, loose in (*pairwise(bits), *pairwise(times)):
        assert loose.nats.kl <= tight.nats.kl + 1e-15
    kls = [within(maker, bits[0].nats.kl * i / 8 + (0 if not cache else 1)) for i in range(9)]
    for tight, loose in pairwise(kls):
        assert loose.time_us <= tight.time_us * (1 + 1e-12)
    for choice, per_weight in zip(bits, range(17), strict=True):
        assert choice.bits <= 8 + per_weight / 2


def test_no_budget_is_bf16_and_an_endless_one_the_fastest() -> None:
    maker = planner(invented.random_nats(1))
    none = within(maker, 0.0)
    assert none.terms == ()
    assert (none.nats.kl, none.nats.error, none.bits) == (0, 0, 16)
    assert none.time_us == pytest.approx(maker.everything_us("bf16"))
    everything = within(maker, 1e9)
    assert everything.bits == 8
    assert everything.time_us == pytest.approx(maker.everything_us("fp8_tensor"))


def test_a_limit_that_is_exactly_reached() -> None:
    maker = planner(invented.plain({DOWN: 0.25}, rest=0.125), Asked(candidates=TENSOR))
    assert set(precisions(within(maker, 0.25 + 7 * 0.125))) == {u.name for u in maker.decided}
    assert DOWN not in precisions(within(maker, 0.24 + 7 * 0.125))


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (Objective(Limit.BITS, 7.9), "7.9 bits per weight cannot be had: FP8 wherever .* takes 8"),
        (Objective(Limit.TIME, 0.001), "a step in 0.001 µs cannot be had: the least is "),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_kept(objective: Objective, said: str) -> None:
    maker = planner(invented.random_nats(1))
    if objective.limit is Limit.BITS:
        objective = maker.bits(objective.value)
    with pytest.raises(BadInput, match=said) as refused:
        maker.choose(objective)
    if objective.limit is Limit.TIME:  # with what stays in BF16 anyway: lm_head
        least = float(refused.value.what.split()[-2])
        found = maker.choose(Objective(Limit.TIME, least * 1.001))
        assert found.time_us == pytest.approx(least, rel=2e-3)


def test_kept_groups_may_cost_more_than_the_budget() -> None:
    maker = planner(invented.plain({DOWN: 0.5}), Asked(candidates=TENSOR, kept=frozenset({DOWN})))
    assert precisions(within(maker, 0.5)) == {DOWN: "fp8_tensor"}
    with pytest.raises(BadInput, match=r"0.4 nats per token cannot be had: the least is 0.5"):
        within(maker, 0.4)


# ---- wishes


def test_lm_head_is_left_alone_unless_it_is_kept() -> None:
    nats = invented.plain({}, rest=0.0)
    assert "lm_head" not in precisions(within(planner(nats), 1.0))
    maker = planner(nats, Asked(kept=frozenset({"lm_head"})))
    assert precisions(within(maker, 0.0))["lm_head"] == "fp8_tensor"
    assert maker.left_out == ()
    assert maker.fixed_us == 0


def test_an_excluded_group_stays_whatever_the_limit() -> None:
    maker = planner(invented.plain({}, rest=0.0), Asked(excluded=frozenset({UP})))
    chosen = within(maker, 1.0)
    assert set(precisions(chosen)) == {u.name for u in maker.decided} - {UP}
    with pytest.raises(BadInput, match=r"FP8 wherever it may be takes 9\.33"):
        maker.choose(maker.bits(8.0))


def without(of: Profile, *groups: str) -> Profile:
    """As if these had not been scored."""
    assert of.sensitivity is not None
    kept = [i for i, row in enumerate(of.sensitivity.rows) if row.terms[0].group not in groups]
    for name in ("kl_token", "kl_sequence", "kl_measured"):
        setattr(of.sensitivity, name, getattr(of.sensitivity, name)[kept])
    of.sensitivity.rows = tuple(of.sensitivity.rows[i] for i in kept)
    return of


def test_what_the_text_never_reached_stays_in_bf16_and_cannot_be_kept() -> None:
    of = without(invented.with_nats(BASE, invented.plain({}, rest=0.0)), DOWN)
    maker = Planner(of, invented.cost(of))
    assert maker.unseen == {DOWN}
    assert DOWN not in precisions(within(maker, 1.0))
    maker = Planner(of, invented.cost(of), Asked(kept=frozenset({DOWN})))
    with pytest.raises(BadInput, match="nothing that was scored fits what is asked"):
        within(maker, 1.0)


def test_candidates_that_were_not_scored() -> None:
    of = invented.with_nats(BASE, invented.plain({}, rest=0.0), ("fp8_token",))
    assert within(Planner(of, invented.cost(of), Asked(candidates=TENSOR)), 1.0).terms == ()
    maker = Planner(of, invented.cost(of))
    chosen = maker.choose(maker.bits(8))
    assert set(precisions(chosen).values()) == {"fp8_token"}


def test_a_profile_without_sensitivity() -> None:
    with pytest.raises(BadInput, match="holds no sensitivity"):
        Planner(BASE, invented.cost(BASE))


def test_caches_are_all_in_fp8_or_none() -> None:
    caches = {layer.group for layer in BASE.structure.kv_layers}
    nats = invented.plain({min(caches): 0.3}, rest=0.0)
    for asked, kl, expected in (
        (False, 1.0, set()),
        (True, 1.0, caches),
        (None, 1.0, caches),
        (None, 0.2, set()),
    ):
        chosen = within(planner(nats, Asked(cache=asked, candidates=TENSOR)), kl)
        assert {term.group for term in chosen.terms} & caches == expected
    with pytest.raises(BadInput, match=r"the least is 0\.3"):
        within(planner(nats, Asked(cache=True, candidates=TENSOR)), 0.2)
    of = without(invented.with_nats(BASE, nats), *caches)
    with pytest.raises(BadInput, match="KV cache was not scored"):
        within(Planner(of, invented.cost(of), Asked(cache=True)), 1.0)
    assert within(Planner(of, invented.cost(of), Asked(cache=None)), 1.0)


# ---- remedies


@pytest.mark.parametrize(("remedy", "used"), [(0.5, True), (0.74, True), (0.76, False)])
def test_a_remedy_has_to_save_a_quarter(remedy: float, used: bool) -> None:
    maker = planner(invented.plain({}, 0.1, remedy))
    chosen = maker.choose(maker.bits(8))
    assert (set(precisions(chosen).values()) == {"fp8_tensor"}) is not used
    assert chosen.nats.kl == pytest.approx(8 * 0.1 * (remedy if used else 1))


def noisy(term: Term) -> list[float]:
    """A remedy that is half as costly on average, and worse in half of the sequences."""
    if term.candidate == "fp8_tensor":
        return [0.1] * 6
    return [0.0, 0.0, 0.0, 0.0, 0.0, 0.35]


def test_noise_is_no_remedy() -> None:
    maker = planner(noisy)
    ways = {way.terms for own in maker.problem(cache=False).ways for way in own}
    assert {term.candidate for terms in ways for term in terms} == {"fp8_tensor"}


BROKEN = [math.inf, math.nan]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.filterwarnings("error")
def test_a_candidate_that_breaks_the_model_is_not_chosen_and_does_not_hide_the_others(
    broken: float,
) -> None:
    """Plain FP8 overflows; per token, the group costs next to nothing."""
    for cost in (broken, [broken, *[0.001] * 5]):
        plain = {Term(DOWN, "fp8_tensor"): cost, Term(DOWN, "fp8_block"): broken}
        maker = planner(lambda term, plain=plain: plain.get(term, 0.001))  # type: ignore[misc]
        chosen = maker.choose(maker.bits(8))
        assert precisions(chosen)[DOWN] not in ("fp8_tensor", "fp8_block")
        assert chosen.nats.kl == pytest.approx(0.008)
        assert certainty(chosen).groups[DOWN].share == 1
        assert within(maker, 1.0).time_us <= chosen.time_us


@pytest.mark.parametrize("broken", BROKEN)
def test_a_kept_group_that_breaks_the_model_is_refused(broken: float) -> None:
    nats = invented.plain({DOWN: broken}, rest=0.001)
    with pytest.raises(BadInput, match=r"mlp\.down"):
        within(planner(nats, Asked(kept=frozenset({DOWN}))), 1.0)


# ---- budgets


def way(kl: float, bits: float) -> Way:
    return Way((), kl, 1.0, bits)


def test_rounding_is_what_the_cheapest_ways_wholly_in_fp8_cost() -> None:
    """A cluster without any stays out; one far beyond the rest counts as a typical one."""
    ways = [
        [way(0.01, 8), way(0.002, 8), way(0.0, 16)],
        [way(0.003, 8), way(0.0, 16)],
        [way(0.0, 16)],
        [way(9.0, 8), way(0.0, 16)],
    ]
    assert rounding_nats(ways, ways, typical=10) == pytest.approx(0.002 + 0.003 + 0.03)
    bf16 = [[way(0.0, 16)]]
    assert rounding_nats(bf16, bf16, typical=10) == 0
    assert budget(Preset(2.0, 0.001, 10), ways, ways) == pytest.approx(0.07)
    assert budget(Preset(2.0, 0.1, 10), ways, ways) == 0.1


@pytest.mark.parametrize(
    "asked", [Asked(candidates=("fp8_tensor",)), Asked(excluded=frozenset({QKV}))]
)
def test_what_is_not_allowed_is_none_of_a_presets_budget(asked: Asked) -> None:
    """Plain FP8 costs one group 0.5 nats: its budget is that of the remedy all the same."""
    nats = invented.plain({DOWN: 0.5}, rest=0.01, remedy=0.002)
    expected = planner(nats).budget(PRESETS["balanced"])
    assert planner(nats, asked).budget(PRESETS["balanced"]) == expected < 0.2


def test_presets_are_ordered() -> None:
    maker = planner(invented.random_nats(3))
    budgets = [maker.budget(PRESETS[name]) for name in ("safe", "balanced", "fast")]
    assert budgets == sorted(budgets)
    times = [within(maker, kl).time_us for kl in budgets]
    assert times == sorted(times, reverse=True)


# ---- certainty


def test_sure_where_nothing_else_is_near() -> None:
    maker = planner(invented.plain({DOWN: 1.0}, rest=0.001), Asked(candidates=TENSOR))
    objective = Objective(Limit.KL, 0.1)
    found = certainty(within(maker, objective.value))
    assert found.draws == 200
    assert {one.share for one in found.groups.values()} == {1.0}
    assert all(one.ties == () for one in found.groups.values())


def test_two_groups_that_are_alike_are_nearly_tied() -> None:
    """Only one of two fits the budget; which, is up to the sequences that were drawn."""
    alike: Mapping[str, list[float]] = {
        group(0, "down"): [0.02, 0.20, 0.11, 0.12, 0.10, 0.11],
        group(1, "down"): [0.20, 0.02, 0.12, 0.10, 0.11, 0.10],
    }
    maker = planner(lambda term: alike.get(term.group, 0.0), Asked(candidates=TENSOR))
    objective = Objective(Limit.BITS, maker.bits(8.73).value)
    chosen = maker.choose(objective)
    found = certainty(chosen)
    (out,) = {unit.name for unit in maker.decided} - set(precisions(chosen))
    (other,) = set(alike) - {out}
    assert found.groups[out].ties == (other,)
    assert found.groups[other].ties == (out,)
    assert 0.2 < found.groups[out].share < 0.8
    assert found.groups[out].share == found.groups[other].share
    sure = set(found.groups) - set(alike)
    assert {found.groups[name].share for name in sure} == {1.0}


def test_one_scored_sequence() -> None:
    of = invented.profile(indices=[0])
    maker = planner(invented.random_nats(1, sequences=1), of=of)
    chosen = within(maker, 0.01)
    assert 0 < chosen.nats.error < chosen.nats.kl
    assert list(chosen.tags) == ["prose"]


def test_certainty_solves_for_the_same_limit_as_the_plan() -> None:
    """A limit on the time of the whole step, of which lm_head takes a part."""
    maker = planner(invented.plain({DOWN: 1.0}, rest=0.001), Asked(candidates=TENSOR))
    fast = maker.everything_us("fp8_tensor")
    one = maker.cost.time_us(next(u for u in maker.decided if u.name == DOWN), "bf16")
    objective = Objective(Limit.TIME, fast + one / 2)
    found = certainty(maker.choose(objective))
    assert {sure.share for sure in found.groups.values()} == {1.0}


def test_the_order_in_which_rows_were_scored_does_not_matter() -> None:
    of = invented.with_nats(BASE, invented.random_nats(5))
    assert of.sensitivity is not None
    maker = Planner(of, invented.cost(of))
    expected = [within(maker, kl) for kl in (0.001, 0.01, 0.1)]
    order = np.random.default_rng(0).permutation(len(of.sensitivity.rows))
    of.sensitivity.rows = tuple(of.sensitivity.rows[i] for i in order)
    for name in ("kl_token", "kl_sequence", "kl_measured"):
        setattr(of.sensitivity, name, getattr(of.sensitivity, name)[order])
    maker = Planner(of, invented.cost(of))
    for before, kl in zip(expected, (0.001, 0.01, 0.1), strict=True):
        assert within(maker, kl).terms == before.terms


def test_a_model_of_one_group() -> None:
    of = invented.profile(blocks=1)
    groups = {group(0, name) for name in ("o", "gate_up", "down")}
    only = without(invented.with_nats(of, invented.plain({}, rest=0.1)), *groups)
    maker = Planner(only, invented.cost(only))
    assert set(precisions(within(maker, 0.1))) == {QKV}
    assert within(maker, 0.01).terms == ()
