"""Entries of lists that match nothing, and what was meant by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from fp8scope.checkpoint.declaration import Declaration
from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import many, some, verb
from fp8scope.checkpoint.linears import HEADS

_DEEPEST = 3  # leading parts of a name that another prefix may differ in


class Entries:
    """Those of the lists of `said`. `lacking`: BF16 linears that no entry names and one should."""

    def __init__(self, contents: Contents, said: Declaration, lacking: Sequence[str]) -> None:
        self.contents, self.said, self.lacking = contents, said, lacking

    def faults(self) -> Iterator[Fault]:
        """Entries that another prefix would mend, and those that do no harm."""
        moved, dead = self.moved, self._unmatched
        if moved:
            entries = tuple(dict.fromkeys(moved.values()))
            names = tuple(moved)
            what = f"{some(entries)} {verb(entries, 'matches', 'match')} nothing, though with"
            remedy = f"write the names as the files have them: {some(names)}"
            yield Fault(
                "list-prefix",
                "error",
                f"{what} another prefix {verb(entries, 'it', 'they')} would: "
                f"{many(names, 'linear')} in BF16 will be loaded as FP8",
                remedy,
                (*entries, *names),
            )
        used = set(moved.values())
        harmless = [entry for entry in dead if entry not in used and not _is_tied_head(entry)]
        if harmless:
            what = f"{len(harmless)} {verb(harmless, 'entry', 'entries')} of the lists"
            tails = _by_tail(self._modules())
            hints = [found[0] for entry in harmless if (found := _elsewhere(entry, tails))]
            near = f"; with another prefix it would be {hints[0]}" if hints else ""
            what = f"{what} {verb(harmless, 'matches', 'match')} nothing ({some(harmless)}){near}"
            remedy = "delete them, or write the names that were meant"
            yield Fault("list-entry-dead", "warning", what, remedy, tuple(harmless))

    @cached_property
    def moved(self) -> dict[str, str]:
        """Linears that an entry would name, were its prefix another; with the entry."""
        if not self.lacking:
            return {}
        moved: dict[str, str] = {}
        tails = _by_tail(self.lacking)
        for entry in self._unmatched:
            for name in _elsewhere(entry, tails):
                moved.setdefault(name, entry)
        return moved

    @cached_property
    def _unmatched(self) -> list[str]:
        """Entries of lists that mean no module of the files, in their order."""
        entries = [*self.said.listed.entries, *(self.said.targets or self.said.listed).entries]
        hit = {e for e in entries if e[:1].isupper() and "." not in e}  # classes
        left = set(entries) - hit
        for names in (
            *(each.names for each in self.contents.stored),
            *((name,) for name in self._modules()),
            *((name,) for name in self.contents.tensors),
        ):
            if not left:
                break
            left -= self._hits(names)
        return [entry for entry in dict.fromkeys(entries) if entry in left]

    def _hits(self, names: Iterable[str]) -> set[str]:
        given = tuple(names)
        listed = set(self.said.listed.matching(given))
        return listed | set(self.said.targets.matching(given) if self.said.targets else ())

    def _modules(self) -> list[str]:
        """Every module that has a tensor, those that hold it, and a tied head."""
        found: dict[str, None] = {"lm_head": None}
        for name in self.contents.tensors:
            while "." in name:
                name = name.rpartition(".")[0]  # noqa: PLW2901
                if name in found:
                    break
                found[name] = None
        return list(found)


def _is_tied_head(entry: str) -> bool:
    """An entry for an output layer does no harm where the embedding's weight serves as one."""
    return entry.rpartition(".")[2] in HEADS


def _elsewhere(entry: str, tails: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that the entry would match with another prefix."""
    own = list(_tails(entry))
    found = {name: None for tail in own for name in tails.get(tail, ())}
    for glob in (tail for tail in own if not {"*", "?", "["}.isdisjoint(tail)):
        found |= {name: None for tail in tails if fnmatchcase(tail, glob) for name in tails[tail]}
    return list(found)


def _by_tail(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        for tail in _tails(name):
            found.setdefault(tail, []).append(name)
    return found


def _tails(name: str) -> Iterator[str]:
    """The name without its first parts, as long as it says which layer it is of."""
    parts = name.split(".")
    for start in range(min(_DEEPEST, len(parts) - 1) + 1):
        tail = ".".join(parts[start:])
        if not parts[start].isdigit() and (tail == "lm_head" or re.search(r"\d", tail)):
            yield tail
