"""The proof: what every layer should run in beside what the consumer will do, and why they differ.

A `Reading` answers for every layer and every entry of every list. Here nothing is known of any
consumer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from fp8scope.core.modules import WORDS, Treatment
from fp8scope.export.consumer import Layer, Outcome, Pattern, Reading
from fp8scope.export.engines.fused_layers import USUAL
from fp8scope.export.intent import means

FaultKind = Literal["refused", "nothing", "too much", "split", "collision", "different"]


@dataclass(frozen=True)
class Row:
    """One layer of the consumer. `wanted` is None where nobody said, or its modules disagree."""

    layer: Layer
    wanted: Treatment | None
    outcome: Outcome

    @property
    def differs(self) -> bool:
        """Whether it will not run as it should: one that is refused never does."""
        treatment = self.outcome.treatment
        return treatment is None or (self.wanted is not None and treatment != self.wanted)


@dataclass(frozen=True)
class Fault:
    """Something wrong with a list. `layers`: those concerned, in the consumer's names."""

    kind: FaultKind
    sentence: str
    layers: tuple[str, ...] = ()
    pattern: Pattern | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        pattern = self.pattern and {"where": self.pattern.where, "text": self.pattern.text}
        return {
            "kind": self.kind,
            "sentence": self.sentence,
            "layers": list(self.layers),
            "pattern": pattern,
        }


@dataclass(frozen=True)
class Proof:
    """Of one config on one model. It holds where no layer differs and no fault was found."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]

    @property
    def differences(self) -> tuple[Row, ...]:
        """The rows that differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def holds(self) -> bool:
        """Whether the consumer will do just what is wanted."""
        return not self.faults and not self.differences


def prove(reading: Reading) -> Proof:
    """Every layer's outcome against what its modules should run in, and every fault of the lists.

    Each difference is explained by a fault: the entry that causes it, or that there is none.
    """
    rows = tuple(Row(layer, _wanted(layer), reading.outcome(layer)) for layer in reading.layers)
    return Proof(rows, tuple(_Faults(reading, rows).found()))


def _wanted(layer: Layer) -> Treatment | None:
    wanted = {module.wanted for module in layer.modules}
    return next(iter(wanted)) if len(wanted) == 1 else None


class _Faults:
    """One pass over the lists and the rows."""

    def __init__(self, reading: Reading, rows: tuple[Row, ...]) -> None:
        self._reading = reading
        self._rows = rows
        self._explained: set[str] = set()

    def found(self) -> Iterator[Fault]:
        """What explains a layer comes first; later looks leave it out."""
        for look in (
            self._splits,
            self._collisions,
            self._refusals,
            self._nothing,
            self._too_much,
            self._unexplained,
        ):
            for fault in list(look()):
                self._explained.update(fault.layers)
                yield fault

    @cached_property
    def _names(self) -> dict[str, Row]:
        """Every name that a list may give, and its row; a layer's own name last."""
        rows = self._rows
        shards = {shard: row for row in rows for shard in row.layer.shards}
        return shards | {row.layer.name: row for row in rows}

    def _hit_names(self, pattern: Pattern, names: Iterable[str]) -> list[str]:
        return [name for name in names if self._reading.hits(pattern, name)]

    def _hits(self, pattern: Pattern, layer: Layer) -> bool:
        return bool(self._hit_names(pattern, (layer.name, *layer.shards)))

    def _splits(self) -> Iterator[Fault]:
        """What is wanted differs within a layer; whatever the lists say, it cannot be had."""
        for row in self._rows:
            wanted = {module.wanted for module in row.layer.modules if module.wanted}
            if len(wanted) > 1:
                words = " and ".join(sorted(WORDS[each] for each in wanted))
                what = f"{row.layer.name} is run as one, but its parts should be {words}"
                yield Fault("split", what, (row.layer.name,))

    def _refusals(self) -> Iterator[Fault]:
        """What is said of many layers in the same words is one fault."""
        alike: dict[tuple[str, str], list[Row]] = {}
        for row in self._rows:
            if row.outcome.treatment is None and row.layer.name not in self._explained:
                partly = self._partly_named(row.layer)
                words = row.outcome.error.replace(row.layer.name, "a layer")
                alike.setdefault((words, partly), []).append(row)
        for (_, partly), rows in alike.items():
            names = tuple(row.layer.name for row in rows)
            if partly:
                yield Fault("split", f"{_some(names)}: {partly}", names)
            else:
                yield Fault("refused", f"{_some(names)}: {rows[0].outcome.error}", names)

    def _partly_named(self, layer: Layer) -> str:
        """Of a fused layer, which of its parts are named, where some but not all are."""
        if layer.kind == "experts":
            return ""  # hundreds, and the consumer's own words say which it asks for
        named = [
            shard
            for shard in layer.shards
            if any(self._reading.hits(pattern, shard) for pattern in self._reading.patterns)
        ]
        if not named or len(named) == len(layer.shards):
            return ""
        parts = ", ".join(map(_last, layer.shards))
        left = ", ".join(_last(shard) for shard in layer.shards if shard not in named)
        is_named = ", ".join(map(_last, named))
        return f"{parts} are run as one and refused, for {is_named} is named and not {left}"

    def _collisions(self) -> Iterator[Fault]:
        """Entries that ask for different things of one layer, which then gets neither or one."""
        if len({pattern.says for pattern in self._reading.patterns}) < 2:
            return  # a list that asks for one thing may name each of many thousand experts
        for row in self._differing():
            hit = [p for p in self._reading.patterns if self._hits(p, row.layer)]
            for first, other in pairwise(hit):
                if first.says != other.says:
                    what = (
                        f"{_quoted(first)} and {_quoted(other)} both match {row.layer.name} "
                        f"and ask for {WORDS[first.says]} and {WORDS[other.says]}"
                    )
                    yield Fault("collision", f"{what}: {_will(row)}", (row.layer.name,), first)

    def _too_much(self) -> Iterator[Fault]:
        """Entries that reach layers which should run in something else."""
        differing = [row for row in self._differing() if row.wanted is not None]
        for pattern in self._reading.patterns:
            wrong = [
                row
                for row in differing
                if row.wanted != pattern.says
                and row.outcome.treatment == pattern.says
                and self._hits(pattern, row.layer)
            ]
            if wrong:
                names = tuple(row.layer.name for row in wrong)
                wanted = WORDS[wrong[0].wanted or "bf16"]
                what = f"{_quoted(pattern)} also matches {_some(names)}, which should be {wanted}"
                yield Fault("too much", what, names, pattern)

    def _nothing(self) -> Iterator[Fault]:
        """Dead entries, and the layers that a person would take them for."""
        for pattern in self._reading.patterns:
            own = pattern.text in self._names and self._reading.hits(pattern, pattern.text)
            if own or self._hit_names(pattern, self._names) or self._is_spare(pattern):
                continue
            missed = tuple(
                row.layer.name
                for row in self._differing()
                if row.wanted == pattern.says and self._means(pattern, row.layer)
            )
            what = f"{_quoted(pattern)} matches nothing"
            if missed:
                verb = "is not" if len(missed) == 1 else "are not"
                what += f", so {_some(missed)} {verb} in {WORDS[pattern.says]}"
            elif close := get_close_matches(pattern.text, self._names, 1, cutoff=0.8):
                what += f"; there is {close[0]}"
            yield Fault("nothing", what, missed, pattern)

    def _is_spare(self, pattern: Pattern) -> bool:
        """An exact name for other consumers, of what runs as the entry asks all the same."""
        parent, _, last = pattern.text.rpartition(".")
        named = {pattern.text, *(f"{parent}.{part}" for part in USUAL.get(last, ()))}
        expert = f"{parent}." if ".experts." in f"{parent}." else None
        runs = {
            treatment
            for name, treatment in self._treatments.items()
            if name in named or (expert is not None and name.startswith(expert))
        }
        return runs == {pattern.says}

    @cached_property
    def _treatments(self) -> dict[str, Treatment | None]:
        """What every module will run in, by its names in the files and in transformers."""
        return {
            name: row.outcome.treatment
            for row in self._rows
            for module in row.layer.modules
            for name in (module.name, module.runtime)
        }

    def _means(self, pattern: Pattern, layer: Layer) -> bool:
        names = {layer.name, *layer.shards}
        names |= {name for module in layer.modules for name in (module.name, module.runtime)}
        return any(means(pattern.text, name) for name in names)

    def _unexplained(self) -> Iterator[Fault]:
        left: dict[tuple[Treatment | None, Outcome], list[str]] = {}
        for row in self._differing():
            left.setdefault((row.wanted, row.outcome), []).append(row.layer.name)
        for (wanted, outcome), names in left.items():
            should = WORDS[wanted] if wanted is not None else "loaded"
            runs = WORDS[outcome.treatment] if outcome.treatment is not None else "nothing"
            note = f" ({outcome.note})" if outcome.note else ""
            what = f"{_some(names)} will run in {runs} and should be {should}{note}"
            yield Fault("different", what, tuple(names))

    def _differing(self) -> list[Row]:
        """The rows that differ, and that nothing explains yet."""
        return [row for row in self._rows if row.differs and row.layer.name not in self._explained]


def _will(row: Row) -> str:
    if row.outcome.treatment is None:
        return row.outcome.error
    return f"it will run in {WORDS[row.outcome.treatment]}"


def _quoted(pattern: Pattern) -> str:
    return f"{pattern.where} “{pattern.text}”"


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _some(names: Iterable[str]) -> str:
    """`a, b, c and 5 more`."""
    known = list(names)
    shown = ", ".join(known[:3])
    return f"{shown} and {len(known) - 3:,} more" if len(known) > 3 else shown
