"""What can be decided together only: groups tied by smoothing, and every way to run them.

A smoothing factor divides what one module writes and multiplies what others read, whatever runs in
FP8. So a fold has one α, or none, for all that it touches: a consumer runs smoothed with it or in
BF16, and a producer's rows are those under it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from fp8scope.core.choices import Term, value_folds
from fp8scope.core.gemms import Unit
from fp8scope.core.schemes import CANDIDATES
from fp8scope.core.structure import Fold, KVLayer, Structure
from fp8scope.plan.cost import BF16

PLAIN = "fp8_tensor"

Terms = tuple[Term, ...]
Alphas = Mapping[Fold | None, float | None]


@dataclass(frozen=True)
class Cluster:
    """Units and KV caches that folds tie together, in module order, and those folds.

    `ways` are the distinct sets of terms that were scored, at most one term per unit: a unit
    without one stays in BF16. The caches are all quantized or none is.
    """

    units: tuple[Unit, ...]
    caches: tuple[KVLayer, ...]
    folds: tuple[Fold, ...]
    ways: tuple[Terms, ...]


@dataclass(frozen=True)
class Rules:
    """What a plan may use: candidates by name; units that must not, or must, leave BF16; whether KV
    caches are in FP8; and the precision of units that are pinned, whatever else is said.
    """

    candidates: tuple[str, ...]
    bf16: frozenset[str]
    fp8: frozenset[str]
    cache: bool
    pinned: Mapping[str, str] = field(default_factory=dict, hash=False)

    def allowed(self, name: str) -> tuple[str, ...]:
        """The precisions that a unit may run in."""
        if name in self.pinned:
            return (self.pinned[name],)
        fp8 = () if name in self.bf16 else self.candidates
        return fp8 if name in self.fp8 else (BF16, *fp8)


def clusters(
    structure: Structure, units: Sequence[Unit], scored: Collection[Term], rules: Rules
) -> list[Cluster]:
    """Every cluster, in module order. `scored`: the terms whose KL is known.

    A cluster has no way where a unit that must be in FP8 was scored in no candidate.
    """
    values, found = value_folds(structure), []
    for own, caches, folds in _tied(structure, units, values):
        stores = {cache.group: values.get(cache.group) for cache in caches}
        ways = tuple(dict.fromkeys(_ways(own, stores, folds, scored, rules)))
        found.append(Cluster(own, caches, folds, ways))
    return found


def folds_of(
    terms: Iterable[Term], units: Mapping[str, Unit], values: Mapping[str, Fold]
) -> dict[Fold, float]:
    """The folds that terms ask for, with their α.

    `units` by group; `values`: the fold that divides what a cache receives, by the cache's group.
    """
    found: dict[Fold, float] = {}
    for term in terms:
        unit = units.get(term.group)
        for gemm in unit.gemms if unit else ():
            if term.alpha is not None and gemm.input_fold:
                found[gemm.input_fold] = term.alpha
            if term.folded is not None and not gemm.experts:
                found.update(dict.fromkeys(gemm.output_folds.values(), term.folded))
        if term.folded is not None and term.group in values:
            found[values[term.group]] = term.folded
    return found


def _tied(
    structure: Structure, units: Sequence[Unit], values: Mapping[str, Fold]
) -> Iterator[tuple[tuple[Unit, ...], tuple[KVLayer, ...], tuple[Fold, ...]]]:
    """Connected components of units by the folds between them."""
    owner = {name: unit.name for unit in units for gemm in unit.gemms for name in gemm.members}
    folds = [fold for fold in structure.folds if fold.takes_factors]
    touched = {
        fold: {owner[name] for name in (fold.producer, *fold.consumers) if name in owner}
        for fold in folds
    }
    parts: list[set[str]] = [{unit.name} for unit in units]
    for names in touched.values():
        joined = [part for part in parts if part & names]
        parts = [part for part in parts if not part & names]
        if joined:
            parts.append(set().union(*joined))
    part_of = {name: number for number, part in enumerate(parts) for name in part}
    homes = {layer.group: _home(layer, values, owner) for layer in structure.kv_layers}
    seen = set()
    for unit in units:
        number = part_of[unit.name]
        if number in seen:
            continue
        seen.add(number)
        part = parts[number]
        yield (
            tuple(other for other in units if other.name in part),
            tuple(layer for layer in structure.kv_layers if homes[layer.group] in part),
            tuple(fold for fold in folds if touched[fold] and touched[fold] <= part),
        )


def _home(layer: KVLayer, values: Mapping[str, Fold], owner: Mapping[str, str]) -> str | None:
    """A unit that a cache is decided with: one that its fold touches, or else of its attention."""
    fold = values.get(layer.group)
    touched = (fold.producer, *fold.consumers) if fold else ()
    inside = (name for name in owner if name.startswith(f"{layer.attention}."))
    return next((owner[name] for name in (*touched, *inside) if name in owner), None)


def _ways(
    units: Sequence[Unit],
    stores: Mapping[str, Fold | None],
    folds: Sequence[Fold],
    scored: Collection[Term],
    rules: Rules,
) -> Iterator[Terms]:
    alphas = sorted({term.alpha for term in scored if term.alpha is not None})
    names = {name for unit in units for name in rules.allowed(unit.name) if name != BF16}
    offered = alphas if any(CANDIDATES[name].smooth for name in names) else []
    for values in product((None, *offered), repeat=len(folds)):
        chosen: Alphas = dict(zip(folds, values, strict=True))
        choices = [list(_of_unit(unit, chosen, scored, rules)) for unit in units]
        stored = [
            Term(cache, PLAIN, folded=chosen.get(fold))
            for cache, fold in stores.items()
            if rules.cache
        ]
        if all(term in scored for term in stored):
            for terms in product(*choices):
                yield tuple(term for term in (*terms, *stored) if term)


def _of_unit(
    unit: Unit, alphas: Alphas, scored: Collection[Term], rules: Rules
) -> Iterator[Term | None]:
    """The terms that a unit may be in under these α; None is BF16."""
    allowed = rules.allowed(unit.name)
    if BF16 in allowed:
        yield None
    own = {alphas.get(gemm.input_fold) for gemm in unit.gemms}
    rows = {alphas.get(fold) for gemm in unit.gemms for fold in gemm.output_folds.values()}
    stacked = any(gemm.experts for gemm in unit.gemms)
    if len(own) > 1 or len(rows) > 1:
        return  # neither smoothed nor not
    alpha, folded = own.pop(), None if stacked or not rows else rows.pop()
    for name in allowed:
        if name == BF16:
            continue
        candidate = CANDIDATES[name]
        if candidate.smooth != (alpha is not None):
            continue
        weight = candidate.weight
        matters = weight is not None and not weight.takes_row_factors
        term = Term(unit.name, name, alpha, folded if matters else None)
        if term in scored:
            yield term
