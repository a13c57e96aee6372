"""How vLLM matches names of modules against lists: a matcher per way of quantizing.

Names are those that vLLM builds its modules with. A fused layer (`qkv_proj`) is matched by its own
name or by its shards', which `fused` (`packed_modules_mapping`) gives. `Conflict` is raised where
vLLM refuses to load, `Split` where that is because some shards are listed and others are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

Fused = Mapping[str, Sequence[str]]
Mode = Literal["exact", "suffix", "substring"]

# what MIXED_PRECISION falls back to where a model class declares no map of its own
FALLBACK: Fused = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_WILD = frozenset("*?[")
_SWAPPED = ("language_model.model.", "model.language_model.")


class Conflict(Exception):
    """vLLM raises; the text says what about, without the layer's name."""


class Split(Conflict):
    """Some but not all shards of a fused layer are listed."""

    def __init__(self) -> None:
        super().__init__("the list names only some of its shards")


def shards(name: str, fused: Fused) -> tuple[str, ...]:
    """Names of a fused layer's parts; none where it is not fused."""
    last = _last(name)
    return tuple(name.replace(last, shard) for shard in fused.get(last, ()))


def is_skipped(name: str, entries: Sequence[str], fused: Fused, mode: Mode = "exact") -> bool:
    """Matcher of `fp8`, and the first of three of `modelopt`. Raises Split.

    Few classes have another `mode` than that of whole names, which knows a rule of experts: an
    entry inside them keeps them all.
    """
    parts = shards(name, fused)
    if not parts and "experts" in name and mode == "exact":
        return any(name in entry for entry in entries if "experts" in entry)
    if _listed(name, entries, mode):
        return True
    listed = {_listed(part, entries, mode) for part in parts}
    if len(listed) > 1:
        raise Split
    return True in listed


def _listed(name: str, entries: Sequence[str], mode: Mode) -> bool:
    if mode == "exact":
        return name in entries
    if mode == "suffix":
        return any(name == entry or name.endswith(f".{entry}") for entry in entries)
    return any(entry in name for entry in entries)


def is_excluded(name: str, entries: Sequence[str], fused: Fused) -> bool:
    """Matcher of `modelopt`: whole names, then entries anywhere inside a name, then wildcards.

    Raises Split, before it looks at anything but whole names.
    """
    if not entries:
        return False
    if is_skipped(name, entries, fused):
        return True
    return any(entry in name or _is_like(name, entry) for entry in entries)


def without_stars(entries: Iterable[str]) -> list[str]:
    """What `modelopt` makes of `a.b*` before a class renames its list: `a.b` and `a.b.*`."""
    made = []
    for entry in entries:
        if len(entry) >= 2 and entry[-1] == "*" and entry[-2] != ".":
            made += [entry[:-1], f"{entry[:-1]}.*"]
        else:
            made.append(entry)
    return made


def mixed_algorithm(
    name: str, layers: Mapping[str, Mapping[str, Any]], fused: Fused
) -> tuple[str, tuple[str, ...]] | None:
    """Algorithm of a layer in `quantized_layers`, and the entries it is taken from.

    By its own name; by the shards of it that are listed, be it one; by the first entry under its
    name; for experts by the first entry beside them. Raises Conflict where listed shards differ.
    """
    names = _candidates(name)
    own = next((each for each in names if each in layers), None)
    if own is not None:
        return _algorithm(layers, own), (own,)
    parent, last = name.rpartition(".")[0] or name, _last(name)
    parents = _candidates(parent)
    found = _listed_shards(layers, [f"{p}.{s}" for p in parents for s in fused.get(last, ())])
    if found is not None:
        return found
    starts = [f"{each}." for each in names]
    if name.endswith(".experts"):
        starts.append(f"{name.rsplit('.experts', 1)[0]}.")
    for start in starts:
        under = next((each for each in layers if each.startswith(start)), None)
        if under is not None:
            return _algorithm(layers, under), (under,)
    for each in names:
        before = each.rsplit(".", 1)[0]
        found = _listed_shards(layers, [f"{before}.{s}" for s in FALLBACK.get(last, ())])
        if found is not None:
            return found
    return None


def _listed_shards(
    layers: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> tuple[str, tuple[str, ...]] | None:
    listed = tuple(name for name in names if name in layers)
    algorithms = {_algorithm(layers, name) for name in listed}
    if len(algorithms) > 1:
        raise Conflict(f"its shards are listed with {' and '.join(sorted(algorithms))}")
    return (algorithms.pop(), listed) if listed else None


def _algorithm(layers: Mapping[str, Mapping[str, Any]], name: str) -> str:
    return str(layers[name]["quant_algo"]).upper()


def _candidates(name: str) -> tuple[str, ...]:
    """The name, and what MIXED_PRECISION also takes for it."""
    also = ["lm_head"] if name.endswith(".lm_head") else []
    here, there = _SWAPPED
    if name.startswith(here):
        also.append(there + name.removeprefix(here))
    elif name.startswith(there):
        also.append(here + name.removeprefix(there))
    return (name, *also)


def matching(
    name: str, entries: Iterable[str], fused: Fused, *, wildcards: bool = False
) -> list[set[str]]:
    """The entries that match a layer: one set where its own name is matched, else one per shard.

    `re:` is matched from the start. Wildcards are read in online configs only. Raises re.error.
    """
    listed = list(entries)
    own = {entry for entry in listed if _matches(name, entry, wildcards=wildcards)}
    if own or _last(name) not in fused:
        return [own]
    return [
        {entry for entry in listed if _matches(part, entry, wildcards=wildcards)}
        for part in shards(name, fused)
    ]


def is_ignored(name: str, entries: Iterable[str], fused: Fused, *, wildcards: bool = False) -> bool:
    """Matcher of `ignore` in compressed-tensors and in online configs. Raises Split, re.error."""
    ignored = [bool(each) for each in matching(name, entries, fused, wildcards=wildcards)]
    if any(ignored) and not all(ignored):
        raise Split
    return all(ignored)


def matched_target(
    name: str, module_class: str, targets: Sequence[str], fused: Fused
) -> str | None:
    """Which of compressed-tensors' targets a layer takes its scheme from. Raises re.error.

    By its name, else, of a fused layer all whose shards match, the first shard's, else by its
    class's name.
    """
    return (
        _first(name, targets)
        or _first_shards(name, targets, fused)
        or next((target for target in targets if _in_class(module_class, target)), None)
    )


def _first(name: str, targets: Iterable[str]) -> str | None:
    return next((target for target in targets if _matches(name, target)), None)


def _first_shards(name: str, targets: Sequence[str], fused: Fused) -> str | None:
    whole = next((key for key in fused if name.endswith(key)), None)
    if whole is None:
        return None
    found = [_first(name.replace(whole, shard), targets) for shard in fused[whole]]
    return found[0] if all(found) else None


def _in_class(module_class: str, target: str) -> bool:
    if target.startswith("re:"):
        return bool(re.match(target[3:], module_class))
    return target.lower() in module_class.lower()


def online_target(name: str, targets: Mapping[str, str], fused: Fused) -> str | None:
    """Which of an online config's targets a layer takes its scheme from. Raises Conflict, re.error.

    One that names the fused layer goes before those that name its shards.
    """
    found = matching(name, targets, fused, wildcards=True)
    if not any(found):
        return None
    if not all(found):
        raise Conflict("the targets name only some of its shards")
    several = next((each for each in found if len(each) > 1), None)
    if several is not None:
        raise Conflict(f"several targets match it: {', '.join(sorted(several))}")
    first, *others = [next(iter(each)) for each in found]
    if any(targets[other] != targets[first] for other in others):
        raise Conflict("its shards have targets of different schemes")
    return first


def _matches(name: str, entry: str, *, wildcards: bool = False) -> bool:
    if entry.startswith("re:"):
        return bool(re.match(entry[3:], name))
    return entry == name or (wildcards and _is_like(name, entry))


def _is_like(name: str, entry: str) -> bool:
    """Only what has a wildcard is looked at: lists may name each of many thousand experts."""
    return not _WILD.isdisjoint(entry) and fnmatchcase(name, entry)


def _last(name: str) -> str:
    return name.rsplit(".", maxsplit=1)[-1]
