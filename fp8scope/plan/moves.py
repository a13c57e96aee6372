"""Every way that a cluster could run, whether worth having or not, and the nearest to the present.

The solver chooses among few ways (`plan.problem`). A person may ask for any that was scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fp8scope.artefacts.plan import Precision
from fp8scope.core.choices import Term
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.plan.changes import by_group, candidate
from fp8scope.plan.clusters import Cluster, Rules, Terms, clusters
from fp8scope.plan.planner import Planner
from fp8scope.plan.problem import Prices, Way

PRECISIONS: tuple[Precision, ...] = ("fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth", "bf16")


@dataclass(frozen=True)
class _Tied:
    """One cluster: its ways with KV caches in BF16, and in FP8 (none where none was scored)."""

    cluster: Cluster
    prices: Prices
    ways: tuple[Terms, ...]
    cached: tuple[Terms, ...]

    def bare(self, terms: Terms) -> Terms:
        """Without those of the KV caches."""
        caches = {cache.group for cache in self.cluster.caches}
        return tuple(term for term in terms if term.group not in caches)

    @cached_property
    def same(self) -> tuple[Mapping[Terms, list[Terms]], Mapping[Terms, list[Terms]]]:
        """The ways without and with KV caches in FP8, by what they are beside those."""
        found: tuple[dict[Terms, list[Terms]], dict[Terms, list[Terms]]] = {}, {}
        for ways, own in zip((self.ways, self.cached), found, strict=True):
            for terms in ways:
                own.setdefault(self.bare(terms), []).append(terms)
        return found

    def beside(self, terms: Terms) -> tuple[Terms, ...]:
        """The ways with the KV caches as these terms have them."""
        caches = {cache.group for cache in self.cluster.caches}
        return self.cached if any(term.group in caches for term in terms) else self.ways


class Moves:
    """The clusters of a planner, in its order. Units that no text reached stay in BF16."""

    def __init__(self, planner: Planner) -> None:
        structure = planner.profile.structure
        free = Rules(DEFAULT_CANDIDATES, planner.unseen, frozenset(), cache=False)
        cached = Rules(DEFAULT_CANDIDATES, planner.unseen, frozenset(), cache=True)
        self._tied = [
            _Tied(one, Prices(one, planner.cost), one.ways, other.ways)
            for one, other in zip(
                *(clusters(structure, planner.decided, planner.rows, r) for r in (free, cached)),
                strict=True,
            )
        ]
        self._scores, self._rows = planner.scores, planner.rows
        kl = planner.scores.nats @ planner.scores.weights()
        self.kl: Mapping[Term, float] = {t: float(kl[row]) for t, row in planner.rows.items()}
        """Nats per token of each term alone."""
        self.cluster_of = {
            name: number for number, tied in enumerate(self._tied) for name in _names(tied.cluster)
        }
        self.caches_known = all(tied.cached for tied in self._tied if tied.cluster.caches)

    def cluster(self, name: str) -> Cluster:
        """That of a group or cache. Raises KeyError for what is not decided on."""
        return self._tied[self.cluster_of[name]].cluster

    def way(self, number: int, terms: Terms) -> Way:
        """A cluster's way with its numbers."""
        kl = sum(self.kl[term] for term in terms)
        return Way(terms, kl, *self._tied[number].prices.of(terms))

    def split(self, terms: Collection[Term]) -> list[Way] | None:
        """The way of each cluster that together have just these terms; None where one of the terms
        was not scored, or they do not go together.
        """
        own: list[set[Term]] = [set() for _ in self._tied]
        for term in terms:
            if term.group not in self.cluster_of:
                return None
            own[self.cluster_of[term.group]].add(term)
        found = []
        for number, (tied, wanted) in enumerate(zip(self._tied, own, strict=True)):
            every = (*tied.ways, *tied.cached)
            same = next((terms for terms in every if set(terms) == wanted), None)
            if same is None:
                return None
            found.append(self.way(number, same))
        return found

    def precisions(self, name: str, way: Way) -> tuple[Precision, ...]:
        """Those that a group can have, with the KV caches as `way` of its cluster has them."""
        tied = self._tied[self.cluster_of[name]]
        found = {candidate(by_group(terms), name) for terms in tied.beside(way.terms)}
        return tuple(each for each in PRECISIONS if each in found)

    def with_caches(
        self, ways: Sequence[Way], cache: bool, pins: Collection[str]
    ) -> tuple[Way, ...]:
        """The same with every KV cache in FP8 or none, otherwise as near as can be."""
        found = []
        for number, (tied, way) in enumerate(zip(self._tied, ways, strict=True)):
            if not tied.cluster.caches:
                found.append(way)
                continue
            same = tied.same[cache].get(tied.bare(way.terms))
            every = same or (tied.cached if cache else tied.ways)
            found.append(self._nearest(number, way, {}, pins, every) or way)
        return tuple(found)

    def nearest(
        self, number: int, way: Way, wanted: Mapping[str, str], pins: Collection[str]
    ) -> Way | None:
        """Of the ways with the precisions that are wanted of some groups, the nearest to `way`.

        In this order: pins are kept, groups stay in FP8 or in BF16, keep their precision, and their
        α; nothing is folded that need not be; then the least KL, by which α is chosen.
        """
        return self._nearest(number, way, wanted, pins, self._tied[number].beside(way.terms))

    def _nearest(
        self,
        number: int,
        way: Way,
        wanted: Mapping[str, str],
        pins: Collection[str],
        every: Sequence[Terms],
    ) -> Way | None:
        tied = self._tied[number]
        names = [unit.name for unit in tied.cluster.units if unit.name not in wanted]
        before = by_group(way.terms)
        alphas = {name: before[name].alpha for name in names if name in before}
        best: tuple[tuple[float, ...], Terms] | None = None
        for terms in every:
            after = by_group(terms)
            if any(candidate(after, name) != precision for name, precision in wanted.items()):
                continue
            moved = [name for name in names if candidate(after, name) != candidate(before, name)]
            distance = (
                sum(name in pins for name in moved),
                sum((name in after) != (name in before) for name in moved),
                len(moved),
                sum(term.alpha != alphas.get(term.group, term.alpha) for term in terms),
                sum(term.folded is not None for term in terms),
                sum(self.kl[term] for term in terms),
            )
            if best is None or distance < best[0]:
                best = distance, terms
        return None if best is None else self.way(number, best[1])


def _names(cluster: Cluster) -> list[str]:
    return [unit.name for unit in cluster.units] + [cache.group for cache in cluster.caches]
