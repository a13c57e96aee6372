"""What is scored: a row is one thing that could be done to a model, alone.

A row's terms are done together: one group in one candidate; a fold pair; the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from fp8scope.core.gemms import Unit
from fp8scope.core.schemes import CANDIDATES, KV_CANDIDATES
from fp8scope.core.structure import Fold, KVLayer, Structure


class Part(StrEnum):
    """Which side of a GEMM is quantized."""

    BOTH = "both"
    WEIGHT = "weight"
    INPUT = "input"


class Term(NamedTuple):
    """A group (or a layer's KV cache) in one candidate.

    `alpha` is that of its own smoothing; `folded` that of its reader's, whose factors divide rows
    of this group's weights, or channels of the cached values. None without. Routed experts read
    each other: their `alpha` is both.
    """

    group: str
    candidate: str
    alpha: float | None = None
    folded: float | None = None
    part: Part = Part.BOTH


class Kind(StrEnum):
    """`group`: one term; `kv`: the cache of one layer; `pair`: a smoothed group with what it is
    folded into; `model`: every linear of the decoder blocks (and every cache).
    """

    GROUP = "group"
    KV = "kv"
    PAIR = "pair"
    MODEL = "model"


@dataclass(frozen=True)
class Row:
    """Terms that are done together."""

    kind: Kind
    terms: tuple[Term, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is its inverse."""
        return {"kind": str(self.kind), "terms": [term._asdict() for term in self.terms]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """Rebuild from `to_json`. Raises KeyError, TypeError or ValueError."""
        terms = (Term(**{**term, "part": Part(term["part"])}) for term in data["terms"])
        return cls(Kind(data["kind"]), tuple(terms))


@dataclass(frozen=True)
class Choices:
    """Which candidates to score, the α of those that smooth, and whether each side alone too."""

    candidates: tuple[str, ...]
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75)
    parts: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def rows(self, structure: Structure, units: Sequence[Unit]) -> list[Row]:
        """Every row, groups in module order, then caches, pairs and the whole model."""
        names = {unit.name: unit for unit in units}
        groups = {name: unit.name for unit in units for g in unit.gemms for name in g.members}
        caches = {
            cache: groups[fold.consumers[0]]
            for cache, fold in value_folds(structure).items()
            if fold.consumers[0] in groups
        }
        rows = [Row(Kind.GROUP, (term,)) for unit in units for term in self._terms(unit, names)]
        rows += [
            Row(Kind.KV, (Term(layer.group, candidate, folded=folded),))
            for layer in structure.kv_layers
            for candidate in KV_CANDIDATES
            for folded in (None, *self._folded(caches.get(layer.group), names))
        ]
        rows += self._pairs(units, names, caches)
        inside = [unit for unit in units if in_block(unit, structure)]
        return rows + list(self._whole_model(inside, names, structure.kv_layers))

    def _terms(self, unit: Unit, names: dict[str, Unit]) -> Iterator[Term]:
        """One group in every candidate, under every smoothing of its readers that matters."""
        for name in self.candidates:
            candidate = CANDIDATES[name]
            weight = candidate.weight
            for alpha in self._own(unit, candidate.smooth):
                folded: tuple[float | None, ...] = (None,)
                if unit.readers and weight and not weight.takes_row_factors:
                    theirs = self._folded(unit.readers[0], names)
                    folded += theirs if alpha is None else tuple(a for a in theirs if a == alpha)
                for other in folded:
                    term = Term(unit.name, name, alpha, other)
                    yield term
                    if self.parts and other is None and candidate.input and weight:
                        yield from (term._replace(part=p) for p in (Part.WEIGHT, Part.INPUT))

    def _own(self, unit: Unit, smooth: bool) -> tuple[float | None, ...]:
        if not smooth:
            return (None,)
        return self.alphas if unit.smoothable else ()

    def _folded(self, reader: str | None, names: dict[str, Unit]) -> tuple[float, ...]:
        """The α that the group `reader` may be smoothed with."""
        smooths = any(CANDIDATES[name].smooth for name in self.candidates)
        found = names.get(reader) if reader and smooths else None
        return self.alphas if found and found.smoothable else ()

    def _pairs(
        self, units: Sequence[Unit], names: dict[str, Unit], caches: dict[str, str]
    ) -> Iterator[Row]:
        if not {"fp8_tensor", "fp8_smooth"} <= set(self.candidates):
            return
        for unit in units:
            for reader in unit.readers:
                cached = [cache for cache, group in caches.items() if group == reader]
                for alpha in self._folded(reader, names):
                    terms = [
                        Term(unit.name, "fp8_tensor", folded=alpha),
                        Term(reader, "fp8_smooth", alpha),
                    ]
                    yield Row(Kind.PAIR, tuple(terms))
                    terms += [Term(cache, "fp8_tensor", folded=alpha) for cache in cached]
                    if cached:
                        yield Row(Kind.PAIR, tuple(terms))

    def _whole_model(
        self, units: Sequence[Unit], names: dict[str, Unit], layers: Iterable[KVLayer]
    ) -> Iterator[Row]:
        for name in self.candidates:
            if not CANDIDATES[name].smooth:
                yield Row(Kind.MODEL, tuple(Term(unit.name, name) for unit in units))
        if "fp8_tensor" in self.candidates:
            everything = [Term(unit.name, "fp8_tensor") for unit in units]
            alpha = self.alphas[len(self.alphas) // 2]
            smoothed = tuple(self._smoothed(unit, names, alpha) for unit in units)
            if any(term.alpha is not None for term in smoothed):
                yield Row(Kind.MODEL, smoothed)
            caches = [Term(layer.group, "fp8_tensor") for layer in layers]
            if caches:
                yield Row(Kind.MODEL, (*everything, *caches))

    def _smoothed(self, unit: Unit, names: dict[str, Unit], alpha: float) -> Term:
        """The group in FP8 where all that can be smoothed is."""
        own = alpha if alpha in self._folded(unit.name, names) else None
        folded = unit.readers and alpha in self._folded(unit.readers[0], names)
        name = "fp8_tensor" if own is None else "fp8_smooth"
        return Term(unit.name, name, own, alpha if folded else None)


def value_folds(structure: Structure) -> dict[str, Fold]:
    """For each layer's cache by its group name, the fold that divides what it receives: the values,
    or the latent (MLA), which is cached as its norm gives it.
    """
    linear = [fold for fold in structure.folds if fold.kind == "linear"]
    norms = {fold.consumers: fold for fold in structure.folds if fold.kind == "norm"}
    found: dict[str, Fold | None] = {}
    for layer in structure.kv_layers:
        for fold in linear:
            if fold.producer.startswith(f"{layer.attention}."):
                found[layer.group] = norms.get((fold.producer,)) if layer.latent_dim else fold
    return {cache: fold for cache, fold in found.items() if fold is not None}


def in_block(unit: Unit, structure: Structure) -> bool:
    """Whether a group is in a decoder block: lm_head stays as it is unless it is asked for."""
    first = unit.gemms[0].members[0]
    if structure.blocks:
        return any(first.startswith(f"{block}.") for block in structure.blocks)
    return first.rpartition(".")[2] not in ("lm_head", "embed_out", "output")
