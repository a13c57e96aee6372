"""Which tensors are scales, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fp8scope.checkpoint.doctor.stored import stored_linears
from fp8scope.checkpoint.linears import scale_names
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


def scale_tensors(listing: Listing, config: Mapping[str, Any]) -> frozenset[str]:
    """The names of all tensors that are scales."""
    beside = {
        name
        for linear in stored_linears(listing, config)
        for role in ("weight", "input")
        for name in scale_names(linear.weight.name, role)
    }
    names = {tensor.name for tensor in listing.tensors}
    caches = {scale.name for scale in cache_scales(names)}
    return frozenset((beside & names) | caches | {name for name in names if name.endswith(_ENDS)})
