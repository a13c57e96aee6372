"""The KV cache: what the metadata says of it, and the scales of keys and values."""

from __future__ import annotations

from collections.abc import Iterator

from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.counting import ScaleValues
from fp8scope.checkpoint.doctor.diagnosis import CacheFacts, Fault
from fp8scope.checkpoint.doctor.phrases import are, many, verb
from fp8scope.checkpoint.doctor.scale_names import CacheScale, cache_scales

LARGEST = 50.0  # |k| of 22,400
CALIBRATE = "calibrate the KV cache again"


def cache_facts(contents: Contents) -> CacheFacts:
    """What there is, for a person."""
    said = contents.declaration
    kinds = [scale.what for scale in contents.cache_scales]
    both = kinds.count("kv")
    declared = said.kv_cache if said is not None else None
    return CacheFacts(declared, kinds.count("k") + both, kinds.count("v") + both)


def cache_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of the scales of the KV cache."""
    yield from _values(contents)
    yield from _coverage(contents)
    scales = [scale.name for scale in contents.cache_scales]
    said = contents.declaration
    if scales and said is not None and said.kv_cache is None:
        what = f"{many(scales, 'KV scale')}, and {said.file} says nothing of an FP8 KV cache"
        remedy = "say kv_cache_quant_algo or kv_cache_scheme, or delete the scales"
        yield Fault("kv-undeclared", "warning", what, remedy, tuple(scales))


def _values(contents: Contents) -> Iterator[Fault]:
    known = [
        (scale.name, values)
        for scale in contents.cache_scales
        if (values := contents.values.scales.get(scale.name)) is not None and values.values
    ]
    bad = [name for name, values in known if _is_broken(values)]
    if bad:
        what = f"{are(bad, 'KV scale')} NaN, infinite, zero or negative"
        yield Fault("kv-scale-invalid", "error", what, CALIBRATE, tuple(bad))
    huge = [name for name, values in known if values.highest > LARGEST]
    if huge:
        value = contents.values.scales[huge[0]].highest
        what = f"{are(huge, 'KV scale')} far too large (the first is {value:.4g})"
        remedy = "a scale is amax / 448, and not its inverse"
        yield Fault("kv-scale-huge", "error", what, remedy, tuple(huge))
    ones = [name for name, values in known if values.ones == values.values]
    if ones:
        what = f"{are(ones, 'KV scale')} exactly 1, as without calibration"
        remedy = f"{CALIBRATE}, or accept that small keys and values lose bits"
        yield Fault("kv-scale-unity", "warning", what, remedy, tuple(ones))


def _is_broken(values: ScaleValues) -> bool:
    return bool(values.nan or values.inf or values.zero or values.negative)


def _coverage(contents: Contents) -> Iterator[Fault]:
    by_layer: dict[str, list[CacheScale]] = {}
    for scale in contents.cache_scales:
        by_layer.setdefault(scale.attention, []).append(scale)
    lost = {scale.attention for scale in cache_scales(contents.listing.lost)}
    if contents.listing.is_blind:
        return
    one_vector = contents.text("kv_lora_rank") is not None  # MLA caches a latent, under k
    for has, lacks in (("k", "v"), ("v", "k")):
        half = [
            scales[0].name
            for attention, scales in by_layer.items()
            if attention not in lost
            and {scale.what for scale in scales} == {has}
            and not (one_vector and has == "k")
        ]
        if half:
            what = f"{are(half, 'KV scale')} of {has}, without one of {lacks}"
            remedy = f"{CALIBRATE}: engines take the one scale for both"
            yield Fault("kv-half", "error", what, remedy, tuple(half))
    said = contents.declaration
    if said is None or said.kv_cache != "fp8":
        return
    layers = contents.attentions
    bare = [name for name in layers if name not in by_layer and name not in lost]
    if not by_layer and not lost:
        what = f"{said.file} says that the KV cache is FP8, and there are no scales for it"
        remedy = f"{CALIBRATE}: engines take 1 for each"
        yield Fault("kv-scales-missing", "warning", what, remedy, layers or (said.file,))
    elif bare and len(bare) < len(layers) and not contents.text("num_kv_shared_layers"):
        what = f"{many(bare, 'layer')} of {len(layers)} {verb(bare, 'has', 'have')} no KV scales"
        remedy = f"{CALIBRATE}: engines take 1 for those that are missing"
        yield Fault("kv-scales-incomplete", "error", what, remedy, tuple(bare))
