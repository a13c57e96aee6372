"""From reports and records to a verdict: what each group ran in, how fast, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fp8scope import __version__
from fp8scope.artefacts.verdict import Gate, Group, Hardware, PhaseName, Speed, Verdict
from fp8scope.estimate.api import Estimate
from fp8scope.judge.expected import Expected
from fp8scope.judge.gates import (
    Limits,
    kept_gate,
    launches_gate,
    metadata_gate,
    precision_gate,
    sm_gate,
    speed_gate,
)
from fp8scope.judge.given import check_given
from fp8scope.judge.groups import judge_cache, judge_group
from fp8scope.judge.said import notes, summary, unseen
from fp8scope.judge.sight import Run, Sight
from fp8scope.judge.speed import chosen, compared, with_mbu
from fp8scope.judge.timing import gemm_totals
from fp8scope.judge.whole import others, readings, whole

__all__ = ["Limits", "Run", "judge"]


def judge(
    expected: Expected,
    run: Run,
    baseline: Run | None = None,
    *,
    estimate: Estimate | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """What an FP8 build really ran in.

    baseline: the BF16 model on the same GPU under the same load; its groups are the same. estimate:
    of what ran, on so many of those GPUs and under that load. What was not measured is None, and
    said in `unseen`. Raises BadInput for reports that are not of one run, and for a baseline that
    multiplies FP8.
    """
    sight = Sight(expected, run, baseline)
    check_given(sight)
    groups = tuple(judge_group(sight, group) for group in expected.groups)
    hardware = {phase: whole(sight, phase, groups) for phase in sight.phases}
    before = baseline.record if baseline else None
    speed, slow = _speeds(sight, estimate)
    speedup = compared(speed, None if sight.differs else slow, estimate)
    asked = limits or Limits()
    on_cpu = sight.kind == "cpu"
    speeds = speed_gate(speedup.get("whole"), asked.speedup, on_cpu=on_cpu)
    gates = (*_gates(sight, groups, hardware, asked), *([speeds] if speeds else []))
    told = [group for group in groups if group.expected and group.judged != "not_judged"]
    in_fp8 = sum(group.realized == "fp8" for group in told)
    timed = any((speed.ttft_ms, speed.tpot_ms, speed.latency_ms, speed.tokens_per_s))
    return Verdict(
        fp8scope=__version__,
        checkpoint=expected.folder,
        baseline=before.checkpoint if before else None,
        model=expected.model,
        ran=sight.ran,
        summary=summary(gates, {} if on_cpu else speedup, hardware),
        gates=gates,
        fp8_share=in_fp8 / len(told) if told else None,
        expected=sum(group.expected for group in groups),
        judged=len(told),
        in_fp8=in_fp8,
        hardware=hardware,
        speed=speed,
        baseline_speed=slow,
        speedup=speedup,
        gemms=dict(gemm_totals(sight.longest.launches)) if sight.longest else {},
        groups=groups,
        kv_cache=tuple(judge_cache(sight, cache) for cache in expected.caches),
        others=others(sight),
        unseen=unseen(sight, hardware, groups, speedup, timed=timed),
        notes=notes(sight.ran, run.record, before, sight.reports),
    )


def _speeds(sight: Sight, estimate: Estimate | None) -> tuple[Speed, Speed | None]:
    """Of the run and of the baseline, with MBU where the estimate is for what they ran on."""
    record, before = sight.run.record, sight.baseline.record if sight.baseline else None
    fits = estimate is not None and estimate.tp == sight.ran.devices
    bounds = (chosen(estimate), estimate.bounds["bf16"]) if estimate and fits else (None, None)
    return (
        with_mbu(record.speed if record else Speed(), bounds[0], sight.gpu),
        with_mbu(before.speed, bounds[1], sight.gpu) if before else None,
    )


def _gates(
    sight: Sight,
    groups: Sequence[Group],
    hardware: Mapping[PhaseName, Hardware],
    limits: Limits,
) -> tuple[Gate, ...]:
    """Of single layers where the reports tell of any, else of all launches together."""
    tagged = any(report.has_modules for report in sight.reports)
    if tagged or sight.longest is None:
        kept = kept_gate(groups)
        precise = precision_gate(groups, sight.outside, on_cpu=sight.kind == "cpu")
        first = (precise, *([kept] if kept else []))
    else:
        first = (launches_gate(sight.expected, gemm_totals(sight.longest.launches)),)
    loosely = readings(sight, "prefill").loosely
    busy = sm_gate(hardware.get("prefill"), limits.sm_active, groups, loosely=loosely)
    said = metadata_gate(sight.expected)
    return (*first, *([said] if said else []), busy)
