"""Bytes on one GPU: weights, KV cache, activations; what fits, and how many sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fp8scope.core.gpus import Gpu
from fp8scope.core.roofline import BF16_BYTES, CHUNK, Workload, weight_bytes
from fp8scope.estimate.served import Served
from fp8scope.estimate.variants import Variant

USABLE = 0.9
"""Share of the memory that engines give to a model: vLLM's default gpu_memory_utilization. The
rest is for CUDA, its graphs and the libraries.
"""
LOGIT_BYTES = BF16_BYTES + 4
"""A logit as lm_head writes it, and in FP32 as it is sampled from."""
MOST_SEQUENCES = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, of `usable` ones. `cache`: of all sequences at the end of their answers."""

    weights: float
    cache: float
    activations: float
    usable: float

    @property
    def needed(self) -> float:
        """All three."""
        return self.weights + self.cache + self.activations

    @property
    def fits(self) -> bool:
        """Whether there is room for all three."""
        return self.needed <= self.usable


def memory(served: Served, variant: Variant, gpu: Gpu, load: Workload) -> Memory:
    """Of the share of a model that one GPU holds, under this load."""
    return Memory(
        weights=weights(served, variant),
        cache=load.batch * cache(served, variant, load.context + load.generate),
        activations=activations(served, load),
        usable=USABLE * gpu.memory_gb * 1e9,
    )


def weights(served: Served, variant: Variant) -> float:
    """Bytes of all weights with their scales; what is no matmul in 2 bytes each."""
    matmuls = sum(
        weight_bytes(gemm.shape, variant.candidate(gemm)) for gemm in served.gemms if not gemm.tied
    )
    return matmuls + BF16_BYTES * (served.embedding + served.others)


def cache(served: Served, variant: Variant, tokens: float) -> float:
    """Bytes that a sequence of so many tokens has in the cache."""
    return sum(
        layer.cached_bytes(variant.cache or layer.own) * layer.looked_at(tokens)
        for layer in served.attention
    )


def activations(served: Served, load: Workload) -> float:
    """Bytes that are live at once in the largest pass, as far as shapes tell.

    Of t = min(batch·context, 8192) tokens: the residual stream and its normed copy, 2·t·hidden
    numbers, and the input and output of the widest matmul, of experts once for each that a token
    goes through; and batch·vocabulary logits. Engines find out by running it, and keep more.
    """
    tokens = max(min(load.batch * load.context, CHUNK), load.batch)
    widest = 0
    for gemm in served.gemms:
        if not gemm.shape.sampled:
            times = min(served.experts_per_token, gemm.shape.experts) or 1
            widest = max(widest, times * (gemm.shape.in_features + gemm.shape.out_features))
    logits = sum(gemm.shape.out_features for gemm in served.gemms if gemm.shape.sampled)
    return tokens * BF16_BYTES * (2 * served.hidden + widest) + load.batch * LOGIT_BYTES * logits


def largest_batch(served: Served, variant: Variant, gpu: Gpu, load: Workload) -> int:
    """The most sequences of this length that fit, 0 where not even one does."""
    return last(
        lambda batch: memory(served, variant, gpu, replace(load, batch=batch)).fits,
        MOST_SEQUENCES,
    )


def last(holds: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` of which `holds`, which holds up to some number and for
    none after it; 0 where it holds for none.
    """
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= most and holds(middle) else (low, middle)
    return low
