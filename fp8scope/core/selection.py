"""One matcher for names that a person writes: exact, a glob, or `re:` with a regular expression.

A pattern that matches nothing is an error: an exclusion that silently does nothing costs weeks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from fp8scope.errors import BadInput

REGEX = "re:"


def select(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that `pattern` matches as a whole, in their order.

    `*`, `?` and `[…]` make a glob, in which `*` crosses dots; case counts. After `re:` comes a
    regular expression of Python. Raises BadInput where nothing matches, or it is no expression.
    """
    known = list(names)
    found = [name for name in known if _matches(pattern, name)]
    if found:
        return found
    bare = pattern.removeprefix(REGEX)
    near = [name for name in known if bare in name] or get_close_matches(bare, known, cutoff=0.4)
    shown = ", ".join((near or known)[:3])
    raise BadInput(f"{pattern} matches nothing", f"names are like {shown}")


@dataclass(frozen=True)
class Selected:
    """Groups by name, and a sentence for each that a pattern named in part only."""

    groups: frozenset[str]
    notes: tuple[str, ...]


def select_groups(patterns: Iterable[str], members: Mapping[str, Sequence[str]]) -> Selected:
    """The groups that any pattern names, or one of whose members it names.

    members: those of each group. Names may be given without a leading `model.`. Raises BadInput.
    """
    owner = {name: group for group, own in members.items() for name in (group, *own)}
    short = {name.removeprefix("model."): name for name in owner}
    known = short | {name: name for name in owner}
    meant = [known[name] for pattern in patterns for name in select(pattern, known)]
    groups = {owner[name] for name in meant}
    notes = []
    for group in sorted(groups - set(meant)):
        rest = [name for name in members[group] if name not in meant]
        if rest:
            what = ", ".join(name for name in members[group] if name in meant)
            notes.append(f"{what}: an engine runs it as one with {', '.join(rest)}, so all of them")
    return Selected(frozenset(groups), tuple(notes))


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith(REGEX):
        try:
            return re.fullmatch(pattern.removeprefix(REGEX), name) is not None
        except re.error as error:
            raise BadInput(f"{pattern} is no regular expression: {error}", "mend it") from error
    return pattern == name or fnmatchcase(name, pattern)
