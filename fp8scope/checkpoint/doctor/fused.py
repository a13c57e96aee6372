"""What engines run as one and is not stored alike: shards of a fused layer, experts of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import counted, some, verb
from fp8scope.checkpoint.doctor.stored import Stored
from fp8scope.core.modules import WORDS, Treatment

REMEDY = "quantize all of them alike: engines refuse, or take the first for all"
_WAYS: dict[tuple[str, bool], Treatment] = {
    ("tensor", True): "fp8_tensor",
    ("tensor", False): "fp8_tensor_dynamic",
    ("channel", False): "fp8_token",
    ("block", False): "fp8_block",
}


def fused_faults(contents: Contents) -> Iterator[Fault]:
    """A fault for all fused layers that are split, and one for all layers of such experts."""
    groups = split_groups(contents)
    fused = [members for members in groups if members[0].module.kind != "expert"]
    if fused:
        names = tuple(each.name for members in fused for each in members)
        ways = _ways(contents, fused[0])
        shards = (f"{_lasts(own)} {verb(own, 'is', 'are')} {way}" for way, own in ways.items())
        what = f"{_parent(fused[0])} is run with its shards fused, and {'; '.join(shards)}"
        yield Fault("fused-split", "error", what + _more(fused, "layer"), REMEDY, names)
    experts = [members for members in groups if members[0].module.kind == "expert"]
    if experts:
        names = tuple(each.name for members in experts for each in members)
        ways = _ways(contents, experts[0])
        most = max(ways, key=lambda way: len(ways[way]))
        few = (f"{some(_names(own))} in {way}" for way, own in ways.items() if way != most)
        what = f"the experts of {experts[0][0].module.group} are run as one in {most}, but for "
        what = f"{what}{'; '.join(few)}{_more(experts, 'layer')}"
        yield Fault("experts-split", "error", what, REMEDY, names)


def split_groups(contents: Contents) -> list[tuple[Stored, ...]]:
    """Fused groups whose members are not stored alike. Those that are wrong in themselves are left
    out of it: they are named for that.
    """
    groups: dict[str, list[Stored]] = {}
    for each in contents.stored:
        is_fused = each.module.kind == "expert" or each.module.group != each.name
        if is_fused and each.name not in contents.unsound:
            groups.setdefault(each.module.group, []).append(each)
    return [tuple(own) for own in groups.values() if len({_way(contents, m) for m in own}) > 1]


def _way(contents: Contents, each: Stored) -> str:
    """In words, what must be alike. Whether inputs have scales is the metadata's to say."""
    if not each.is_fp8:
        return "BF16" if each.is_plain else each.weight.dtype
    scheme = contents.declared(each)
    static = scheme.static if scheme.weights != "bf16" else each.input_scale is not None
    granularity = contents.granularity(each)
    known = _WAYS.get((str(granularity), static))
    return WORDS[known] if known else f"FP8 per {granularity} with static input scales"


def _ways(contents: Contents, members: Sequence[Stored]) -> Mapping[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    for each in members:
        found.setdefault(_way(contents, each), []).append(each)
    return found


def _names(members: Sequence[Stored]) -> list[str]:
    return [each.name for each in members]


def _lasts(members: Sequence[Stored]) -> str:
    return ", ".join(each.name.rpartition(".")[2] for each in members)


def _parent(members: Sequence[Stored]) -> str:
    return members[0].name.rpartition(".")[0]


def _more(groups: Sequence[object], noun: str) -> str:
    left = len(groups) - 1
    return f" (and {counted(left, noun)} more like it)" if left else ""
