"""What a GPU can give a model, as plain values: the numbers of the page and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fp8scope.estimate.api import Bounds, Estimate


def estimate_json(found: Sequence[Estimate]) -> dict[str, Any]:
    """The same numbers. Times in µs, sizes in bytes on one GPU; null is never, or not known."""
    first = found[0]
    load = first.load
    return {
        "model": first.served.name,
        "source": first.served.source,
        "parameters": first.served.parameters,
        "tp": first.tp,
        "load": {"batch": load.batch, "context": load.context, "generate": load.generate},
        "left_out": list(first.served.left_out),
        "gpus": [_gpu_json(each) for each in found],
    }


def _gpu_json(of: Estimate) -> dict[str, Any]:
    gpu = of.gpu
    return {
        "gpu": gpu.name,
        "title": gpu.title,
        "compute_capability": list(gpu.compute_capability),
        "has_fp8": gpu.has_fp8,
        "memory_gb": gpu.memory_gb,
        "memory_shared_with": gpu.memory_shared_with or None,
        "bandwidth_gb_s": gpu.bandwidth_gb_s,
        "tflops": dict(gpu.tflops),
        "source": gpu.source,
        "bounds": {name: _bounds_json(of, name, each) for name, each in of.bounds.items()},
        "fp8_other_cache": _bounds_json(of, None, of.other_cache),
    }


def _bounds_json(of: Estimate, name: str | None, bounds: Bounds) -> dict[str, Any]:
    baseline = of.bounds["bf16"]
    return {
        "kv_cache": bounds.cache or "own",
        "weight_bytes": bounds.weight_bytes,
        "kv_bytes_per_token": bounds.kv_bytes_per_token,
        "kv_bytes": bounds.memory.cache,
        "activation_bytes": bounds.memory.activations,
        "usable_bytes": bounds.memory.usable,
        "fits": bounds.fits,
        "largest_batch": bounds.largest_batch,
        "fitting_tp": bounds.fitting_tp,
        "prefill_us": bounds.prefill_us,
        "prefill_bound": bounds.prefill.bound,
        "prefill_speedup": baseline.prefill_us / bounds.prefill_us,
        "ttft_us": bounds.ttft_us,
        "decode_us": bounds.decode_us,
        "decode_bound": bounds.decode.bound,
        "decode_speedup": baseline.decode_us / bounds.decode_us,
        "decode_read_bytes": bounds.decode_reads,
        "decode_turns_at_batch": bounds.decode_turns_at,
        "matmuls_turn_at_batch": bounds.matmuls_turn_at,
        "sequence_tokens_per_s": bounds.sequence_tokens_per_s,
        "decode_tokens_per_s": bounds.decode_tokens_per_s,
        "tokens_per_s": bounds.tokens_per_s,
    }
