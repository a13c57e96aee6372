"""How long groups took in one pass, and in which kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fp8scope.artefacts.verdict import KernelUse, PhaseName, Total
from fp8scope.judge.placing import Launch, Placed, share_of_devices


def timeline(reports: Sequence[Placed], phase: PhaseName) -> Placed | None:
    """The report that times of this phase are taken from: one in which kernels ran as they do,
    else one that ran each alone.
    """
    having = [each for each in reports if any(x.phase == phase for x in each.launches)]
    tagged = [each for each in having if each.has_modules] or having
    return min(tagged, key=lambda each: each.trace.serialized, default=None)


def uses(report: Placed, launches: Sequence[Launch], phase: PhaseName) -> tuple[KernelUse, ...]:
    """Kernels by name, the longest first: launches and time of one pass on one device."""
    by_name: dict[str, list[Launch]] = {}
    for launch in launches:
        by_name.setdefault(launch.kernel.name, []).append(launch)
    times = report.passes(phase) * share_of_devices(launches)
    found = [
        KernelUse(
            name=name,
            role=same[0].role,
            precision=_one(each.precision for each in same),
            calls=len(same) / times,
            time_us=total_us(same) / times,
        )
        for name, same in by_name.items()
    ]
    return tuple(sorted(found, key=lambda use: (-use.time_us, use.name)))


def total_us(launches: Iterable[Launch]) -> float:
    """Time of all of them, one after the other. The order does not matter, nor rounding."""
    return sum(sorted(launch.kernel.time_us for launch in launches))


def pass_us(report: Placed, launches: Sequence[Launch], phase: PhaseName) -> float:
    """Time of one pass on one device."""
    return total_us(launches) / report.passes(phase) / share_of_devices(launches)


def gemm_totals(launches: Iterable[Launch]) -> Mapping[str, Total]:
    """GEMMs of a whole report by what they multiply; weight-only ones by that."""
    found: dict[str, list[Launch]] = {}
    for launch in launches:
        if launch.is_gemm:
            kind = "weight_only" if launch.weight_only else launch.precision
            found.setdefault(kind, []).append(launch)
    return {
        kind: Total(calls=len(same), time_us=total_us(same)) for kind, same in sorted(found.items())
    }


def step_us(phases: Mapping[PhaseName, float], gen_len: int | None) -> float | None:
    """Time of a step of the load, in which each sequence gets one token, and 1 / gen_len of all
    prompts are taken in (`core.roofline.Workload`). None unless both phases and gen_len are known.
    """
    if not gen_len or not {"prefill", "decode"} <= phases.keys():
        return None
    return phases["decode"] + phases["prefill"] / gen_len


def _one(precisions: Iterable[str]) -> str:
    found = set(precisions)
    return found.pop() if len(found) == 1 else "mixed"
