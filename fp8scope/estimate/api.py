"""What a GPU can give a model, as Python calls it: memory, and bounds of prefill and decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fp8scope.core.gpus import Gpu
from fp8scope.core.roofline import Kernel, Workload
from fp8scope.estimate.bounds import Machine, Phase, PhaseName, Reads
from fp8scope.estimate.memory import Memory, largest_batch, memory
from fp8scope.estimate.parallel import choices, share
from fp8scope.estimate.reading import read_served
from fp8scope.estimate.served import CachePrecision, Served
from fp8scope.estimate.variants import FP8, Variant, variants

__all__ = ["Bounds", "Estimate", "Workload", "estimate", "estimate_model", "read_served"]


@dataclass(frozen=True)
class Bounds:
    """One way to run it on `tp` GPUs: bytes on each of them, and the least time of a pass.

    cache: what the KV cache is in; None is each layer in its own. kv_bytes_per_token: of a token
    in all layers, without windows. largest_batch: sequences of this length that fit, 0 for none.
    fitting_tp: the fewest GPUs that this load fits on, None where none is known. ttft_us: the
    prefill of one prompt alone. reads: bytes of a decode step. decode_turns_at, matmuls_turn_at:
    the smallest batch at which a decode step, or its matmuls alone, are bound by arithmetic; None
    is never. matmuls: each in a prefill of the batch and in a decode step, by its group.
    """

    cache: CachePrecision | None
    memory: Memory
    kv_bytes_per_token: int
    largest_batch: int
    fitting_tp: int | None
    prefill: Phase
    decode: Phase
    ttft_us: float
    reads: Reads
    decode_turns_at: int | None
    matmuls_turn_at: int | None
    matmuls: Mapping[str, Mapping[PhaseName, Kernel]]
    load: Workload

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights with their scales."""
        return self.memory.weights

    @property
    def decode_reads(self) -> float:
        """Bytes that a decode step must read: weights and KV cache."""
        return self.reads.all

    @property
    def fits(self) -> bool:
        """Whether weights, cache and activations fit, for the whole batch."""
        return self.memory.fits

    @property
    def prefill_us(self) -> float:
        """Least time of a prefill of all prompts of the batch."""
        return self.prefill.time_us

    @property
    def decode_us(self) -> float:
        """Least time of a decode step in the middle of the answers."""
        return self.decode.time_us

    @property
    def sequence_tokens_per_s(self) -> float:
        """Most tokens that a sequence gets in decode."""
        return 1e6 / self.decode_us

    @property
    def decode_tokens_per_s(self) -> float:
        """Most tokens that all sequences get in decode."""
        return self.load.batch * self.sequence_tokens_per_s

    @property
    def tokens_per_s(self) -> float:
        """Most generated tokens over the whole time of a batch: its prefill, which gives the first
        token, and a step for each of the others.
        """
        steps = self.load.generate - 1
        time_us = self.prefill_us + steps * self.decode_us
        return self.load.batch * self.load.generate / time_us * 1e6


@dataclass(frozen=True)
class Estimate:
    """Bounds of a model on `tp` GPUs, by `bf16`, `fp8`, `int8_weight` and, of a plan or a
    checkpoint, `plan`. other_cache: `fp8` with the KV cache in the other precision.
    """

    served: Served
    gpu: Gpu
    tp: int
    load: Workload
    bounds: Mapping[str, Bounds]
    other_cache: Bounds

    def speedup(self, name: str, phase: PhaseName) -> float:
        """Times as fast as BF16, by the bounds."""
        before, after = (getattr(self.bounds[each], phase).time_us for each in ("bf16", name))
        return float(before / after)


def estimate(
    served: Served,
    gpu: Gpu,
    *,
    tp: int = 1,
    workload: Workload | None = None,
    kv_cache: CachePrecision | None = None,
) -> Estimate:
    """What `tp` of these GPUs can give at most, as tensor parallelism splits the model.

    workload: a batch of prompts and their answers, 32 × 2048 and 256 where it is not given.
    kv_cache: what the cache is in but for `bf16`; None leaves it in BF16, of a plan or checkpoint
    as that says. Raises BadInput where `tp` GPUs cannot share the heads.
    """
    load = workload or Workload()
    part = share(served, tp)
    ways = variants(served, kv_cache)
    found = {
        name: _bounds(served, Machine(part, gpu, variant), load) for name, variant in ways.items()
    }
    other: CachePrecision = "bf16" if ways[FP8].cache == "fp8" else "fp8"
    turned = _bounds(served, Machine(part, gpu, replace(ways[FP8], cache=other)), load)
    return Estimate(served, gpu, tp, load, found, turned)


estimate_model = estimate
"""The same in `import fp8scope`, where `estimate` is this package."""


def _bounds(served: Served, machine: Machine, load: Workload) -> Bounds:
    part, gpu, variant = machine.served, machine.gpu, machine.variant
    phases: tuple[PhaseName, PhaseName] = ("prefill", "decode")
    return Bounds(
        cache=variant.cache,
        memory=memory(part, variant, gpu, load),
        kv_bytes_per_token=part.kv_bytes_per_token(variant.cache),
        largest_batch=largest_batch(part, variant, gpu, load),
        fitting_tp=_fitting(served, variant, gpu, load),
        prefill=machine.phase("prefill", load),
        decode=machine.phase("decode", load),
        ttft_us=machine.phase("prefill", replace(load, batch=1)).time_us,
        reads=machine.decode_reads(load),
        decode_turns_at=machine.turns_at(load),
        matmuls_turn_at=machine.turns_at(load, attention=False),
        matmuls={
            gemm.name: {name: machine.matmul(gemm, name, load) for name in phases}
            for gemm in part.gemms
        },
        load=load,
    )


def _fitting(served: Served, variant: Variant, gpu: Gpu, load: Workload) -> int | None:
    fitting = (tp for tp in choices(served) if memory(share(served, tp), variant, gpu, load).fits)
    return next(fitting, None)
