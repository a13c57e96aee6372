"""The verdict on one group, and on the KV cache of one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from fp8scope.artefacts.verdict import Cache, Group, Judged, Phase, PhaseName, Timed
from fp8scope.judge.causes import Case, why
from fp8scope.judge.expected import ExpectedCache, ExpectedGroup
from fp8scope.judge.hardware import hardware, read
from fp8scope.judge.placing import Placed, share_of_devices
from fp8scope.judge.realized import judged, realized
from fp8scope.judge.sight import Sight
from fp8scope.judge.timing import pass_us, step_us, timeline, uses
from fp8scope.judge.work import Work

TIMED: tuple[Timed, ...] = get_args(Timed)


def judge_group(sight: Sight, group: ExpectedGroup) -> Group:
    """What it ran in, how fast, and why not as planned."""
    launches = sight.launches(group.name)
    found, evidence = realized(group, launches)
    outcome = judged(group, found)
    case = Case(
        sight.expected.folder, group, found, launches, sight.reports, sight.ran, sight.gpu,
        may_be_other=sight.run.elsewhere and sight.all_plain,
    )  # fmt: skip
    reason = why(case) if outcome != "as_planned" else None
    phases = _phases(
        sight, group.name, {name: sight.bench.work(group, name, found) for name in sight.phases}
    )
    return Group(
        name=group.name,
        kind=group.kind,
        members=group.members,
        planned=group.planned,
        stored=group.stored,
        expected=group.expected,
        realized=found,
        evidence=evidence,
        judged=outcome,
        phases=phases,
        time_us=_step_times(sight, group.stored, phases),
        cause=reason[0] if reason else None,
        remedy=reason[1] if reason else None,
    )


def judge_cache(sight: Sight, cache: ExpectedCache) -> Cache:
    """What the engine says that it holds, and the time of attention."""
    record = sight.run.record
    held = record.kv_cache if record is not None else None
    phases = _phases(sight, cache.name, {})
    outcome: Judged = "as_planned" if held == cache.planned else "not_as_planned"
    return Cache(
        name=cache.name,
        attention=cache.attention,
        planned=cache.planned,
        ran=held or "unknown",
        judged=outcome if held else "not_judged",
        phases=phases,
        time_us=_decode_times(sight, held, phases),
    )


def _phases(
    sight: Sight, owner: str, works: Mapping[PhaseName, Work | None]
) -> dict[PhaseName, Phase]:
    found = {name: _phase(sight, owner, name, works.get(name)) for name in sight.phases}
    return {name: phase for name, phase in found.items() if phase is not None}


def _phase(sight: Sight, owner: str, name: PhaseName, work: Work | None) -> Phase | None:
    report = timeline(sight.reports, name)
    launches = report.by_owner.get((owner, name), ()) if report else ()
    if report is None or not launches:
        return None
    gemm_us = pass_us(report, [launch for launch in launches if launch.is_gemm], name)
    own = work.over(share_of_devices(launches)) if work else None
    return Phase(
        time_us=pass_us(report, launches, name),
        baseline_time_us=_baseline_us(sight, owner, name),
        kernels=uses(report, launches, name),
        hardware=hardware(read(sight.reports, [owner], name), own, gemm_us),
    )


def _baseline_us(sight: Sight, owner: str, name: PhaseName) -> float | None:
    report = timeline(sight.before, name)
    launches = report.by_owner.get((owner, name), ()) if report else ()
    return pass_us(report, launches, name) if report and launches else None


def _step_times(sight: Sight, stored: str, phases: Mapping[PhaseName, Phase]) -> dict[Timed, float]:
    """Of a step, in what the group is stored in, and in the baseline's BF16."""
    own, before = _as_they_ran(sight, phases)
    gen_len = sight.ran.gen_len
    times = {"bf16": step_us(before, gen_len), stored: step_us(own, gen_len) or None}
    if stored == "bf16":
        times["bf16"] = times["bf16"] or step_us(own, gen_len)
    return {name: us for name in TIMED if (us := times.get(name))}


def _decode_times(
    sight: Sight, held: str | None, phases: Mapping[PhaseName, Phase]
) -> dict[Timed, float]:
    """Of decode alone, in which the cache is read (`core.roofline.Roofline.kv_time_us`)."""
    if held is None:
        return {}
    own, before = (each.get("decode") for each in _as_they_ran(sight, phases))
    times: dict[Timed, float | None] = {"bf16": before}
    times["fp8_tensor" if held == "fp8" else "bf16"] = own
    return {name: us for name, us in times.items() if us}


def _as_they_ran(
    sight: Sight, phases: Mapping[PhaseName, Phase]
) -> tuple[dict[PhaseName, float], dict[PhaseName, float]]:
    """Times that a plan can count on, of the run and of the baseline.

    Only of GPUs, and of kernels that ran as they do: a report of kernels one by one may hold a part
    of them.
    """
    if sight.kind != "cuda":
        return {}, {}
    own = {name: phase.time_us for name, phase in phases.items() if _ran(sight.reports, name)}
    before = {
        name: phase.baseline_time_us
        for name, phase in phases.items()
        if phase.baseline_time_us is not None and _ran(sight.before, name)
    }
    return own, before


def _ran(reports: Sequence[Placed], phase: PhaseName) -> bool:
    report = timeline(reports, phase)
    return report is not None and not report.trace.serialized
