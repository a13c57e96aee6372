"""Lists of names in a checkpoint's metadata, matched by the rules of its format.

| form | where | what names match |
|---|---|---|
| ModelOpt | `exclude_modules` (nested) or `ignore` (flat) | whole names, parents, globs |
| compressed-tensors | `config_groups`, `ignore` | whole names, `re:` from the start, classes |
| fp8, fbgemm_fp8 | `ignored_layers` or `modules_to_not_convert` | whole names, any dotted part |
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["modelopt", "compressed-tensors", "fp8", "fbgemm_fp8", "unknown"]


@dataclass(frozen=True)
class Names:
    """A list of names, matched by the rules of `form`."""

    form: Form
    entries: tuple[str, ...]
    _exact: frozenset[str] = field(init=False, repr=False)
    _patterns: tuple[tuple[str, re.Pattern[str]], ...] = field(init=False, repr=False)
    _any_glob: re.Pattern[str] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = [(entry, _compiled(entry, self.form)) for entry in self.entries]
        globs = [fnmatch.translate(entry) for entry, found in found if found and _is_glob(entry)]
        object.__setattr__(self, "_any_glob", re.compile("|".join(globs)) if globs else None)
        object.__setattr__(self, "_exact", frozenset(self.entries))
        object.__setattr__(self, "_patterns", tuple((e, p) for e, p in found if p is not None))

    def matching(self, names: Iterable[str], classes: Iterable[str] = ()) -> list[str]:
        """The entries that match a module with these names and classes, whole names first."""
        given = tuple(names)
        meant = [each for name in given for each in _meant(name, self.form) if each in self._exact]
        patterns = [
            entry
            for entry, found in self._patterns_for(given)
            if any(found.match(name) for name in given)
        ]
        ofclass = classes if self.form == "compressed-tensors" else ()
        return [*meant, *patterns, *(each for each in ofclass if each in self._exact)]

    def _patterns_for(self, names: Iterable[str]) -> Iterable[tuple[str, re.Pattern[str]]]:
        """All, unless they are globs of which none matches: there may be one for every layer."""
        if self._any_glob is None or self.form != "modelopt":
            return self._patterns
        if any(self._any_glob.match(name) for name in names):
            return self._patterns
        return [each for each in self._patterns if not _is_glob(each[0])]


def _meant(name: str, form: Form) -> Iterable[str]:
    """The entries without wildcards that would mean a module of this name."""
    parts = name.split(".")
    if form == "compressed-tensors":
        return (name,)
    if form == "modelopt":
        return (".".join(parts[:stop]) for stop in range(len(parts), 0, -1))
    return (
        ".".join(parts[start:stop])
        for start in range(len(parts))
        for stop in range(len(parts), start, -1)
    )


def _compiled(entry: str, form: Form) -> re.Pattern[str] | None:
    if form == "compressed-tensors" or entry.startswith("re:"):
        return _expression(entry[3:]) if entry.startswith("re:") else None
    if form == "modelopt" and _is_glob(entry):
        return _expression(fnmatch.translate(entry))
    return None


def _expression(text: str) -> re.Pattern[str] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd in others' expressions
            return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None


def is_broken(entry: str) -> bool:
    """Whether it is `re:` and no regular expression."""
    return entry.startswith("re:") and _expression(entry[3:]) is None


def _is_glob(entry: str) -> bool:
    return not entry.startswith("re:") and not {"*", "?", "["}.isdisjoint(entry)
