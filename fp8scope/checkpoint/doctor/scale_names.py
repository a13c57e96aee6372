"""Which tensors are scales, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fp8scope.checkpoint.doctor.stored import Stored
from fp8scope.checkpoint.listing import Listing

BESIDE = ("weight_scale", "weight_scale_inv", "input_scale", "activation_scale")
_ENDS = tuple(
    f".{word}"
    for word in (
        *BESIDE, "output_scale", "q_scale", "prob_scale", "pre_quant_scale", "input_scale_ub",
    )
)  # fmt: skip
_CACHE_SCALE = re.compile(
    r"(?P<attention>.+?)(\.([kv]|qkv|c)_proj|\.query_key_value|\.attn|\.[kv]_cache)?"
    r"\.(?P<what>[kv]|kv)_scale$"
)
_OLD_CACHE_SCALE = re.compile(
    r"(?P<attention>.+)\.(?P<what>[kv])(_cache\.scale|_proj\.output_scale)$"
)


@dataclass(frozen=True)
class CacheScale:
    """One scale of a KV cache: of `k`, `v` or both (`kv`)."""

    name: str
    attention: str
    what: str


def cache_scales(names: Iterable[str]) -> Iterator[CacheScale]:
    """Those of the names that are scales of a KV cache."""
    for name in names:
        if name.endswith(("_scale", "_cache.scale")):
            match = _OLD_CACHE_SCALE.match(name) or _CACHE_SCALE.match(name)
            if match is not None:
                yield CacheScale(name, match["attention"], match["what"])


def scale_tensors(listing: Listing, linears: Iterable[Stored]) -> frozenset[str]:
    """The names of all tensors that are scales; `linears` are those of the listing."""
    names = {tensor.name for tensor in listing.tensors}
    beside = {s.name for each in linears for s in (each.scale, each.input_scale) if s is not None}
    caches = {scale.name for scale in cache_scales(names)}
    return frozenset(beside | caches | {name for name in names if name.endswith(_ENDS)})
