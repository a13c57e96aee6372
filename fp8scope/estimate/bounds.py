"""How fast a GPU can be at most: the roofline of a prefill and of a decode step.

Kernel after kernel, each as long as its arithmetic at the peak rate or its bytes at the peak
bandwidth (`core.roofline`); with attention's own arithmetic, in 16 bits. Left out: norms, the
sampler, launches, and what GPUs tell each other. So real engines are slower, never faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from fp8scope.core.gpus import Gpu
from fp8scope.core.roofline import BF16_BYTES, GemmShape, Kernel, Roofline, Workload
from fp8scope.estimate.memory import last
from fp8scope.estimate.served import Attention, Gemm, Served
from fp8scope.estimate.variants import Variant

PhaseName = Literal["prefill", "decode"]
MOST_BATCH = 1 << 16
"""The largest batch that is looked at for where decode turns."""


@dataclass(frozen=True)
class Phase:
    """A pass over all layers: its time, and that of all its arithmetic and of all its bytes, each
    as if the other took none, µs.
    """

    time_us: float
    compute_us: float
    memory_us: float

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Which takes longer."""
        return "compute" if self.compute_us > self.memory_us else "memory"


class Reads(NamedTuple):
    """Bytes that a decode step must read on one GPU: weights, of experts those that are gone
    through, and the KV cache in the middle of the answers.
    """

    weights: float
    cache: float

    @property
    def all(self) -> float:
        """Both."""
        return self.weights + self.cache


@dataclass(frozen=True)
class Machine:
    """One GPU, the share of the model on it, and the way to run it."""

    served: Served
    gpu: Gpu
    variant: Variant

    def phase(self, name: PhaseName, load: Workload, *, attention: bool = True) -> Phase:
        """A prefill of the whole batch, or the decode step in the middle of the answers. Without
        `attention` the matmuls alone.
        """
        kernels = list(self._matmuls(name, load))
        if attention:
            kernels += self._attention(name, load)
        return Phase(
            sum(count * kernel.time_us for kernel, count in kernels),
            sum(count * kernel.compute_us for kernel, count in kernels),
            sum(count * (kernel.memory_us + kernel.before_us) for kernel, count in kernels),
        )

    def matmul(self, gemm: Gemm, name: PhaseName, load: Workload) -> Kernel:
        """One matmul in a prefill of the whole batch, or in a decode step."""
        return self._gemm(gemm.shape, self.variant.candidate(gemm), name, load)

    def turns_at(self, load: Workload, *, attention: bool = True) -> int | None:
        """The smallest batch whose decode step is bound by arithmetic; None: none is, for the KV
        cache that must be read grows with the batch as the arithmetic does.
        """

        def reads(batch: int) -> bool:
            at = replace(load, batch=batch)
            return self.phase("decode", at, attention=attention).bound == "memory"

        found = last(reads, MOST_BATCH) + 1
        return found if found <= MOST_BATCH else None

    def decode_reads(self, load: Workload) -> Reads:
        """Of the whole batch."""
        roofline = self._roofline
        weights = sum(
            roofline.weights_read(gemm.shape, self.variant.candidate(gemm), load.batch)
            for gemm in self.served.gemms
        )
        cached = sum(self._cached(layer, load) for layer in self.served.attention)
        return Reads(weights, load.batch * cached)

    @cached_property
    def _alike(self) -> Mapping[tuple[GemmShape, str], int]:
        """Matmuls of one shape that run alike, and how many there are: most layers are the same."""
        return Counter((gemm.shape, self.variant.candidate(gemm)) for gemm in self.served.gemms)

    @cached_property
    def _layers(self) -> Mapping[Attention, int]:
        """The same of attention."""
        return Counter(replace(layer, name="") for layer in self.served.attention)

    @cached_property
    def _roofline(self) -> Roofline:
        return Roofline(self.gpu, Workload(), self.served.experts_per_token)

    def _matmuls(self, name: PhaseName, load: Workload) -> Iterator[tuple[Kernel, int]]:
        for (shape, candidate), count in self._alike.items():
            yield self._gemm(shape, candidate, name, load), count

    def _gemm(self, shape: GemmShape, candidate: str, name: PhaseName, load: Workload) -> Kernel:
        all_of_prompt = name == "prefill" and not shape.sampled
        tokens = load.batch * load.context if all_of_prompt else load.batch
        return self._roofline.gemm(shape, candidate, tokens)

    def _attention(self, name: PhaseName, load: Workload) -> Iterator[tuple[Kernel, int]]:
        for layer, count in self._layers.items():
            yield (
                (self._prefill(layer, load) if name == "prefill" else self._decode(layer, load)),
                count,
            )

    def _prefill(self, layer: Attention, load: Workload) -> Kernel:
        """2·heads·(query + output) operations for each pair of a token and one that it looks at,
        which is itself and those before it. Queries and keys are read and outputs written once
        (FlashAttention, arXiv 2205.14135).
        """
        width = layer.heads * (layer.query + layer.output)
        tokens = load.batch * load.context
        cached = layer.cached_bytes(self.variant.cache or layer.own)
        return self._kernel(
            2 * width * load.batch * pairs(load.context, layer.window),
            tokens * (BF16_BYTES * width + cached),
        )

    def _decode(self, layer: Attention, load: Workload) -> Kernel:
        """Each sequence reads what it has cached, and multiplies it."""
        width = layer.heads * (layer.decode_query + layer.decode_output)
        seen = layer.looked_at(_middle(load))
        return self._kernel(2 * width * load.batch * seen, load.batch * self._cached(layer, load))

    def _cached(self, layer: Attention, load: Workload) -> float:
        """Bytes of a sequence in the middle of its answer."""
        each = layer.cached_bytes(self.variant.cache or layer.own)
        return each * layer.looked_at(_middle(load))

    def _kernel(self, operations: float, size: float) -> Kernel:
        rate, bandwidth = self.gpu.tflops["bf16"], self.gpu.bandwidth_gb_s
        return Kernel(operations / rate / 1e6, size / bandwidth / 1e3)


def pairs(tokens: int, window: int | None) -> int:
    """Pairs of a token and one that it looks at, in a prompt: Σ min(i, window), i = 1 … tokens."""
    if window is None or tokens <= window:
        return tokens * (tokens + 1) // 2
    return window * (window + 1) // 2 + (tokens - window) * window


def _middle(load: Workload) -> float:
    """Tokens of a sequence in the middle of its answer."""
    return load.context + load.generate / 2
