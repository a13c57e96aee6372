"""From a profile's scores to the best choice under a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fp8scope.analyze.ratios import Nats
from fp8scope.analyze.scales import Scales
from fp8scope.analyze.sensitivity import Score, Scores
from fp8scope.core.choices import Term, in_block
from fp8scope.core.gemms import Unit, units
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.errors import BadInput
from fp8scope.plan.clusters import Rules, clusters
from fp8scope.plan.cost import BF16, Cost
from fp8scope.plan.objective import Limit, Objective, Preset, budget
from fp8scope.plan.problem import Problem, Way
from fp8scope.plan.range import Range
from fp8scope.plan.solver import solve
from fp8scope.profile.record import Profile


@dataclass(frozen=True)
class Asked:
    """What a person may ask for beside the objective.

    `excluded` groups stay in BF16, `kept` ones leave it, by group name. `cache`: KV caches in FP8;
    None is whichever serves the objective better. `pinned` is the precision of groups that a person
    has set by hand, which comes before all else. `notes` are for the person.
    """

    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    excluded: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    cache: bool | None = False
    notes: tuple[str, ...] = ()
    pinned: Mapping[str, str] = field(default_factory=dict)


class Sums(NamedTuple):
    """What ways come to: nats per token with those of each tag, µs of a step, bits per weight."""

    nats: Nats
    tags: Mapping[str, Nats]
    time_us: float
    bits: float


@dataclass(frozen=True)
class Choice:
    """A solved problem: the chosen way of each cluster.

    `under`: what it was solved for, of the problem alone; `nats` per token with those of each tag;
    `time_us` of a step; `bits` per weight of the linears that are decided on.
    """

    problem: Problem
    under: Objective
    ways: tuple[Way, ...]
    nats: Nats
    tags: Mapping[str, Nats]
    time_us: float
    bits: float

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is quantized."""
        return tuple(term for way in self.ways for term in way.terms)

    @property
    def sums(self) -> Sums:
        """Its numbers."""
        return Sums(self.nats, self.tags, self.time_us, self.bits)

    @property
    def kl(self) -> float:
        """Predicted KL in nats per token."""
        return self.nats.kl

    @property
    def error(self) -> float:
        """Its standard error."""
        return self.nats.error


class Planner:
    """Plans from one profile. Raises BadInput for one without sensitivity.

    `decided` are the fused groups that a plan decides on: not lm_head, unless it is to be kept in
    FP8. Of these, `unseen` were reached by no text, and stay in BF16.
    """

    def __init__(self, profile: Profile, cost: Cost, asked: Asked | None = None) -> None:
        if profile.sensitivity is None:
            raise BadInput(
                "the profile holds no sensitivity, which a plan is made from",
                "scan again without --sensitivity none",
            )
        self.profile, self.cost = profile, cost
        self.scores = Scores(profile)
        self.scales = Scales(profile)
        in_range = Range(profile, self.scales)
        terms = self.scores.terms()
        finite = np.isfinite(self.scores.nats.sum(axis=1)).tolist()
        self.rows = {t: i for t, i in terms.items() if finite[i] and in_range.holds(t)}
        self._scored = {term.group for term in terms}
        self._problems: dict[tuple[frozenset[str], Rules], Problem] = {}
        self._decide(asked or Asked())

    def under(self, asked: Asked) -> Planner:
        """The same with other wishes; nothing is read from the profile again."""
        other = copy(self)
        other._decide(asked)
        return other

    def _decide(self, asked: Asked) -> None:
        self.asked = asked
        every = units(self.profile.structure)
        self.decided: tuple[Unit, ...] = tuple(
            unit
            for unit in every
            if in_block(unit, self.profile.structure) or unit.name in asked.kept
        )
        self.left_out = tuple(unit for unit in every if unit not in self.decided)
        self.unseen = frozenset(u.name for u in self.decided if u.name not in self._scored)
        self.elements = sum(map(self.cost.elements, self.decided))
        self.fixed_us = sum(self.cost.time_us(unit, BF16) for unit in self.left_out)
        """Time of what stays in BF16 anyway."""

    def choose(self, objective: Objective) -> Choice:
        """The best choice. Raises BadInput where the limit cannot be kept."""
        caches = (False, True) if self.asked.cache is None else (self.asked.cache,)
        problems = [self.problem(cache) for cache in caches if self._can(cache)]
        found = [choice for choice in (self._best(p, objective) for p in problems) if choice]
        if not found:
            raise self._impossible(problems, objective)
        if objective.limit is Limit.KL:
            return min(found, key=lambda choice: choice.time_us)
        return min(found, key=lambda choice: choice.nats.kl)

    def budget(self, preset: Preset) -> float:
        """The KL budget of a preset, in nats per token. It is the same whichever candidates are
        allowed and whatever is excluded, and FP8 caches have to fit into it.
        """
        free = self._problem(Rules(DEFAULT_CANDIDATES, self.unseen, frozenset(), cache=False))
        return budget(preset, free.ways, self.problem(cache=False).ways)

    def bits(self, per_weight: float) -> Objective:
        """At most so many bits per weight, over all groups that are decided on."""
        return Objective(Limit.BITS, per_weight * self.elements)

    def problem(self, cache: bool) -> Problem:
        """What there is to choose from, with KV caches in FP8 or without."""
        return self._problem(self.rules(cache))

    def rules(self, cache: bool) -> Rules:
        """What was asked for, with KV caches in FP8 or without."""
        asked = self.asked
        bf16 = (asked.excluded | self.unseen) - asked.kept
        return Rules(asked.candidates, bf16, asked.kept, cache, asked.pinned)

    def score(self, term: Term) -> Score:
        """The score of a group or cache alone. Raises KeyError for what cannot be had."""
        return self.scores.of(self.scores.rows[self.rows[term]])

    def _problem(self, rules: Rules) -> Problem:
        key = self.asked.kept, rules
        if key in self._problems:
            return self._problems[key]
        found = clusters(self.profile.structure, self.decided, self.rows, rules)
        for cluster in found:
            if not cluster.ways:
                names = ", ".join(unit.name for unit in cluster.units)
                raise BadInput(
                    f"{names}: nothing that was scored fits what is asked",
                    "take back a --keep, or scan with more text or --candidates",
                )
        self._problems[key] = Problem.of(found, self.scores, self.cost)
        return self._problems[key]

    def everything_us(self, candidate: str) -> float:
        """Time of a step with all that is decided on in one candidate, the caches in BF16."""
        caches = self.profile.structure.kv_layers
        linears = sum(self.cost.time_us(unit, candidate) for unit in self.decided)
        return linears + sum(self.cost.cache_us(cache, BF16) for cache in caches) + self.fixed_us

    def _can(self, cache: bool) -> bool:
        """Whether every cache was scored; asked for in vain, this is refused."""
        layers = self.profile.structure.kv_layers
        scored = {term.group for term in self.rows}
        if not cache or (layers and all(layer.group in scored for layer in layers)):
            return True
        if self.asked.cache:
            raise BadInput("the KV cache was not scored", "plan with --kv-cache bf16")
        return False

    def _best(self, problem: Problem, objective: Objective) -> Choice | None:
        fixed = self.fixed_us if objective.limit is Limit.TIME else 0.0
        under = Objective(objective.limit, objective.value - fixed)
        numbers = solve(problem.ways, under)
        if numbers is None:
            return None
        ways = tuple(own[number] for own, number in zip(problem.ways, numbers, strict=True))
        return Choice(problem, under, ways, *self.sums(ways))

    def sums(self, ways: Sequence[Way]) -> Sums:
        """What one way of each cluster comes to."""
        rows = [self.rows[term] for way in ways for term in way.terms]
        return Sums(
            *self.scores.together(rows),
            time_us=sum(way.time_us for way in ways) + self.fixed_us,
            bits=sum(way.bits for way in ways) / self.elements,
        )

    def _impossible(self, problems: list[Problem], objective: Objective) -> BadInput:
        least = min(
            sum(min(getattr(way, objective.limit) for way in own) for own in problem.ways)
            for problem in problems
        )
        asked, remedy = objective.value, "raise the limit"
        if objective.limit is Limit.BITS:
            what = f"{asked / self.elements:.3g} bits per weight cannot be had"
            what += f": FP8 wherever it may be takes {least / self.elements:.3g}"
        elif objective.limit is Limit.KL:
            what = f"{asked:.3g} nats per token cannot be had: the least is {least:.3g}"
            remedy = "raise --max-kl"
            remedy += ", or take back a --keep" if self.asked.kept else ""
            remedy += ", or leave the KV cache in BF16" if self.asked.cache else ""
            remedy += ", or release what is pinned" if self.asked.pinned else ""
        else:
            least += self.fixed_us
            what = f"a step in {asked:.4g} µs cannot be had: the least is {least:.4g} µs"
        return BadInput(what, remedy)
