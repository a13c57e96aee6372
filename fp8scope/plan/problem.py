"""The choice as numbers: for each cluster the ways worth having, with KL, time and bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.sensitivity import Scores
from fp8scope.core.choices import Term, value_folds
from fp8scope.core.structure import Fold
from fp8scope.plan.clusters import PLAIN, Cluster, Terms, folds_of
from fp8scope.plan.cost import BF16, BF16_BITS, FP8_BITS, Cost

Float64 = NDArray[np.float64]

BETTER_BY, BETTER_ERRORS = 0.25, 2.0
"""What is not plain FP8 must save a quarter of the KL, and two standard errors: below that it is
noise, and every remedy makes a checkpoint harder to serve."""
DRAWS = 200
FOLDED = (PLAIN, "fp8_smooth")
"""What is one static scale per tensor after folding."""


class Way(NamedTuple):
    """One way to run a cluster: its terms, nats per token, µs of a step, bits of its weights."""

    terms: Terms
    kl: float
    time_us: float
    bits: float


@dataclass(frozen=True)
class Problem:
    """Clusters, the ways of each, and the KL of each way in each of `DRAWS` resamples.

    `ways[c]` and `drawn[c]` [draws, ways] belong to `clusters[c]`. Ways are the Pareto front of
    (KL, time, bits): none is as good as another in one and worse in none.
    """

    clusters: Sequence[Cluster]
    ways: Sequence[Sequence[Way]]
    drawn: Sequence[Float64]

    @classmethod
    def of(cls, found: Sequence[Cluster], scores: Scores, cost: Cost) -> Problem:
        """Ways that are not worth having are left out."""
        rows, rng = scores.terms(), np.random.default_rng(0)
        values = value_folds(cost.structure)
        kl = scores.nats @ scores.weights()
        with np.errstate(invalid="ignore"):  # rows that are infinite are in no way
            draws = scores.nats @ np.stack([scores.weights(rng) for _ in range(DRAWS)], axis=1)
        ways, drawn = [], []
        for cluster in found:
            prices = Prices(cluster, cost)
            own, resampled = [], []
            for terms in cluster.ways:
                chosen = [rows[term] for term in terms]
                own.append(Way(terms, float(kl[chosen].sum()), *prices.of(terms)))
                resampled.append(draws[chosen].sum(axis=0))
            together = np.array(resampled).reshape(len(own), DRAWS).T
            kept = _worth(cluster, values, own, together)
            kept = [kept[i] for i in _front([own[i] for i in kept])]
            ways.append([own[i] for i in kept])
            drawn.append(together[:, kept])
        return cls(found, ways, drawn)

    def resampled(self, draw: int) -> list[list[Way]]:
        """The ways with the KL of one resample."""
        return [
            [way._replace(kl=float(kl)) for way, kl in zip(ways, drawn[draw], strict=True)]
            for ways, drawn in zip(self.ways, self.drawn, strict=True)
        ]


class Prices:
    """µs and bits of a cluster's ways."""

    def __init__(self, cluster: Cluster, cost: Cost) -> None:
        self._cluster = cluster
        self._cost = cost
        self._times: dict[tuple[str, str], float] = {}

    def of(self, terms: Terms) -> tuple[float, float]:
        """Of one way, given its terms."""
        by_group: Mapping[str, Term] = {term.group: term for term in terms}
        time = bits = 0.0
        for unit in self._cluster.units:
            term = by_group.get(unit.name)
            name = term.candidate if term else BF16
            if (unit.name, name) not in self._times:
                self._times[unit.name, name] = self._cost.time_us(unit, name)
            time += self._times[unit.name, name]
            bits += self._cost.elements(unit) * (FP8_BITS if term else BF16_BITS)
        for cache in self._cluster.caches:
            name = PLAIN if cache.group in by_group else BF16
            time += self._cost.cache_us(cache, name)
        return time, bits


def _worth(
    cluster: Cluster, values: Mapping[str, Fold], ways: Sequence[Way], drawn: Float64
) -> list[int]:
    """Those of which every remedy pays: better beyond doubt than each simpler one.

    A remedy is a fold that takes factors, whatever its α, or a group that runs in neither plain FP8
    nor smoothed. A simpler way has the same groups in FP8, and some of the remedies.
    """
    units = {unit.name: unit for unit in cluster.units}
    by_groups: dict[frozenset[str], list[int]] = {}
    remedies: list[frozenset[object]] = []
    for i, way in enumerate(ways):
        by_groups.setdefault(frozenset(term.group for term in way.terms), []).append(i)
        scaled = [(t.group, t.candidate) for t in way.terms if t.candidate not in FOLDED]
        remedies.append(frozenset([*folds_of(way.terms, units, values), *scaled]))
    kept = []
    for same in by_groups.values():
        for i in same:
            simpler = [j for j in same if remedies[j] < remedies[i]]
            if _better(ways, drawn, i, simpler):
                kept.append(i)
    return sorted(kept)


def _better(ways: Sequence[Way], drawn: Float64, i: int, others: Sequence[int]) -> bool:
    """Whether a way is better beyond doubt than each of the others."""
    kl = np.array([ways[j].kl for j in others])
    error = (drawn[:, others] - drawn[:, i, None]).std(axis=0)
    saved = kl - ways[i].kl
    return bool((saved > np.maximum(BETTER_BY * kl, BETTER_ERRORS * error)).all())


def _front(ways: Sequence[Way]) -> list[int]:
    """Places of those that no other beats; the first of equals."""
    table = np.array([way[1:] for way in ways]).reshape(len(ways), 3)
    kept: list[int] = []
    for i, row in enumerate(table):
        better = (table <= row).all(axis=1) & (table < row).any(axis=1)
        equal_before = (table[:i] == row).all(axis=1)
        if not better.any() and not equal_before.any():
            kept.append(i)
    return kept
