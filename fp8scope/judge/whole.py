"""The verdict on a whole pass: hardware over all GEMMs, and the kernels of no linear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add

from fp8scope.artefacts.verdict import Group, Hardware, KernelUse, PhaseName, Realized
from fp8scope.judge.hardware import Read, hardware, read, read_loosely
from fp8scope.judge.placing import Placed, share_of_devices
from fp8scope.judge.sight import Sight
from fp8scope.judge.speed import pass_ms
from fp8scope.judge.timing import pass_us, timeline, uses
from fp8scope.judge.work import Work

OTHERS = 40
"""Kernels of no linear that a verdict lists at most, the longest."""


def whole(sight: Sight, phase: PhaseName, groups: Iterable[Group]) -> Hardware:
    """Over the GEMMs of all groups."""
    report = timeline(sight.reports, phase)
    if report is None:
        return Hardware()
    work, gemm_us = _work(sight, report, phase, {group.name: group.realized for group in groups})
    return hardware(readings(sight, phase), work, gemm_us, _filled(sight, report, phase))


def readings(sight: Sight, phase: PhaseName) -> Read:
    """Counters and samples over the GEMMs of all groups; what these lack, over the whole phase."""
    found = read(sight.reports, [group.name for group in sight.expected.groups], phase)
    around = read_loosely(sight.reports, phase)
    return Read({**around, **found.rates}, found.ops, loosely="sm_active" not in found.rates)


def others(sight: Sight) -> tuple[KernelUse, ...]:
    """Kernels of no linear and no attention by name, the longest first, over all phases."""
    found: dict[str, KernelUse] = {}
    seen = {launch.phase for report in sight.reports for launch in report.launches}
    for phase in sorted(seen - {"all"} or seen):
        report = timeline(sight.reports, phase)
        launches = report.by_owner.get((None, phase), ()) if report else ()
        for use in uses(report, launches, phase) if report else ():
            old = found.get(use.name)
            calls, time_us = (old.calls, old.time_us) if old else (0.0, 0.0)
            sums = {"calls": use.calls + calls, "time_us": use.time_us + time_us}
            found[use.name] = use.model_copy(update=sums)
    return tuple(sorted(found.values(), key=lambda use: (-use.time_us, use.name))[:OTHERS])


def _work(
    sight: Sight, report: Placed, phase: PhaseName, realized: Mapping[str, Realized]
) -> tuple[Work | None, float]:
    """Of the groups whose work is known, and the time of their GEMMs."""
    parts, gemm_us = [], 0.0
    for group in sight.expected.groups:
        launches = [x for x in report.by_owner.get((group.name, phase), ()) if x.is_gemm]
        work = sight.bench.work(group, phase, realized[group.name])
        if launches and work is not None:
            parts.append(work.over(share_of_devices(launches)))
            gemm_us += pass_us(report, launches, phase)
    return (reduce(add, parts) if parts else None), gemm_us


def _filled(sight: Sight, report: Placed, phase: PhaseName) -> float | None:
    """Time of all kernels of a pass over what the pass took without a profiler."""
    took = pass_ms(sight.run.record, phase)
    if took is None or sight.kind != "cuda":
        return None
    every = [launch for launch in report.launches if launch.phase == phase]
    return pass_us(report, every, phase) / (took * 1e3)
