"""How sure a plan is of each precision: the same plan again, from sequences drawn anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fp8scope.core.choices import Term
from fp8scope.plan.planner import Choice
from fp8scope.plan.problem import DRAWS, Way
from fp8scope.plan.solver import solve

LEAST_DRAWS, MOST_CLUSTERS = 25, 16000
"""A larger model is solved fewer times, so that this takes seconds."""
NEARLY = 1e-5
"""As good as the best, for a resample."""
NEAR = 0.2
"""A group that takes another's place in this share of the resamples is a near-tie."""


@dataclass(frozen=True)
class Certainty:
    """Of one group: the share of resamples in which it is as in the plan (in BF16, or in FP8).

    `ties`: groups that differ from the plan in BF16 where this one does, in `NEAR` of all
    resamples or more, the most frequent first.
    """

    share: float
    ties: tuple[str, ...]


@dataclass(frozen=True)
class Resampled:
    """`groups` by name; `draws` is the number of resamples that could be solved, 0 where a single
    sequence was scored, which tells nothing.
    """

    draws: int
    groups: Mapping[str, Certainty]


def certainty(choice: Choice) -> Resampled:
    """Solve the problem of a choice for each of its resamples."""
    problem = choice.problem
    draws = max(LEAST_DRAWS, min(DRAWS, MOST_CLUSTERS // len(problem.clusters)))
    names = [unit.name for cluster in problem.clusters for unit in cluster.units]
    here, changes = _quantized(choice.ways), []
    varied = any(drawn.std(axis=0).any() for drawn in problem.drawn)
    for draw in range(draws if varied else 0):
        ways = problem.resampled(draw)
        numbers = solve(ways, choice.under, gap=NEARLY)
        if numbers is not None:
            chosen = [own[number] for own, number in zip(ways, numbers, strict=True)]
            changes.append(_quantized(chosen) ^ here)
    return Resampled(len(changes), {name: _of(name, names, changes, here) for name in names})


def _quantized(ways: Sequence[Way]) -> set[str]:
    """The groups that are in FP8."""
    terms: list[Term] = [term for way in ways for term in way.terms]
    return {term.group for term in terms}


def _of(name: str, names: Sequence[str], changes: Sequence[set[str]], here: set[str]) -> Certainty:
    """Ties are groups that move the other way in the same resample; of equals in module order."""
    mine = [changed for changed in changes if name in changed]
    moved = Counter(
        other for changed in mine for other in changed if (other in here) != (name in here)
    )
    near = [other for other in names if moved[other] >= max(NEAR * len(changes), 1)]
    ties = sorted(near, key=lambda other: -moved[other])
    return Certainty(1 - len(mine) / max(len(changes), 1), tuple(ties))
