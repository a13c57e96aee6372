"""What is wrong with a list: every layer that differs is explained by one fault.

Nothing is known here of any consumer but what its `Reading` answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeVar

from fp8scope.core.modules import WORDS, Treatment
from fp8scope.export.consumer import Layer, Outcome, Pattern, Reading
from fp8scope.export.intent import means
from fp8scope.export.matchers.fused_layers import parts

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)
FaultKind = Literal["refused", "nothing", "too much", "split", "collision", "different"]


@dataclass(frozen=True)
class Row:
    """One layer of the consumer, and what becomes of it."""

    layer: Layer
    outcome: Outcome

    @property
    def wanted(self) -> Treatment | None:
        """What it should run in; None where nobody said, or its modules disagree."""
        wanted = _treatments_wanted(self.layer)
        return wanted.pop() if len(wanted) == 1 else None

    @property
    def differs(self) -> bool:
        """Whether some of it will not run as it should: what is refused never does."""
        treatment = self.outcome.treatment
        return treatment is None or bool(_treatments_wanted(self.layer) - {treatment})


@dataclass(frozen=True)
class Fault:
    """Something wrong with a list. `layers`: those concerned, in the consumer's names, and
    `patterns` the entries that cause it.
    """

    kind: FaultKind
    sentence: str
    layers: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kind": self.kind,
            "sentence": self.sentence,
            "layers": list(self.layers),
            "patterns": [{"where": each.where, "text": each.text} for each in self.patterns],
        }


def faults(reading: Reading, rows: Sequence[Row]) -> Iterator[Fault]:
    """Every fault of the lists. Each row that differs is in just one."""
    return _Faults(reading, tuple(rows)).found()


def _treatments_wanted(layer: Layer) -> set[Treatment]:
    return {module.wanted for module in layer.modules if module.wanted is not None}


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
            self._halves,
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

    def _hit_by(self, pattern: Pattern, names: Iterable[str]) -> bool:
        return any(self._reading.hits(pattern, name) for name in names)

    def _hits(self, pattern: Pattern, layer: Layer) -> bool:
        return self._hit_by(pattern, (layer.name, *layer.shards))

    def _splits(self) -> Iterator[Fault]:
        """What is wanted differs within a layer; whatever the lists say, it cannot be had."""
        for wanted, rows in _grouped(
            self._rows, lambda row: frozenset(_treatments_wanted(row.layer))
        ):
            if len(wanted) > 1:
                is_run, its = ("is", "its") if len(rows) == 1 else ("are each", "their")
                words = " and ".join(sorted(WORDS[each] for each in wanted))
                what = f"{_some(_layers(rows))} {is_run} run as one, but {its} parts should be"
                yield Fault("split", f"{what} {words}", _layers(rows))

    def _halves(self) -> Iterator[Fault]:
        """Fused layers refused because some of their parts are named and others are not."""
        differing = (row for row in self._differing() if row.layer.kind == "linear")
        refused = (row for row in differing if row.outcome.treatment is None)
        for (shards, named), rows in _grouped(refused, self._named_parts):
            if named:
                are, each = ("is", "it") if len(rows) == 1 else ("are", "each")
                what = f"{_some(_layers(rows))} {are} refused: {each} runs {shards} as one"
                yield Fault("split", f"{what}, and only {named} is named", _layers(rows))

    def _named_parts(self, row: Row) -> tuple[str, str]:
        """The shards, and those that some entry sets apart from others; "" where none or all."""
        shards = row.layer.shards
        hit = [{p for p in self._reading.patterns if self._hit_by(p, [each])} for each in shards]
        common = set.intersection(*hit) if hit else set()
        named = [shard for shard, patterns in zip(shards, hit, strict=True) if patterns - common]
        are_some = len(named) < len(shards)
        return ", ".join(map(_last, shards)), ", ".join(map(_last, named)) if are_some else ""

    def _collisions(self) -> Iterator[Fault]:
        """Entries meant for one layer that ask for different things: it gets neither or one."""
        if len({pattern.says for pattern in self._reading.patterns}) < 2:
            return  # a list that asks for one thing may name each of many thousand experts
        for pair, rows in _grouped(self._differing(), self._colliding):
            if pair:
                first, other = pair
                what = (
                    f"{_quoted([first])} and {_quoted([other])} both match {_some(_layers(rows))} "
                    f"and ask for {WORDS[first.says]} and {WORDS[other.says]}"
                )
                yield Fault("collision", f"{what}: {_will(rows[0])}", _layers(rows), pair)

    def _colliding(self, row: Row) -> tuple[Pattern, ...]:
        meant = (p for p in self._reading.patterns if self._means(p, row.layer))
        pairs = pairwise(p for p in meant if self._hits(p, row.layer))
        return next((pair for pair in pairs if pair[0].says != pair[1].says), ())

    def _refusals(self) -> Iterator[Fault]:
        """What is said of many layers in the same words is one fault."""
        refused = (row for row in self._differing() if row.outcome.treatment is None)

        def words(row: Row) -> str:
            return re.sub(r"\d+", "N", row.outcome.error.replace(row.layer.name, "a layer"))

        for _, rows in _grouped(refused, words):
            what = f"{_some(_layers(rows))}: {rows[0].outcome.error}"
            yield Fault("refused", what, _layers(rows))

    def _nothing(self) -> Iterator[Fault]:
        """Dead entries, and the layers that a person would take them for."""
        dead = [pattern for pattern in self._reading.patterns if self._is_dead(pattern)]

        def meant(row: Row) -> tuple[Pattern, ...]:
            asking = (pattern for pattern in dead if pattern.says == row.wanted)
            return tuple(pattern for pattern in asking if self._means(pattern, row.layer))

        told: set[Pattern] = set()
        for patterns, rows in _grouped(self._differing(), meant):
            if patterns:
                told.update(patterns)
                match, is_not = _verb(patterns, "match"), "is" if len(rows) == 1 else "are"
                what = f"{_quoted(patterns)} {match} nothing, so {_some(_layers(rows))} {is_not} "
                what += f"not in {WORDS[patterns[0].says]}{_noted(rows)}"
                yield Fault("nothing", what, _layers(rows), patterns)
        for pattern in dead:
            if pattern not in told:
                close = get_close_matches(pattern.text, self._names, 1, cutoff=0.8)
                hint = f"; there is {close[0]}" if close else ""
                yield Fault(
                    "nothing", f"{_quoted([pattern])} matches nothing{hint}", (), (pattern,)
                )

    def _is_dead(self, pattern: Pattern) -> bool:
        own = pattern.text in self._names and self._reading.hits(pattern, pattern.text)
        # the last is slow: every name, for each of what may be thousands of entries
        return not (own or self._is_spare(pattern) or self._hit_by(pattern, self._names))

    def _too_much(self) -> Iterator[Fault]:
        """Entries that reach layers which should run in something else."""

        def reaching(row: Row) -> tuple[tuple[Pattern, ...], Treatment | None]:
            asking = (p for p in self._reading.patterns if p.says == row.outcome.treatment)
            return tuple(p for p in asking if self._hits(p, row.layer)), row.wanted

        for (patterns, wanted), rows in _grouped(self._differing(), reaching):
            if patterns and wanted is not None:
                is_meant = all(self._means(p, row.layer) for p in patterns for row in rows)
                match = f"{'' if is_meant else 'also '}{_verb(patterns, 'match')}"
                what = f"{_quoted(patterns)} {match} {_some(_layers(rows))}"
                what += f", which should be {WORDS[wanted]}"
                yield Fault("too much", what, _layers(rows), patterns)

    def _is_spare(self, pattern: Pattern) -> bool:
        """An exact name for other consumers, of what runs as the entry asks all the same."""
        named = (pattern.text, *parts(pattern.text))
        runs = {self._treatments[name] for name in named if name in self._treatments}
        expert = f"{pattern.text.rpartition('.')[0]}."
        if not runs and ".experts." in expert:
            runs = {runs_in for n, runs_in in self._treatments.items() if n.startswith(expert)}
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
        owner = self._owners.get(pattern.text)
        if owner is not None:
            return owner == layer.name
        return any(means(pattern.text, name) for name in _all_names(layer))

    @cached_property
    def _owners(self) -> dict[str, str]:
        """The layer that each name is of, whoever calls it so."""
        return {name: row.layer.name for row in self._rows for name in _all_names(row.layer)}

    def _unexplained(self) -> Iterator[Fault]:
        def alike(row: Row) -> tuple[Treatment | None, Outcome, bool]:
            hit = any(self._hits(pattern, row.layer) for pattern in self._reading.patterns)
            return row.wanted, row.outcome, hit

        for (wanted, outcome, is_hit), rows in _grouped(self._differing(), alike):
            should = WORDS[wanted] if wanted is not None else "loaded"
            runs = WORDS[outcome.treatment] if outcome.treatment is not None else "nothing"
            what = f"{_some(_layers(rows))} will run in {runs} and should be {should}"
            unnamed = "" if is_hit or outcome.note else ": no entry names it"
            yield Fault("different", f"{what}{_noted(rows)}{unnamed}", _layers(rows))

    def _differing(self) -> list[Row]:
        """The rows that differ, and that nothing explains yet."""
        return [row for row in self._rows if row.differs and row.layer.name not in self._explained]


def _all_names(layer: Layer) -> set[str]:
    """The consumer's, the files' and transformers', and those of parts that files have fused."""
    names = {name for module in layer.modules for name in (module.name, module.runtime)}
    return names | {layer.name, *layer.shards, *parts(layer.name)}


def _will(row: Row) -> str:
    if row.outcome.treatment is None:
        return row.outcome.error
    return f"it will run in {WORDS[row.outcome.treatment]}"


def _noted(rows: Iterable[Row]) -> str:
    notes = {row.outcome.note for row in rows} - {""}
    return f" ({notes.pop()})" if len(notes) == 1 else ""


def _quoted(patterns: Sequence[Pattern]) -> str:
    """Those of one list together: `ignore “a”, “b”`."""
    texts = _grouped(patterns, lambda pattern: pattern.where)
    return " and ".join(f"{where} {_some(f'“{p.text}”' for p in of)}" for where, of in texts)


def _verb(patterns: Sequence[Pattern], verb: str) -> str:
    return verb if len(patterns) > 1 else f"{verb}es"


def _layers(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(row.layer.name for row in rows)


def _grouped(each: Iterable[_Item], key: Callable[[_Item], _Key]) -> list[tuple[_Key, list[_Item]]]:
    found: dict[_Key, list[_Item]] = {}
    for item in each:
        found.setdefault(key(item), []).append(item)
    return list(found.items())


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _some(names: Iterable[str]) -> str:
    """`a, b, c and 5 more`."""
    known = list(names)
    shown = ", ".join(known[:3])
    return f"{shown} and {len(known) - 3:,} more" if len(known) > 3 else shown
