"""Whole, valid verdicts for tests: two fused groups on a GPU, one of them expected in FP8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.artefacts.verdict import (
    Cache,
    Compared,
    Gate,
    Group,
    Hardware,
    KernelUse,
    ModelId,
    Percentiles,
    Phase,
    Ran,
    Speed,
    Total,
    Verdict,
)

DOWN, HEAD = "model.layers.0.mlp.down_proj", "lm_head"
ATTENTION = "model.layers.0.self_attn"
FP8_KERNEL, BF16_KERNEL = (
    "nvjet_qqtst_128x256_64x4_2x1_v_bz_TNT",
    "nvjet_tst_64x8_64x16_2x4_h_bz_TNT",
)
TIMES: dict[str, dict[str, float]] = {
    DOWN: {"fp8_tensor": 9.0, "bf16": 15.0},
    HEAD: {"bf16": 30.0},
}


def verdict(times: Mapping[str, Mapping[str, float]] | None = None, **changes: Any) -> Verdict:
    """`times`: µs of a step by group and precision; the first group is the one in FP8."""
    names = list(TIMES if times is None else times) or [DOWN]
    chosen = TIMES if times is None else times
    groups = tuple(group(name, chosen.get(name, {}), fp8=not at) for at, name in enumerate(names))
    whole = {
        "fp8scope": "0.1.0",
        "checkpoint": "llama-fp8",
        "baseline": "llama",
        "model": ModelId(name="llama", config_hash="c" * 64, weights_hash="d" * 64),
        "ran": ran(),
        "summary": "1 of 1 layers that are to run in FP8 does.",
        "gates": (
            Gate(name="precision", outcome="passed", value=1.0, limit=1.0, words="1 of 1 in FP8."),
        ),
        "fp8_share": 1.0,
        "expected": 1,
        "judged": 1,
        "in_fp8": 1,
        "hardware": {"prefill": Hardware(sm_active=0.9, bound="compute")},
        "speed": speed(20.0),
        "baseline_speed": speed(30.0),
        "speedup": {"prefill": Compared(measured=1.5, estimated=1.9)},
        "gemms": {"fp8": Total(calls=4, time_us=36.0), "bf16": Total(calls=4, time_us=120.0)},
        "groups": groups,
        "kv_cache": (
            Cache(
                name=f"{ATTENTION}.kv_cache",
                attention=ATTENTION,
                planned="bf16",
                ran="bf16",
                judged="as_planned",
                phases={},
                time_us={},
            ),
        ),
        "others": (),
        "unseen": (),
    }
    return Verdict.model_validate(whole | changes)


def ran(**changes: Any) -> Ran:
    """On one H200."""
    whole = {
        "engine": "native",
        "engine_version": "0.1.0",
        "device": "cuda",
        "gpu": "NVIDIA H200",
        "gpu_known_as": "h200-sxm",
        "compute_capability": (9, 0),
        "devices": 1,
        "mig": False,
        "compiled": True,
        "cuda_graphs": True,
        "profilers": ("nsys 2024.6", "ncu 2024.3"),
        "reports": ("run.sqlite", "run.csv"),
        "batch": 8,
        "prompt_len": 2048,
        "gen_len": 128,
    }
    return Ran.model_validate(whole | changes)


def group(name: str, times: Mapping[str, float], *, fp8: bool) -> Group:
    """One linear that ran as planned: in FP8 per tensor, or in BF16."""
    used = FP8_KERNEL if fp8 else BF16_KERNEL
    precision = "fp8" if fp8 else "bf16"
    kernel = KernelUse(name=used, role="gemm", precision=precision, calls=1, time_us=9.0)
    return Group.model_validate(
        {
            "name": name,
            "kind": "lm_head" if name == HEAD else "linear",
            "members": (name,),
            "planned": "fp8_tensor" if fp8 else "bf16",
            "stored": "fp8_tensor" if fp8 else "bf16",
            "expected": fp8,
            "realized": precision,
            "evidence": "kernel names",
            "judged": "as_planned",
            "phases": {"prefill": Phase(time_us=9.0, kernels=(kernel,))},
            "time_us": dict(times),
        }
    )


def speed(ttft: float) -> Speed:
    """Prefill in `ttft` ms."""
    return Speed(ttft_ms=Percentiles(p50=ttft, p95=ttft, mean=ttft, count=5))
