"""How fast it was, beside the baseline and beside what the roofline allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fp8scope.artefacts.verdict import Compared, Percentiles, PhaseName, Speed
from fp8scope.core.gpus import Gpu
from fp8scope.estimate.api import Bounds, Estimate
from fp8scope.traces.record import RunRecord

Part = Literal["prefill", "decode", "whole"]


def chosen(estimate: Estimate) -> Bounds:
    """The bounds of what ran: of the plan or the checkpoint, else of all in FP8."""
    return estimate.bounds["plan" if "plan" in estimate.bounds else "fp8"]


def with_mbu(speed: Speed, bounds: Bounds | None, gpu: Gpu | None) -> Speed:
    """With decode's share of the bandwidth, where its time and its bytes are known: (weights + KV
    cache) / TPOT / peak (Databricks, LLM Inference Performance Engineering, 2023).

    bounds: of one GPU of those that it ran on.
    """
    if speed.mbu is not None or speed.tpot_ms is None or bounds is None or gpu is None:
        return speed
    peak = gpu.bandwidth_gb_s * 1e9
    mbu = bounds.decode_reads / (speed.tpot_ms.p50 / 1e3) / peak
    return speed.model_copy(update={"mbu": mbu})


def compared(
    speed: Speed, baseline: Speed | None, estimate: Estimate | None
) -> dict[Part, Compared]:
    """Times as fast as the baseline, by medians; what neither was measured nor estimated is left
    out.
    """
    measured: dict[Part, float | None] = {"prefill": None, "decode": None, "whole": None}
    if baseline is not None:
        measured["prefill"] = _ratio(baseline.ttft_ms, speed.ttft_ms)
        measured["decode"] = _ratio(baseline.tpot_ms, speed.tpot_ms)
        measured["whole"] = _whole(baseline, speed)
    allowed = _estimated(estimate) if estimate is not None else {}
    return {
        part: Compared(measured=value, estimated=allowed.get(part))
        for part, value in measured.items()
        if value is not None or part in allowed
    }


def pass_ms(record: RunRecord | None, phase: PhaseName) -> float | None:
    """What a pass took without a profiler, the median."""
    if record is None or phase == "all":
        return None
    took = record.speed.ttft_ms if phase == "prefill" else record.speed.tpot_ms
    return took.p50 if took is not None else None


def _ratio(before: Percentiles | None, after: Percentiles | None) -> float | None:
    return before.p50 / after.p50 if before is not None and after is not None else None


def _whole(before: Speed, after: Speed) -> float | None:
    if before.tokens_per_s and after.tokens_per_s:
        return after.tokens_per_s / before.tokens_per_s
    return _ratio(before.latency_ms, after.latency_ms)


def _estimated(estimate: Estimate) -> Mapping[Part, float]:
    before, after = estimate.bounds["bf16"], chosen(estimate)
    return {
        "prefill": before.prefill_us / after.prefill_us,
        "decode": before.decode_us / after.decode_us,
        "whole": after.tokens_per_s / before.tokens_per_s,
    }
