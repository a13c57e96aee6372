"""What engines run as one, and what they never run in FP8."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fp8scope.checkpoint.doctor.contents import FLOATS8, Contents, Stored
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import many, some, verb
from fp8scope.core.modules import WORDS

SIDE = 16
_NORM = re.compile(r"(^|[._])(norm|layernorm|ln)[^.]*\.(weight|bias)$|norm\.(weight|bias)$")


def fused_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of linears as such, whatever the metadata says."""
    yield from _groups(contents)
    yield from _kept(contents)
    yield from _sides(contents)


def _groups(contents: Contents) -> Iterator[Fault]:
    groups: dict[str, list[Stored]] = {}
    for each in contents.stored:
        if each.module.kind == "expert" or each.module.group != each.name:
            groups.setdefault(each.module.group, []).append(each)
    split: list[Stored] = []
    experts: list[Stored] = []
    for members in groups.values():
        known = [m for m in members if not m.is_fp8 or m.granularity is not None]
        if len({_key(contents, member) for member in known}) > 1:
            (experts if members[0].module.kind == "expert" else split).extend(members)
    remedy = "quantize all of them alike: engines refuse, or take the first for all"
    if split:
        names = [each.name for each in split]
        what = f"{some(names)} are run as one by engines, and are stored {_ways(split)}"
        yield Fault("fused-split", "error", what, remedy, tuple(names))
    if experts:
        names = [each.name for each in experts]
        layers = list(dict.fromkeys(each.module.group for each in experts))
        what = f"the experts of {some(layers)} are stored {_ways(experts)}"
        few = min(
            ([e.name for e in experts if _kind(e) == kind] for kind in {*map(_kind, experts)}),
            key=len,
        )
        yield Fault("experts-split", "error", f"{what} ({some(few)})", remedy, tuple(names))


def _key(contents: Contents, each: Stored) -> tuple[str, str | None, bool]:
    """What must be alike. Whether inputs have scales is the metadata's to say."""
    if not each.is_fp8:
        return ("BF16" if each.is_plain else each.weight.dtype, None, False)
    scheme = contents.declared(each)
    static = scheme.static if scheme.weights != "bf16" else each.input_scale is not None
    return (each.weight.dtype, each.granularity, static)


def _kind(each: Stored) -> str:
    if not each.is_fp8:
        return "BF16" if each.is_plain else each.weight.dtype
    return WORDS[each.module.wanted or "other"]


def _ways(members: list[Stored]) -> str:
    return " and ".join(sorted({_kind(each) for each in members}))


def _kept(contents: Contents) -> Iterator[Fault]:
    linear = {each.weight.name: each for each in contents.stored}
    routers = [e.name for e in linear.values() if e.module.kind == "router" and not e.is_plain]
    if routers:
        what = f"{many(routers, 'router')} {verb(routers, 'is', 'are')} quantized"
        remedy = "keep routers in BF16: engines build them so"
        yield Fault("router-quantized", "error", what, remedy, tuple(routers))
    floats = [
        t
        for t in contents.listing.tensors
        if t.dtype in FLOATS8
        and t.name not in linear
        and t.name not in contents.values.scales
        and t.name.endswith((".weight", ".bias"))
    ]
    norms = [t.name for t in floats if len(t.shape) == 1 or _NORM.search(t.name)]
    if norms:
        what = f"{many(norms, 'weight')} of norms or biases in FP8"
        yield Fault("norm-quantized", "error", what, "keep norms and biases in BF16", tuple(norms))
    embeddings = [t.name for t in floats if t.name not in norms]
    if embeddings:
        what = f"{many(embeddings, 'embedding')} in FP8"
        remedy = "keep embeddings in BF16: engines look their rows up without a scale"
        yield Fault("embedding-quantized", "error", what, remedy, tuple(embeddings))


def _sides(contents: Contents) -> Iterator[Fault]:
    odd = [
        each.name
        for each in contents.fp8
        if each.module.out_features % SIDE or each.module.in_features % SIDE
    ]
    if odd:
        what = f"{many(odd, 'FP8 linear')} with a side that is no multiple of {SIDE}"
        remedy = "keep them in BF16: FP8 GEMMs pad them or refuse"
        yield Fault("sides-unaligned", "warning", what, remedy, tuple(odd))
