"""What the GPU did while GEMMs ran: counters of kernels, or samples of the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fp8scope.artefacts.verdict import Hardware, PhaseName
from fp8scope.judge.bound import Signs, bound
from fp8scope.judge.placing import Launch, Placed, share_of_devices, windows
from fp8scope.judge.work import Work
from fp8scope.traces.trace import Counter

RATES: tuple[Counter, ...] = ("sm_active", "sm_throughput", "tensor_active", "dram_throughput")
OPS: tuple[Counter, ...] = ("fp8_ops", "bf16_ops")
Span = tuple[float, float]
"""From, to: µs on the report's clock."""


@dataclass(frozen=True)
class Read:
    """What was read off reports for some GEMMs. `loosely`: SM activity is that of the whole phase,
    other kernels and gaps included, since none was counted or sampled within a GEMM.
    """

    rates: Mapping[Counter, float] = field(default_factory=dict)
    ops: Mapping[Counter, float] = field(default_factory=dict)
    loosely: bool = False


def read(reports: Sequence[Placed], owners: Iterable[str], phase: PhaseName) -> Read:
    """Rates over the GEMMs of these groups, weighted by their time; operations in one pass.

    Counters of kernels go before samples that lie within the GEMMs.
    """
    wanted = list(owners)
    rates: dict[Counter, float] = {}
    ops: dict[Counter, float] = {}
    spans: list[tuple[Placed, dict[int, list[Span]]]] = []
    for report in reports:
        launches = _gemms(report, wanted, phase)
        rates = _means(launches) | rates
        ops = _sums(report, launches, phase) | ops
        spans.append((report, _spans(launches)))
    return Read(_sampled(spans) | rates, ops)


def read_loosely(reports: Sequence[Placed], phase: PhaseName) -> Mapping[Counter, float]:
    """Rates of the whole phase by samples, other kernels and gaps included."""
    during = ((each, windows(each.trace, phase)) for each in reports)
    return _sampled([(each, dict.fromkeys(each.devices, spans)) for each, spans in during])


def hardware(
    found: Read, work: Work | None, gemm_us: float | None, filled: float | None = None
) -> Hardware:
    """Rates beside what was achieved: `work` in `gemm_us`, which is the time of the GEMMs alone."""
    rates = found.rates
    known = work if work is not None and gemm_us else None
    time_us = gemm_us or 1.0
    of_peak = known.compute_us / time_us if known and known.compute_us is not None else None
    mbu = known.weights_us / time_us if known and known.weights_us is not None else None
    moved = known.memory_us / time_us if known and known.memory_us is not None else None
    ridge = of_peak / moved if of_peak is not None and moved else None
    busy = [rates.get("sm_throughput"), rates.get("tensor_active"), of_peak]
    signs = Signs(_most(busy), _most([rates.get("dram_throughput"), moved]), ridge, filled)
    return Hardware(
        sm_active=rates.get("sm_active"),
        tensor_active=rates.get("tensor_active"),
        dram_throughput=rates.get("dram_throughput"),
        fp8_ops=found.ops.get("fp8_ops"),
        bf16_ops=found.ops.get("bf16_ops"),
        flops=work.flops if work else None,
        tflops=known.flops / time_us / 1e6 if known else None,
        of_peak=of_peak,
        mbu=mbu,
        bound=bound(signs),
    )


def _gemms(report: Placed, owners: Iterable[str], phase: PhaseName) -> list[Launch]:
    return [
        launch
        for owner in owners
        for launch in report.by_owner.get((owner, phase), ())
        if launch.is_gemm
    ]


def _means(launches: Sequence[Launch]) -> dict[Counter, float]:
    """Of each rate over the launches that have it, weighted by their time."""
    means = {}
    for rate in RATES:
        pairs = sorted(
            (launch.kernel.time_us, launch.kernel.counters[rate])
            for launch in launches
            if rate in launch.kernel.counters
        )
        time_us = sum(us for us, _ in pairs)
        if time_us:
            means[rate] = sum(us * value for us, value in pairs) / time_us
    return means


def _sums(report: Placed, launches: Sequence[Launch], phase: PhaseName) -> dict[Counter, float]:
    times = report.passes(phase) * share_of_devices(launches)
    return {
        ops: sum(sorted(launch.kernel.counters.get(ops, 0.0) for launch in launches)) / times
        for ops in OPS
        if any(ops in launch.kernel.counters for launch in launches)
    }


def _spans(launches: Iterable[Launch]) -> dict[int, list[Span]]:
    """When they ran, by device."""
    found: dict[int, list[Span]] = {}
    for kernel in (launch.kernel for launch in launches):
        if kernel.start_us is not None:
            end_us = kernel.start_us + kernel.time_us
            found.setdefault(kernel.device, []).append((kernel.start_us, end_us))
    return found


def _sampled(where: Iterable[tuple[Placed, Mapping[int, Sequence[Span]]]]) -> dict[Counter, float]:
    """Means over devices of the samples that lie within these spans of theirs.

    A sample is the mean since the one before it, so that both must lie there. A GPU that ran no
    kernel has no spans: nsys may have sampled it all the same.
    """
    found: dict[Counter, list[float]] = {}
    for report, spans in where:
        for sampled in report.trace.samples:
            times, values = np.asarray(sampled.times_us), np.asarray(sampled.values)
            if sampled.counter in RATES and len(times) > 1:
                chosen = values[1:][_within(times, spans.get(sampled.device, ()))]
                if len(chosen):
                    found.setdefault(sampled.counter, []).append(float(chosen.mean()))
    return {counter: fmean(values) for counter, values in found.items()}


def _within(times: NDArray[np.float64], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Of each sample but the first: whether it began and ended within one of the spans."""
    if not spans:
        return np.zeros(len(times) - 1, bool)
    starts, ends = (np.asarray(side) for side in zip(*sorted(spans), strict=True))
    before = np.searchsorted(starts, times[:-1], "right") - 1
    return (before >= 0) & (times[1:] <= ends[np.maximum(before, 0)])


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
