"""How often a group is as planned in resamples, and what takes its place."""

from __future__ import annotations

import numpy as np
import pytest

from fp8scope.analyze.ratios import Nats
from fp8scope.core.choices import Term
from fp8scope.core.gemms import Unit
from fp8scope.plan.certainty import certainty
from fp8scope.plan.clusters import PLAIN, Cluster
from fp8scope.plan.objective import Limit, Objective
from fp8scope.plan.planner import Choice
from fp8scope.plan.problem import DRAWS, Problem, Way

NAMES = ("up", "down", "gate", "o")
BF16, FP8 = 16.0, 8.0


def cluster(name: str, kl: float, weights: int) -> tuple[Cluster, list[Way]]:
    """One group by itself: in BF16, or in plain FP8 at `kl`."""
    term = Term(name, PLAIN)
    ways = [Way((), 0.0, 2.0, weights * BF16), Way((term,), kl, 1.0, weights * FP8)]
    return Cluster((Unit(name, (), ()),), (), (), tuple(way.terms for way in ways)), ways


def test_equal_ties_are_in_module_order() -> None:
    """`large` may stay in BF16, or the four others: in every fourth resample they are worse."""
    rows = [cluster("large", 8, 4), *(cluster(name, 1, 1) for name in NAMES)]
    clusters, ways = zip(*rows, strict=True)
    drawn = [np.tile([way.kl for way in own], (DRAWS, 1)) for own in ways]
    for own in drawn[1:]:
        own[::4, 1] = 3
    chosen = (ways[0][0], *(own[1] for own in ways[1:]))
    under = Objective(Limit.BITS, 4 * FP8 + 4 * BF16)
    found = certainty(Choice(Problem(clusters, ways, drawn), under, chosen, Nats(0, 0), {}, 0, 0))
    assert found.draws == DRAWS
    assert found.groups["large"].ties == NAMES
    assert {found.groups[name].ties for name in NAMES} == {("large",)}
    for name in ("large", *NAMES):
        assert found.groups[name].share == pytest.approx(0.75), name
