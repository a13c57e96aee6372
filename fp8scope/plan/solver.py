"""The best way for every cluster under one limit: a multiple-choice knapsack, solved exactly.

Dynamic programming over clusters, with dominance and bounds (Nemhauser and Ullmann 1969; Sinha and
Zoltners 1979). A state is what the clusters so far use up of the limit, and what they are worth. It
is dropped where another uses no more and is worth as much, and where the rest, even in fractions,
cannot make it better than the best plan that is known. Layers of one shape have equal times and
bits, so that few states differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fp8scope.plan.objective import Limit, Objective
from fp8scope.plan.problem import Way

Float64 = NDArray[np.float64]
Intp = NDArray[np.intp]

SAME = 1e-12
"""Relative difference of sums that is rounding."""
SECOND = 1e-8
"""Weight of what comes second: of plans that are equally good in the first, the better."""
MINIMISED = {
    Limit.KL: (Limit.TIME, Limit.KL),
    Limit.BITS: (Limit.KL, Limit.TIME),
    Limit.TIME: (Limit.KL, Limit.TIME),
}
"""What comes first and second, by what is limited."""


def solve(
    ways: Sequence[Sequence[Way]], objective: Objective, *, gap: float = 0.0
) -> list[int] | None:
    """For each cluster the number of its way; None where the limit cannot be kept.

    gap: how far from the best it may be, as a share of the range of what is minimised.
    """
    first, second = MINIMISED[objective.limit]
    used = _scaled(ways, objective.limit, objective.value)
    values = [
        a + SECOND * b for a, b in zip(_scaled(ways, first), _scaled(ways, second), strict=True)
    ]
    if sum(float(own.min()) for own in used) > 1 + SAME:
        return None
    order = np.argsort([-float(np.ptp(own)) for own in values], kind="stable")
    found = _search([used[i] for i in order], [values[i] for i in order], gap)
    chosen = [0] * len(ways)
    for cluster, way in zip(order, found, strict=True):
        chosen[cluster] = way
    return chosen


def _scaled(ways: Sequence[Sequence[Way]], of: Limit, limit: float | None = None) -> list[Float64]:
    """One measure of every way by cluster, in shares of the limit, or of the most there can be."""
    table = [np.array([getattr(way, of) for way in own], np.float64) for own in ways]
    whole = limit if limit is not None else sum(float(own.max()) for own in table)
    if whole > 0:
        return [own / whole for own in table]
    return [np.where(own > 0, np.inf, 0.0) if limit is not None else own for own in table]


@dataclass(frozen=True)
class _States:
    """`used` rises, `value` falls. Each came from a `parent` of the cluster before, by a `way`."""

    used: Float64
    value: Float64
    parent: Intp
    way: Intp


def _search(used: Sequence[Float64], values: Sequence[Float64], gap: float) -> list[int]:
    rest = _Rest(used, values)
    best, chosen = rest.greedy()
    states = [_States(np.zeros(1), np.zeros(1), np.zeros(1, np.intp), np.zeros(1, np.intp))]
    for cluster, (costs, gains) in enumerate(zip(used, values, strict=True)):
        known = states[-1]
        parent, way = np.divmod(np.arange(len(known.used) * len(costs)), len(costs))
        total, value = known.used[parent] + costs[way], known.value[parent] + gains[way]
        least = value + rest.least(cluster + 1, 1 - total)
        kept = np.flatnonzero((total <= 1 + SAME) & (least < best - max(SAME, gap)))
        kept = kept[_undominated(total[kept], value[kept])]
        states.append(_States(total[kept], value[kept], parent[kept], way[kept]))
        if not len(kept):
            return chosen  # nothing is better than what was found at first
    return _path(states)


def _undominated(used: Float64, value: Float64) -> Intp:
    """Places of the states that no other beats, by rising use."""
    order = np.lexsort((value, np.round(used / SAME) if used.size else used))
    before = np.minimum.accumulate(np.concatenate(([np.inf], value[order])))[:-1]
    found: Intp = order[value[order] < before - SAME]
    return found


def _path(states: Sequence[_States]) -> list[int]:
    """The ways of the last state, which is worth most."""
    found, at = [], len(states[-1].used) - 1
    for state in reversed(states[1:]):
        found.append(int(state.way[at]))
        at = int(state.parent[at])
    return found[::-1]


class _Rest:
    """What the clusters from one on are worth at least, were ways divisible.

    Every cluster starts at its cheapest way and goes along the corners of its convex hull; the
    best steps of all come first.
    """

    def __init__(self, used: Sequence[Float64], values: Sequence[Float64]) -> None:
        corners = [_corners(*pair) for pair in zip(used, values, strict=True)]
        self._used, self._values, self._corners = used, values, corners
        steps = [
            (
                cluster,
                number,
                used[cluster][b] - used[cluster][a],
                values[cluster][b] - values[cluster][a],
            )
            for cluster, own in enumerate(corners)
            for number, (a, b) in enumerate(pairwise(own), start=1)
        ]
        steps.sort(key=lambda step: (step[3] / step[2], step[0], step[1]))
        self._cluster = np.array([step[0] for step in steps], np.intp)
        self._number = [step[1] for step in steps]
        self._cost = np.array([step[2] for step in steps], np.float64)
        self._gain = np.array([step[3] for step in steps], np.float64)
        starts = [own[0] for own in corners]
        self._start_used = np.array([own[i] for own, i in zip(used, starts, strict=True)])
        self._start_value = np.array([own[i] for own, i in zip(values, starts, strict=True)])

    def least(self, cluster: int, room: Float64) -> Float64:
        """A bound on the value of the clusters from `cluster` on, within each `room`."""
        mine = self._cluster >= cluster
        first_used = float(self._start_used[cluster:].sum())
        first_value = float(self._start_value[cluster:].sum())
        at = first_used + np.concatenate(([0.0], np.cumsum(self._cost[mine])))
        value = first_value + np.concatenate(([0.0], np.cumsum(self._gain[mine])))
        found: Float64 = np.interp(room, at, value)
        return np.where(room < first_used - SAME, np.inf, found)

    def greedy(self) -> tuple[float, list[int]]:
        """A plan: every best step that still fits. Its value, and the ways."""
        room = 1 + SAME - float(self._start_used.sum())
        at = [0] * len(self._corners)
        for cluster, number, cost in zip(self._cluster, self._number, self._cost, strict=True):
            if number == at[cluster] + 1 and cost <= room:
                at[cluster] = number
                room -= float(cost)
        chosen = [int(own[i]) for own, i in zip(self._corners, at, strict=True)]
        return sum(float(v[i]) for v, i in zip(self._values, chosen, strict=True)), chosen


def _corners(used: Float64, value: Float64) -> list[int]:
    """Ways on the lower convex hull of (used, value), by rising use and falling value."""
    hull: list[int] = []
    for i in np.lexsort((value, used)):
        if hull and value[i] >= value[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (value[b] - value[a]) * (used[i] - used[a]) < (value[i] - value[a]) * (
                used[b] - used[a]
            ):
                break
            hull.pop()
        hull.append(int(i))
    return hull
