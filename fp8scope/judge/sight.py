"""All that was seen of a run: its reports with their launches in place, and what it ran on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from fp8scope.artefacts.verdict import PhaseName, Ran
from fp8scope.core.gpus import Gpu, gpu_of_device
from fp8scope.core.roofline import Workload
from fp8scope.judge.expected import Expected
from fp8scope.judge.placing import Launch, Placed, place
from fp8scope.judge.realized import realized
from fp8scope.judge.work import Bench
from fp8scope.traces.record import RunRecord
from fp8scope.traces.trace import SeenDevice, Trace

PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
FEW = 0.1
"""GEMMs outside of ranges over those inside that nothing is made of."""


@dataclass(frozen=True)
class Run:
    """One model as it ran: `record` of the run without a profiler, `traces` of those with one.
    `elsewhere`: reports that were given; of what model they are nobody here saw.
    """

    traces: tuple[Trace, ...] = ()
    record: RunRecord | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Sight:
    """A run beside what was expected of it, and the baseline's, where there is one."""

    expected: Expected
    run: Run
    baseline: Run | None = None

    @cached_property
    def reports(self) -> tuple[Placed, ...]:
        """Those of the run."""
        return place(self.expected, self.run.traces)

    @cached_property
    def before(self) -> tuple[Placed, ...]:
        """Those of the baseline that times are taken from: none where it was run otherwise."""
        return () if self.differs else self.baseline_reports

    @cached_property
    def baseline_reports(self) -> tuple[Placed, ...]:
        """Those of the baseline, whose groups are the same."""
        return place(self.expected, self.baseline.traces) if self.baseline else ()

    @cached_property
    def differs(self) -> str:
        """In what the baseline was run otherwise, so that times say nothing of FP8; else empty."""
        own, other = self.run.record, self.baseline.record if self.baseline else None
        if own is None or other is None:
            return ""
        if own.load != other.load:
            load = other.load
            tokens = f"{load.batch} × {load.prompt_len} tokens, {load.gen_len} each"
            return f"under another load ({tokens})"
        if (own.device.name, own.device.count) != (other.device.name, other.device.count):
            return f"on {other.device.count}× {other.device.name}"
        return ""

    @cached_property
    def longest(self) -> Placed | None:
        """The report that saw most, of those in which kernels ran as they do, if there are any."""
        reports = sorted(self.reports, key=lambda each: len(each.launches), reverse=True)
        return min(reports, key=lambda each: each.trace.serialized, default=None)

    @cached_property
    def phases(self) -> tuple[PhaseName, ...]:
        """Those that any module ran in; `all` where there are no others."""
        seen = {x.phase for report in self.reports for x in report.launches if x.owner is not None}
        return tuple(name for name in PHASES if name in seen and (name != "all" or len(seen) == 1))

    def launches(self, owner: str) -> list[Launch]:
        """Of all reports, in the phases that count."""
        return [
            launch
            for report in self.reports
            for phase in self.phases
            for launch in report.by_owner.get((owner, phase), ())
        ]

    @cached_property
    def all_plain(self) -> bool:
        """Whether every group that is to run in FP8 lies so in the files, and ran in 16 or 32 bits
        by plain kernels: what the BF16 model's report looks like.
        """
        groups = [group for group in self.expected.groups if group.expected]
        return bool(groups) and all(
            realized(group, launches)[0] == "weight_only"
            and not any(launch.weight_only for launch in launches)
            for group in groups
            for launches in [self.launches(group.name)]
        )

    @cached_property
    def outside(self) -> int:
        """GEMM launches in no module's range that are not known to be in FP8, of the report with
        most; 0 where they are few beside those in ranges, as a rotary embedding's are.
        """
        found = 0
        for report in self.reports:
            gemms = [launch for launch in report.launches if launch.is_gemm]
            lost = [launch for launch in gemms if launch.owner is None]
            if report.has_modules and len(lost) > FEW * (len(gemms) - len(lost)):
                found = max(found, sum(launch.precision != "fp8" for launch in lost))
        return found

    @cached_property
    def mig(self) -> bool:
        """Whether it was a slice of a GPU."""
        record = self.run.record
        return bool(record and record.device.mig) or any(device.mig for device in self._devices)

    @cached_property
    def gpu(self) -> Gpu | None:
        """Whose peak rates hold; None of a slice, of a CPU, and of what is not in the table."""
        if self.mig or self.kind == "cpu":
            return None
        if self.run.record is not None:
            device = self.run.record.device
            return gpu_of_device(device.name, device.memory_bytes)
        seen = next(iter(self._devices), None)
        return gpu_of_device(seen.name, seen.memory_bytes) if seen else None

    @cached_property
    def kind(self) -> Literal["cuda", "cpu", "unknown"]:
        """What it ran on."""
        if self.run.record is not None:
            return self.run.record.device.kind
        if not self.run.traces:
            return "unknown"
        return "cuda" if any(each.on_gpu for each in self.run.traces) else "cpu"

    @cached_property
    def bench(self) -> Bench:
        """For what its groups must do."""
        load = self.run.record.load if self.run.record else None
        workload = Workload(load.batch, load.prompt_len, load.gen_len) if load else None
        return Bench(self.gpu, workload, self.expected.experts_per_token)

    @cached_property
    def ran(self) -> Ran:
        """The same for a verdict."""
        record, traces = self.run.record, self.run.traces
        seen = next(iter(self._devices), None)
        name = record.device.name if record else seen.name if seen else ""
        capability = record.device.compute_capability if record else None
        load = record.load if record else None
        tools = (f"{each.tool} {each.tool_version}".strip() for each in traces)
        counts = [len(report.devices) for report in self.reports]
        return Ran(
            engine=record.engine if record else "",
            engine_version=record.engine_version if record else "",
            device=self.kind,
            gpu="" if self.kind == "cpu" else name,
            gpu_known_as=self.gpu.name if self.gpu else None,
            compute_capability=capability or (seen.compute_capability if seen else None),
            devices=max([record.device.count if record else 1, *counts]),
            mig=self.mig,
            compiled=record.compiled if record else False,
            cuda_graphs=record.cuda_graphs if record else False,
            profilers=tuple(dict.fromkeys(tools)),
            reports=tuple(each.path for each in traces),
            batch=load.batch if load else None,
            prompt_len=load.prompt_len if load else None,
            gen_len=load.gen_len if load else None,
        )

    @cached_property
    def _devices(self) -> Sequence[SeenDevice]:
        """Those that kernels ran on, where that can be told: nsys lists all of the machine."""
        seen = [(device, each) for each in self.reports for device in each.trace.devices]
        used = [device for device, each in seen if device.index in each.devices]
        return used or [device for device, _ in seen]
