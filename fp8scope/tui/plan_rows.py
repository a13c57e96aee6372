"""One row for each fused group of the living plan, and one for the KV caches of all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fp8scope.artefacts.plan import Precision
from fp8scope.core.choices import Term
from fp8scope.core.words import printable, short_name
from fp8scope.plan.changes import by_group, candidate, precision_words
from fp8scope.plan.cost import BF16
from fp8scope.plan.moves import PRECISIONS
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui.living import Living

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
        self._us: dict[tuple[str, str], float] = {}
        self._known: dict[str, tuple[object, Row]] = {}
        layers = self._structure.kv_layers
        plain = [Term(layer.group, PLAIN) for layer in layers]
        known = [planner.rows[term] for term in plain if term in planner.rows]
        self._cached = None
        if layers and len(known) == len(layers):
            self._cached = planner.scores.together(known)[0].kl
        self._cache_us = [
            sum(planner.cost.cache_us(layer, name) for layer in layers) for name in (PLAIN, BF16)
        ]

    def all(self) -> list[Row]:
        """In module order, the KV caches last."""
        step = self._living.draft.step
        terms = by_group(step.terms)
        solved = by_group([term for way in step.solved for term in way.terms])
        rows = [
            self._group(name, terms.get(name), candidate(solved, name))
            for name in (group.name for group in self._structure.groups)
        ]
        return rows + ([self._caches(terms)] if self._structure.kv_layers else [])

    def _group(self, name: str, term: Term | None, solved: str) -> Row:
        """As it was, where nothing of it changed."""
        living = self._living
        pinned, why = name in living.draft.step.pins, living.reasons.get(name)
        key = term, pinned, why, solved
        if name not in self._known or self._known[name][0] != key:
            self._known[name] = key, self._new(name, term, pinned, why, solved)
        return self._known[name][1]

    def _new(
        self,
        name: str,
        term: Term | None,
        pinned: bool,
        why: tuple[Precision, str] | None,
        solved: str,
    ) -> Row:
        precision = self._living.precision(name) or BF16
        known, reason = why or (precision, "")
        if known != precision:
            chosen = "as solved" if precision == solved else "changed, together with others"
            reason = "set by hand" if pinned else chosen
        fp8 = precision if precision != BF16 else PLAIN
        return Row(
            name=name,
            short=short_name(name, self._snapshot.prefix),
            precision=precision,
            words=precision_words(term),
            kl=self._living.draft.alone(name),
            candidates=self._candidates.get(name, {}),
            fp8_us=self._time(name, fp8),
            bf16_us=self._time(name, BF16),
            reason=printable(reason),
            pinned=pinned,
        )

    def _time(self, name: str, precision: str) -> float:
        if name not in self._units:  # a router
            return 0.0
        if (name, precision) not in self._us:
            self._us[name, precision] = self._planner.cost.time_us(self._units[name], precision)
        return self._us[name, precision]

    def _caches(self, terms: Mapping[str, Term]) -> Row:
        """All of them, as they are now: folds may divide what they hold."""
        layers = self._structure.kv_layers
        fp8 = any(layer.group in terms for layer in layers)
        return Row(
            name=CACHE,
            short=f"KV cache, {len(layers)} layers",
            precision=PLAIN if fp8 else BF16,
            words="FP8" if fp8 else "BF16",
            kl=sum(self._living.draft.alone(layer.group) for layer in layers),
            candidates={} if self._cached is None else {PLAIN: self._cached},
            fp8_us=self._cache_us[0],
            bf16_us=self._cache_us[1],
            reason="all layers together (v): engines keep one format",
        )


def arranged(rows: Sequence[Row], order: str) -> list[Row]:
    """In one of `ORDERS`."""
    key = ORDERS[order]
    return sorted(rows, key=key) if key else list(rows)


def matching(rows: Sequence[Row], wanted: str) -> list[Row]:
    """Those whose names hold all words of `wanted`."""
    words = wanted.lower().split()
    return [row for row in rows if all(word in row.name.lower() for word in words)]


def candidates_shown(rows: Sequence[Row]) -> list[Precision]:
    """The FP8 precisions that any row was scored in."""
    return [p for p in PRECISIONS if any(p in row.candidates for row in rows)]
