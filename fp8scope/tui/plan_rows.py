"""One row for each fused group of the living plan, and one for the KV caches of all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fp8scope.artefacts.plan import Precision
from fp8scope.core.choices import Term
from fp8scope.core.words import short_name
from fp8scope.plan.changes import by_group, precision_words
from fp8scope.plan.cost import BF16
from fp8scope.plan.moves import PRECISIONS
from fp8scope.tui.living import Living
from fp8scope.tui.snapshot import Snapshot

CACHE = "kv_cache"
"""The name of the row of all KV caches."""
PLAIN: Final = "fp8_tensor"


@dataclass(frozen=True)
class Row:
    """A group as it is planned. `kl` in nats per token, of it alone; `candidates` the cheapest of
    each. `fp8_us` in its FP8, or in BF16 in `fp8_tensor`; `words` its precision in full.
    """

    name: str
    short: str
    precision: Precision
    words: str
    kl: float
    candidates: Mapping[str, float]
    fp8_us: float
    bf16_us: float
    reason: str
    pinned: bool = False

    @property
    def saved_us(self) -> float:
        """What FP8 saves of a step."""
        return self.bf16_us - self.fp8_us


ORDERS: Mapping[str, Callable[[Row], float] | None] = {
    "module order": None,
    "KL as planned": lambda row: -row.kl,
    "KL in FP8 per tensor": lambda row: -row.candidates.get(PLAIN, 0.0),
    "time that FP8 saves": lambda row: -row.saved_us,
}
"""The largest first."""


class Rows:
    """The rows of a living plan; what was computed of a group in one term is kept."""

    def __init__(self, snapshot: Snapshot, living: Living) -> None:
        self._snapshot, self._living = snapshot, living
        planner = living.draft.step.maker.planner
        self._planner, self._structure = planner, snapshot.profile.structure
        self._units = {unit.name: unit for unit in (*planner.decided, *planner.left_out)}
        self._candidates = {
            name: {known: score.kl for known, score in snapshot.scores.get(name, {}).items()}
            for name in self._units
        }
        self._kl: dict[Term, float] = {}
        self._us: dict[tuple[str, str], float] = {}

    def all(self, order: str = "module order", wanted: str = "") -> list[Row]:
        """Those whose name holds `wanted`, in one of `ORDERS`; the KV caches first or last."""
        terms = by_group(self._living.draft.step.terms)
        rows = [self._group(group.name, terms) for group in self._structure.groups]
        rows += [self._caches(self._living.draft.cached)] if self._structure.kv_layers else []
        words = wanted.lower().split()
        found = [row for row in rows if all(word in row.name.lower() for word in words)]
        key = ORDERS[order]
        return sorted(found, key=key) if key else found

    def _group(self, name: str, terms: Mapping[str, Term]) -> Row:
        term, living = terms.get(name), self._living
        pinned = name in living.draft.step.pins
        precision = living.precision(name) or BF16
        known, reason = living.reasons.get(name, (precision, ""))
        if known != precision:
            reason = "set by hand" if pinned else "changed, together with others"
        fp8 = precision if precision != BF16 else PLAIN
        return Row(
            name=name,
            short=short_name(name, self._snapshot.prefix),
            precision=precision,
            words=precision_words(term),
            kl=self._alone(term),
            candidates=self._candidates.get(name, {}),
            fp8_us=self._time(name, fp8),
            bf16_us=self._time(name, BF16),
            reason=reason,
            pinned=pinned,
        )

    def _alone(self, term: Term | None) -> float:
        if term is None:
            return 0.0
        if term not in self._kl:
            self._kl[term] = self._planner.score(term).kl
        return self._kl[term]

    def _time(self, name: str, precision: str) -> float:
        if name not in self._units:  # a router
            return 0.0
        if (name, precision) not in self._us:
            self._us[name, precision] = self._planner.cost.time_us(self._units[name], precision)
        return self._us[name, precision]

    def _caches(self, fp8: bool) -> Row:
        """All of them, as they are now: folds may divide what they hold."""
        layers, planner = self._structure.kv_layers, self._planner
        terms = by_group(self._living.draft.step.terms)
        stored = [terms[layer.group] for layer in layers if layer.group in terms]
        plain = [planner.rows.get(Term(layer.group, PLAIN)) for layer in layers]
        known = [row for row in plain if row is not None]
        alone = planner.scores.together(known)[0].kl if len(known) == len(layers) else None
        now = planner.scores.together([planner.rows[term] for term in stored])[0].kl
        fp8_us, bf16_us = (sum(planner.cost.cache_us(c, p) for c in layers) for p in (PLAIN, BF16))
        return Row(
            name=CACHE,
            short=f"KV cache, {len(layers)} layers",
            precision=PLAIN if fp8 else BF16,
            words="FP8" if fp8 else "BF16",
            kl=now,
            candidates={} if alone is None else {PLAIN: alone},
            fp8_us=fp8_us,
            bf16_us=bf16_us,
            reason="all layers together (v): engines keep one format",
        )


def candidates_shown(rows: Sequence[Row]) -> list[Precision]:
    """The FP8 precisions that any row was scored in."""
    return [p for p in PRECISIONS if any(p in row.candidates for row in rows)]
