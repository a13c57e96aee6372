"""The KV cache in FP8: rows for JSON, sentences for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fp8scope.analyze.kvcache import CachedLayer, CachedTensor, Safety
from fp8scope.analyze.thresholds import HARM_NATS
from fp8scope.core.formats import E4M3
from fp8scope.core.words import common_prefix, decibel, nats, percent, short_name, site_name, times
from fp8scope.report.rows import finite

MOST = 8


def kvcache_rows(layers: Sequence[CachedLayer]) -> list[dict[str, Any]]:
    """One per attention module, in their order; `k` and `v` with their heads, worst first."""
    return [
        {
            "module": layer.module,
            "calibrated": str(layer.calibrated_safety),
            "unit_scale": str(layer.unit_safety),
            "kl_nats": finite(layer.kl.kl if layer.kl else None),
            "unit_kl_nats": finite(layer.unit_kl.kl if layer.unit_kl else None),
            **{str(tensor.site.role): _tensor(tensor) for tensor in layer.tensors},
        }
        for layer in layers
    ]


def kvcache_sentences(layers: Sequence[CachedLayer]) -> list[str]:
    """With calibrated scales; with scale 1; and, where it is known, what that costs."""
    if not layers:
        return []
    prefix = common_prefix(layer.module for layer in layers)
    low = min(layers, key=lambda layer: layer.worst.lowest_db).worst
    where = site_name(low.site, prefix)
    if low.heads and low.heads[0].error.body_sqnr_db == low.lowest_db:
        where += f" head {low.heads[0].head}"
    said = [
        f"KV cache in E4M3, one calibrated scale each for K and V: "
        f"{_counts(layers, lambda layer: layer.calibrated_safety)}; "
        f"lowest body SQNR {decibel(low.lowest_db)} ({where}).",
        _unit(layers, prefix),
    ]
    scored = [layer for layer in layers if layer.kl]
    if scored:
        said.append(f"In nats per token a layer's cache costs at most {_most(scored, prefix)}.")
    return said


def cache_sentences(layers: Sequence[CachedLayer]) -> list[str]:
    """The layers whose cache alone is a finding, even with calibrated scales."""
    costs = {layer.module: layer.kl.kl for layer in layers if layer.kl}
    harmful = [module for module, kl in costs.items() if kl >= HARM_NATS]
    if not harmful:
        return []
    prefix = common_prefix(layer.module for layer in layers)
    named = [f"{short_name(m, prefix)} {nats(costs[m])}" for m in harmful[:MOST]]
    more = f" and {len(harmful) - MOST} more" if len(harmful) > MOST else ""
    return [
        f"KV cache: keep it in BF16 in {len(harmful)} of {len(layers)} layers, where FP8 costs "
        f"{HARM_NATS} nats per token or more even with calibrated scales: {', '.join(named)}{more}."
    ]


def _most(layers: Sequence[CachedLayer], prefix: str) -> str:
    """`0.0020 (layers.3.self_attn), with scale 1 0.0019 (…)`."""
    words = []
    for start, which in (("", "kl"), ("with scale 1 ", "unit_kl")):
        found = {layer.module: getattr(layer, which) for layer in layers}
        costs = {module: score.kl for module, score in found.items() if score}
        if costs:
            worst = max(costs, key=lambda module: costs[module])
            words.append(f"{start}{nats(costs[worst])} ({short_name(worst, prefix)})")
    return ", ".join(words)


def _unit(layers: Sequence[CachedLayer], prefix: str) -> str:
    """The sentence on scale 1, which engines take where none is calibrated."""
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    largest = max(tensors, key=lambda tensor: tensor.amax)
    lost = max(tensors, key=lambda tensor: tensor.unit.underflow_rate)
    clipped = sum(tensor.unit.saturated > 0 for tensor in tensors)
    clips = (
        f"{clipped} of {len(tensors)} tensors are clipped, the largest "
        f"{times(largest.amax / E4M3.max)}× over ({site_name(largest.site, prefix)})"
        if clipped
        else "nothing is clipped"
    )
    return (
        "With scale 1.0, the default of engines: "
        f"{_counts(layers, lambda layer: layer.unit_safety)}; "
        f"{clips}, underflow at most {percent(lost.unit.underflow_rate)} "
        f"({site_name(lost.site, prefix)})."
    )


def _counts(layers: Sequence[CachedLayer], of: Callable[[CachedLayer], Safety]) -> str:
    """`all 5 layers safe`, or `3 safe, 1 marginal, 1 unsafe of 5 layers`."""
    found = {safety: sum(of(layer) is safety for layer in layers) for safety in Safety}
    for safety, count in found.items():
        if count == len(layers):
            return f"all {count} layers {safety}"
    return (
        ", ".join(f"{count} {safety}" for safety, count in found.items() if count)
        + f" of {len(layers)} layers"
    )


def _tensor(tensor: CachedTensor) -> dict[str, Any]:
    return {
        "amax": tensor.amax,
        "calibrated_body_sqnr_db": finite(tensor.calibrated.body_sqnr_db),
        "calibrated_underflow_rate": tensor.calibrated.underflow_rate,
        "unit_body_sqnr_db": finite(tensor.unit.body_sqnr_db),
        "unit_underflow_rate": tensor.unit.underflow_rate,
        "unit_saturation_rate": tensor.unit.saturation_rate,
        "heads": [
            {
                "head": head.head,
                "amax": head.amax,
                "body_sqnr_db": finite(head.error.body_sqnr_db),
                "underflow_rate": head.error.underflow_rate,
            }
            for head in tensor.heads
        ],
    }
