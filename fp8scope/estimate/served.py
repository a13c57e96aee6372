"""What an engine serves, as far as time and memory go: matmuls, the KV cache, and the rest by size.

All numbers are those of one GPU once `parallel.share` has split a model over several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fp8scope.core.modules import Kind, Treatment
from fp8scope.core.roofline import BF16_BYTES, QUANTIZED_BYTES, GemmShape

Source = Literal["model", "checkpoint", "plan"]
CachePrecision = Literal["bf16", "fp8"]
CACHE_BYTES: dict[CachePrecision, int] = {"bf16": BF16_BYTES, "fp8": QUANTIZED_BYTES}


@dataclass(frozen=True)
class Gemm:
    """One matmul of an engine: a fused group, or a stack of routed experts.

    `name` is the group's, of a stack the stack's own. `own`: what it runs in by the plan or the
    checkpoint, "bf16" where nobody says otherwise. `tied`: its weight is the embedding's, and in
    memory once.
    """

    name: str
    kind: Kind
    shape: GemmShape
    own: Treatment = "bf16"
    tied: bool = False

    @property
    def elements(self) -> int:
        """Weights, of all experts."""
        return self.shape.in_features * self.shape.out_features * max(self.shape.experts, 1)


@dataclass(frozen=True)
class Attention:
    """One layer of attention and its cache.

    A token leaves `kv_heads` × (`key` + `value`) numbers in the cache; under MLA that is one
    vector, `key` wide, and `value` is 0. A query head multiplies `query` numbers with those of
    each token and adds up `output` of it; in decode, where MLA stays in its latent space,
    `decode_query` and `decode_output`. `window`: tokens that it looks back on at most.
    """

    name: str
    heads: int
    kv_heads: int
    key: int
    value: int
    query: int
    output: int
    decode_query: int
    decode_output: int
    window: int | None = None
    own: CachePrecision = "bf16"

    def cached_bytes(self, precision: CachePrecision) -> int:
        """Bytes of the cache that a token takes in this layer."""
        return self.kv_heads * (self.key + self.value) * CACHE_BYTES[precision]

    def looked_at(self, tokens: float) -> float:
        """Tokens in its cache after a sequence of `tokens`."""
        return tokens if self.window is None else min(tokens, self.window)


@dataclass(frozen=True)
class Served:
    """A model as it is served.

    source: whether `own` of matmuls and caches is BF16's (model), what the tensors of a checkpoint
    say, or a plan. `embedding` and `others`: numbers in tensors that are no matmuls, 2 bytes each;
    the first are split over GPUs. `heads` and `kv_heads` are 0 where they are not known.
    `left_out`: what is not counted, and what was taken to be, in sentences.
    """

    name: str
    source: Source
    gemms: tuple[Gemm, ...]
    attention: tuple[Attention, ...]
    hidden: int
    heads: int
    kv_heads: int
    experts_per_token: int
    embedding: int = 0
    others: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        matmuls = sum(gemm.elements for gemm in self.gemms if not gemm.tied)
        return matmuls + self.embedding + self.others

    @property
    def is_latent(self) -> bool:
        """Whether its attention is MLA."""
        return any(layer.value == 0 for layer in self.attention)

    def kv_bytes_per_token(self, precision: CachePrecision | None) -> int:
        """Bytes that a token takes in the cache of all layers; None: each layer in its own."""
        return sum(layer.cached_bytes(precision or layer.own) for layer in self.attention)
