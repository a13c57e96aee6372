"""The ways to run a model that are held against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fp8scope.core.modules import Treatment
from fp8scope.estimate.served import CachePrecision, Gemm, Served

BF16, FP8, INT8_WEIGHT, PLAN = "bf16", "fp8", "int8_weight", "plan"
_RUNS_AS: Mapping[Treatment, str] = {
    "bf16": "bf16",
    "fp8_tensor": "fp8_tensor",
    "fp8_tensor_dynamic": "fp8_token",  # its pass over the input is the same
    "fp8_token": "fp8_token",
    "fp8_block": "fp8_block",
    "other": "fp8_tensor",  # FP8 with scales of an unknown shape
}


@dataclass(frozen=True)
class Variant:
    """`candidate`: what a matmul runs in, a name of `core.schemes`. `cache`: of all layers; None
    leaves each in its own.
    """

    candidate: Callable[[Gemm], str]
    cache: CachePrecision | None


def variants(served: Served, cache: CachePrecision | None) -> dict[str, Variant]:
    """BF16; all linears but lm_head and routers in FP8 with static scales, and with INT8 weights;
    and what the plan or the checkpoint says, where that is something else than BF16.

    cache: what the KV cache is in, but in `bf16`; None leaves it in BF16, or as the plan says.
    """
    found = {
        BF16: Variant(lambda _: "bf16", "bf16"),
        FP8: Variant(_all_in("fp8_tensor"), cache or "bf16"),
        INT8_WEIGHT: Variant(_all_in("int8_weight"), cache or "bf16"),
    }
    if served.source != "model":
        found[PLAN] = Variant(lambda gemm: _RUNS_AS[gemm.own], cache)
    return found


def _all_in(candidate: str) -> Callable[[Gemm], str]:
    return lambda gemm: "bf16" if gemm.kind in {"lm_head", "router"} else candidate
