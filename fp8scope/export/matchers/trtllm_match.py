"""How TensorRT-LLM's PyTorch backend matches names of modules against lists.

`QuantConfig.is_module_excluded_from_quantization` in the three forms that its sources had: whole
names only, up to 1.2; since May 2026 (1.3.0rc, pull request 13844) also any parent, and `re:`; on
its main branch of September 2026 `x.*` is `x` itself, too. Not held against a released 1.3.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from fp8scope.export.consumer import Layer

WHOLE, PARENTS, SUBTREES = "1.2", "1.3.0rc", "1.3"
_WILD = frozenset("*?[")
VERSIONS = (WHOLE, PARENTS, SUBTREES)


def is_excluded(name: str, entries: Sequence[str], version: str) -> bool:
    """Whether an entry excludes the name. Raises re.error."""
    if version == WHOLE:
        plain, others = _told_apart(tuple(entries))
        return name in plain or any(fnmatchcase(name, entry) for entry in others)
    plain, others = _told_apart(tuple(entries))
    return any(
        candidate in plain or any(_excludes(candidate, entry, version) for entry in others)
        for candidate in _lineage(name)
    )


@lru_cache(maxsize=256)
def _told_apart(entries: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Entries that match themselves alone, and those that are expressions or have wildcards."""
    others = tuple(e for e in entries if e.startswith("re:") or not _WILD.isdisjoint(e))
    return frozenset(entries).difference(others), others


def _lineage(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(len(parts), 0, -1))


def _excludes(candidate: str, entry: str, version: str) -> bool:
    if entry.startswith("re:"):
        return bool(re.fullmatch(entry[3:], candidate))
    if fnmatchcase(candidate, entry):
        return True
    return version == SUBTREES and entry.endswith(".*") and fnmatchcase(candidate, entry[:-2])


def candidates(layer: Layer) -> tuple[str, ...]:
    """Names any one of which excludes the layer: its own, and but for experts its shards'."""
    return (layer.name,) if layer.kind == "experts" else (layer.name, *layer.shards)


def key_of(layer: Layer, keys: Collection[str]) -> str | None:
    """The key of `quantized_layers` that the layer takes its algorithm from, the first of several.

    Fused layers ask for one shard, as a part of the key; experts for any key that they are a part
    of; all others for the key itself.
    """
    parent, _, last = layer.name.rpartition(".")
    if layer.kind == "experts":
        asked: tuple[str, ...] = (layer.name,)
    elif last == "gate_up_proj":
        asked = (f"{parent}.gate_proj", layer.name)
    elif last == "qkv_proj":
        asked = (f"{parent}.q_proj",)
    else:
        return layer.name if layer.name in keys else None
    return next((key for key in keys if any(name in key for name in asked)), None)


def is_target(name: str, target: str) -> bool:
    """Whether a target or an ignored entry of a compressed-tensors config of several groups is the
    name. Raises re.error.
    """
    if target.startswith("re:"):
        return bool(re.match(target[3:], name))
    return target == name


class Targets:
    """Targets, or entries of `ignore`, of such a config: exact names go before expressions."""

    def __init__(self, entries: Iterable[str]) -> None:
        listed = list(entries)
        self._expressions = sorted(entry for entry in listed if entry.startswith("re:"))
        self._names = sorted(set(listed).difference(self._expressions))
        self._named = frozenset(self._names)

    def first(self, name: str) -> str | None:
        """The one that decides of a module. Raises re.error."""
        if name in self._named:
            return name
        return next((each for each in self._expressions if is_target(name, each)), None)

    def idle(self, names: Collection[str]) -> list[str]:
        """Those that are none of the names. Raises re.error."""
        known = frozenset(names)
        return [each for each in self._names if each not in known] + [
            each for each in self._expressions if not any(is_target(name, each) for name in names)
        ]
