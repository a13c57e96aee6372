"""How SGLang matches names of modules against lists: four matchers, each as odd as it is there.

Names are those that SGLang builds its modules with. A fused layer (`qkv_proj`) is matched by its
shards' names. `Split` is raised where SGLang refuses to load: some shards are listed, others not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

Fused = Mapping[str, Sequence[str]]

# what the modelopt and fp8 matchers fall back to where a model class declares no map of its own
FALLBACK: Fused = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
# an entry of an exclusion list that ends in one of these is looked for inside a layer's last name
_INSIDE = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
_PLAIN = re.compile(r"[\w.-]*")


class Split(Exception):
    """Some but not all shards of the named fused layer are listed."""


@dataclass(frozen=True)
class Mapper:
    """How a model class renames what lists say: at most one rule of each kind, the longest that
    fits. A rule to None drops the entry.
    """

    substrings: Mapping[str, str | None] = field(default_factory=dict)
    prefixes: Mapping[str, str | None] = field(default_factory=dict)
    suffixes: Mapping[str, str | None] = field(default_factory=dict)

    def name(self, name: str) -> str | None:
        """The name after renaming, None where it is dropped."""
        for old, new in _longest_first(self.substrings):
            if old in name:
                if new is None:
                    return None
                name = name.replace(old, new, 1)
                break
        for old, new in _longest_first(self.prefixes):
            if name.startswith(old):
                if new is None:
                    return None
                name = name.replace(old, new, 1)
                break
        for old, new in _longest_first(self.suffixes):
            if name.endswith(old):
                if new is None:
                    return None
                # as SGLang does it: an empty suffix cannot be split at, and it lists none
                name = new.join(name.rsplit(old, 1))
                break
        return name


def _longest_first(rules: Mapping[str, str | None]) -> list[tuple[str, str | None]]:
    return sorted(rules.items(), key=lambda rule: len(rule[0]), reverse=True)


def shards(name: str, fused: Fused) -> tuple[str, ...]:
    """Names of a fused layer's parts, as the modelopt and fp8 matchers ask for them."""
    last = name.rsplit(".", maxsplit=1)[-1]
    mapping = fused if last in fused else FALLBACK
    return tuple(name.replace(last, shard) for shard in mapping.get(last, ()))


def on_path(entry: str, name: str) -> bool:
    """Whether the entry is the name or a run of whole dotted components of it."""
    entry, name = entry.rstrip("."), name.rstrip(".")
    return entry == name or name.startswith(f"{entry}.") or f".{entry}." in f".{name}."


def is_skipped(name: str, entries: Sequence[str], fused: Fused) -> bool:
    """Matcher of `fp8`, and the first of two of `modelopt`. Raises Split."""
    parts = shards(name, fused)
    if parts:
        listed = {any(on_path(entry, part) for entry in entries) for part in parts}
        if len(listed) > 1:
            raise Split(name)
        return listed.pop()
    skipped = any(on_path(entry, name) for entry in entries)
    if "gate_up_proj" in name:
        both = (name.replace("gate_up_proj", shard) for shard in FALLBACK["gate_up_proj"])
        return skipped or all(shard in entries for shard in both)
    if "experts" in name:
        return skipped or any(name in entry for entry in entries if "experts" in entry)
    return skipped


def is_excluded(name: str, entries: Sequence[str]) -> bool:
    """Second matcher of `modelopt`, the only one for experts.

    An entry is a regular expression but for `.` and `*`. Raises re.error.
    """
    names = [name]
    if name.startswith("language_model."):
        names.append(name.removeprefix("language_model."))
    listed = tuple(entries)
    broken = _first_broken(listed)
    plain, expressions, inside = _prepared(listed[:broken])
    texts = {text for each in names for text in (each, *each.split("."))}
    if not plain.isdisjoint(texts):
        return True
    if any(pattern.fullmatch(text) for pattern in expressions for text in texts):
        return True
    if any(tail in each.rsplit(".", maxsplit=1)[-1] for tail in inside for each in names):
        return True
    if broken is not None:  # SGLang gets there where no entry before it matches
        _expression(listed[broken])
    return False


def _expression(entry: str) -> re.Pattern[str]:
    return re.compile(entry.replace(".", r"\.").replace("*", ".*"))


@lru_cache(maxsize=256)
def _first_broken(entries: tuple[str, ...]) -> int | None:
    for number, entry in enumerate(entries):
        try:
            _PLAIN.fullmatch(entry) or _expression(entry)
        except re.error:
            return number
    return None


@lru_cache(maxsize=256)
def _prepared(
    entries: tuple[str, ...],
) -> tuple[frozenset[str], tuple[re.Pattern[str], ...], frozenset[str]]:
    """Entries that match themselves alone, those that are expressions, and the odd ends."""
    plain = frozenset(entry for entry in entries if _PLAIN.fullmatch(entry))
    expressions = (_expression(entry) for entry in entries if entry not in plain)
    tails = frozenset(entry.rsplit(".", maxsplit=1)[-1] for entry in entries)
    return plain, tuple(expressions), tails.intersection(_INSIDE)


def normalised(entries: Iterable[str]) -> list[str]:
    """`ignored_layers` of an `fp8` checkpoint: each entry without and with `model.` before it."""
    bases = (entry.removeprefix("model.") for entry in entries)
    return [name for base in bases for name in (base, f"model.{base}")]


def names_or_matches(name: str, entries: Iterable[str]) -> bool:
    """Whether a compressed-tensors entry is the name, a dotted end of it, or a `re:` from its
    start. Raises re.error.
    """
    return any(
        bool(re.match(entry[3:], name))
        if entry.startswith("re:")
        else entry == name or name.endswith(f".{entry}")
        for entry in entries
    )


def is_ignored(name: str, entries: Sequence[str], fused: Fused) -> bool:
    """Matcher of compressed-tensors' `ignore`. Raises Split, re.error."""
    last = name.rsplit(".", maxsplit=1)[-1]
    if last not in fused or name in entries:
        return names_or_matches(name, entries)
    listed = {names_or_matches(name.replace(last, shard), entries) for shard in fused[last]}
    if len(listed) > 1:
        raise Split(name)
    return listed.pop()


def matched_target(
    name: str, module_class: str, targets: Sequence[str], fused: Fused
) -> str | None:
    """Which of compressed-tensors' targets a layer takes its scheme from: by its name, else by its
    class's name, else, of a fused layer all whose shards match, the first shard's. Raises re.error.
    """
    return (
        _first(name, targets)
        or next((t for t in targets if _matches_class(module_class, t)), None)
        or _first_shards(name, targets, fused)
    )


def _first(name: str, targets: Iterable[str]) -> str | None:
    return next((t for t in targets if _is_target(name, t)), None)


def _is_target(name: str, target: str) -> bool:
    if target.startswith("re:"):
        return bool(re.match(target[3:], name))
    return target == name


def _matches_class(module_class: str, target: str) -> bool:
    if target.startswith("re:"):
        return bool(re.match(target[3:], module_class))
    return target.lower() in module_class.lower()


def _first_shards(name: str, targets: Sequence[str], fused: Fused) -> str | None:
    key = next((key for key in fused if name.endswith(key)), None)
    if key is None:
        return None
    matches = [_first(name.replace(key, shard), targets) for shard in fused[key]]
    return matches[0] if all(matches) else None
