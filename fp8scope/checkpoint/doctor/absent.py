"""What should be there by config.json and by its neighbours, and is not: layers, experts, linears.

Engines make room for all of it, and leave in that room whatever was in memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from fp8scope.checkpoint.doctor.contents import ASIDE, LAYER, Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import are

FETCH = "fetch or build the checkpoint again: engines go on with whatever is in memory there"
RARE = 10  # an unlike block in ten may be meant so
_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_LEAF = re.compile(r"\.(weight|weight_packed|qweight)$")
_COUNTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
# by those that no architecture has without the other
_PAIRS = (("gate_proj", "up_proj"), ("k_proj", "v_proj"), ("v_proj", "k_proj"), ("w3", "w1"))


def absent_faults(contents: Contents) -> Iterator[Fault]:
    """Layers and experts of config.json, and linears that their neighbours have."""
    if contents.listing.is_blind or not contents.stored:
        return
    known = [*contents.tensors, *contents.listing.lost]
    yield from _layers(contents, known)
    yield from _experts(contents, known)
    linears = missing_linears(contents)
    if linears:
        why = "though what it is fused with, or its like in other layers, is there"
        what = f"{are(linears, 'linear')} not in the files, {why}"
        yield Fault("linear-missing", "error", what, FETCH, tuple(linears))


def _layers(contents: Contents, names: Iterable[str]) -> Iterator[Fault]:
    wanted = contents.layers
    stacks: dict[str, set[int]] = {}
    for name in names:
        if (found := LAYER.match(name)) and not ASIDE.search(name):
            stacks.setdefault(found["stack"], set()).add(int(found["number"]))
    if wanted is None or len(stacks) != 1:
        return  # several models in one
    ((stack, numbers),) = stacks.items()
    lost = [f"{stack}.{number}" for number in range(wanted) if number not in numbers]
    if lost:
        said = f"num_hidden_layers in config.json is {wanted}"
        what = f"{said}, and {are(lost, 'layer')} not in the files"
        yield Fault("layers-missing", "error", what, FETCH, tuple(lost))


def _experts(contents: Contents, names: Iterable[str]) -> Iterator[Fault]:
    known = ((key, contents.count(key)) for key in _COUNTS)
    key, wanted = next(((key, count) for key, count in known if count is not None), ("", 0))
    held: dict[str, set[int]] = {}
    for name in names:
        if found := _EXPERT.match(name):
            held.setdefault(found["experts"], set()).add(int(found["number"]))
    lost = [
        f"{experts}.{number}"
        for experts, numbers in held.items()
        for number in range(wanted)
        if number not in numbers
    ]
    if lost:
        said = f"{key} in config.json is {wanted}"
        what = f"{said}, and {are(lost, 'expert')} not in the files"
        yield Fault("experts-missing", "error", what, FETCH, tuple(lost))


def missing_linears(contents: Contents) -> list[str]:
    """Linears whose other half is there, or that nearly all blocks of the kind have."""
    if contents.listing.is_blind:
        return []
    blocks: dict[str, set[str]] = {}
    for name in (*(f"{each.name}.weight" for each in contents.stored), *contents.listing.lost):
        if leaf := _LEAF.search(name):
            parent, _, last = name[: leaf.start()].rpartition(".")
            blocks.setdefault(parent, set()).add(last)
    kinds: dict[str, list[str]] = {}
    for parent in blocks:
        kinds.setdefault(_NUMBER.sub("#", parent), []).append(parent)
    found: dict[str, None] = {}
    for parents in kinds.values():
        found |= dict.fromkeys(_of_kind(contents, parents, blocks))
    return list(found)


def _of_kind(
    contents: Contents, parents: list[str], blocks: Mapping[str, set[str]]
) -> Iterator[str]:
    sets = Counter(frozenset(blocks[parent]) for parent in parents)
    for parent in parents:
        own = frozenset(blocks[parent])
        for has, lacks in _PAIRS:
            if has in own and lacks not in own and not _may_share(contents, has, lacks):
                yield f"{parent}.{lacks}"
        if contents.is_beyond(parent) or (own & {"k_proj", "q_proj"} and _shares(contents)):
            continue
        wider = [each for each in sets if own < each and _is_rare(sets[own], sets[each])]
        for last in sorted(max(wider, key=lambda each: sets[each]) - own) if wider else ():
            yield f"{parent}.{last}"


def _is_rare(count: int, others: int) -> bool:
    return (count == 1 and others > 1) or count * RARE <= others


def _may_share(contents: Contents, has: str, lacks: str) -> bool:
    return "k_proj" in {has, lacks} and _shares(contents)


def _shares(contents: Contents) -> bool:
    """Whether layers take keys or values from elsewhere."""
    keys = ("num_kv_shared_layers", "attention_k_eq_v", "kv_lora_rank", "cross_attention_layers")
    return any(contents.text(key) for key in keys)
