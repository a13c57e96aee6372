"""Launches of kernels, each put to the phase and the group whose range it lies in.

Everything above works on these: which tool saw them matters no more, but that counters are looked
for in one report and times in another.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low
from typing import Literal

from fp8scope.artefacts.verdict import PhaseName
from fp8scope.judge.expected import Expected
from fp8scope.traces.kernel_names import kind_of
from fp8scope.traces.precision import precision_of
from fp8scope.traces.trace import DECODE, PREFILL, Kernel, Range, Trace
from fp8scope.traces.trace import Counter as Metric

Evidence = Literal["counters", "kernel names", "operand dtypes", "none"]
EVIDENCE: tuple[Evidence, ...] = ("counters", "kernel names", "operand dtypes", "none")
"""The best first."""
_SAID: Mapping[str, Evidence] = {
    "counters": "counters", "name": "kernel names", "operands": "operand dtypes",
}  # fmt: skip
UNKNOWN = "unknown"
_OPS: tuple[Metric, ...] = ("fp8_ops", "bf16_ops", "fp16_ops", "other_tensor_ops")


@dataclass(frozen=True)
class Launch:
    """One launch. `owner`: its group, KV cache, or None; `module`: the range that says so.
    `precision` of what it multiplies, as `traces.kernel_names` calls it, by this `evidence`.
    """

    kernel: Kernel
    phase: PhaseName
    owner: str | None
    module: str | None
    role: str
    precision: str
    evidence: Evidence
    weight_only: bool

    @property
    def is_gemm(self) -> bool:
        """By its name; or by tensor cores at work, outside of attention."""
        if self.role in {"gemm", "attention"}:
            return self.role == "gemm"
        return any(self.kernel.counters.get(ops, 0) > 0 for ops in _OPS)

    @property
    def may_be_gemm(self) -> bool:
        """Nothing tells what it is."""
        return self.is_gemm or (self.role == "other" and self.precision == UNKNOWN)


@dataclass(frozen=True)
class Placed:
    """A report whose launches have their places."""

    trace: Trace
    launches: tuple[Launch, ...]

    @cached_property
    def by_owner(self) -> Mapping[tuple[str | None, PhaseName], tuple[Launch, ...]]:
        """Launches by group or cache, and phase."""
        found = defaultdict(list)
        for launch in self.launches:
            found[launch.owner, launch.phase].append(launch)
        return {place: tuple(launches) for place, launches in found.items()}

    @cached_property
    def has_modules(self) -> bool:
        """Whether any launch lies in the range of a module."""
        return any(launch.owner is not None for launch in self.launches)

    @cached_property
    def devices(self) -> frozenset[int]:
        """On which there were launches."""
        return frozenset(launch.kernel.device for launch in self.launches)

    def passes(self, phase: PhaseName) -> int:
        """How often the phase was gone through, on each device.

        By its outer ranges, of which those of several processes overlap; where the report has no
        times of ranges, by the launches of GEMMs in each module, mostly one in a pass. A report
        without phases is one pass.
        """
        if phase == "all":
            return 1
        outer = [each for each in self.trace.ranges if each.name == phase and not each.parents]
        return _apart(outer) or self._repeated(phase)

    def _repeated(self, phase: PhaseName) -> int:
        counts = Counter(
            (launch.module, launch.kernel.device)
            for launch in self.launches
            if launch.phase == phase and launch.owner is not None and launch.is_gemm
        )
        return median_low(counts.values()) if counts else 1


def place(expected: Expected, traces: Iterable[Trace]) -> tuple[Placed, ...]:
    """Every launch of every report. What counters tell of a kernel in one report holds in the
    others, for the kernel of that name in that group.
    """
    found = [(trace, tuple(_placed(expected, trace))) for trace in traces]
    for _ in range(2):  # what a name alike told of prefill, the whole name then tells of decode
        known = _known(launch for _, launches in found for launch in launches)
        found = [(trace, tuple(_resolve(launches, known))) for trace, launches in found]
    return tuple(Placed(trace, launches) for trace, launches in found)


def share_of_devices(launches: Sequence[Launch]) -> int:
    """On how many devices these ran: each of them has its share of the work."""
    return len({launch.kernel.device for launch in launches}) or 1


def windows(trace: Trace, phase: str) -> list[tuple[float, float]]:
    """When the phase was gone through, µs on the report's clock."""
    return [
        (each.start_us, each.end_us)
        for each in trace.ranges
        if each.name == phase and not each.parents
    ]


def _placed(expected: Expected, trace: Trace) -> Iterator[Launch]:
    kinds = {kernel.name: kind_of(kernel.name) for kernel in trace.kernels}
    for kernel in trace.kernels:
        owner, module = _owner(kernel.ranges, expected)
        precision, evidence = precision_of(kernel)
        kind = kinds[kernel.name]
        yield Launch(
            kernel, _phase(kernel.ranges), owner, module, kind.role, precision,
            _evidence(evidence, told=precision != UNKNOWN or kind.weight_only), kind.weight_only,
        )  # fmt: skip


def _evidence(said: str, *, told: bool) -> Evidence:
    """Of what `precision_of` says in words, that which it begins with; a name that says no more
    than weight-only is one all the same.
    """
    return _SAID.get(said.partition(":")[0], "kernel names") if told else "none"


def _phase(ranges: Sequence[str]) -> PhaseName:
    if PREFILL in ranges:
        return "prefill"
    return "decode" if DECODE in ranges else "all"


def _owner(ranges: Sequence[str], expected: Expected) -> tuple[str | None, str | None]:
    """The innermost range that is a linear's, else one of attention."""
    for names in (expected.group_of, expected.cache_of):
        for name in reversed(ranges):
            if name in names:
                return names[name], name
    return None, None


_Known = Mapping[tuple[str | None, str, Evidence], str]
_BASE = re.compile(r"^(?:void )?[^<(]+")


def _known(launches: Iterable[Launch]) -> _Known:
    """What each kind of evidence says of a kernel in a group, where it says one thing: by the whole
    name, and, of one phase, by the name without arguments, which tools spell differently.

    Templates of many kernels have one name without arguments: in decode it may be another kernel.
    """
    said = defaultdict(set)
    for launch in launches:
        for name in (launch.kernel.name, _base(launch)):
            said[launch.owner, name, launch.evidence].add(launch.precision)
    return {key: min(found) for key, found in said.items() if len(found) == 1}


def _resolve(launches: Iterable[Launch], known: _Known) -> Iterator[Launch]:
    """Better evidence of the same kernel goes first; of one alike, only where there is no other."""
    for launch in launches:
        name, own = launch.kernel.name, launch.evidence
        keys = [(name, evidence) for evidence in EVIDENCE[: EVIDENCE.index(own)]]
        if own == "none":
            keys += [(_base(launch), evidence) for evidence in EVIDENCE[:-1]]
        found = ((known.get((launch.owner, *key)), key[1]) for key in keys)
        told = next((each for each in found if each[0] is not None), None)
        yield launch if told is None else _told(launch, str(told[0]), told[1])


def _base(launch: Launch) -> str:
    """`prefill: cutlass::device_kernel`; a phase that tools do not tell apart is one."""
    match = _BASE.match(launch.kernel.name)
    name = match[0].removeprefix("void ").strip() if match else launch.kernel.name
    return f"{launch.phase}: {name}"


def _told(launch: Launch, precision: str, evidence: Evidence) -> Launch:
    return Launch(
        launch.kernel, launch.phase, launch.owner, launch.module,
        "gemm" if launch.role == "other" else launch.role, precision, evidence, launch.weight_only,
    )  # fmt: skip


def _apart(ranges: Iterable[Range]) -> int:
    """How many of them there are, those that overlap being one."""
    count, end = 0, float("-inf")
    for each in sorted(ranges, key=lambda each: each.start_us):
        count += each.start_us >= end
        end = max(end, each.end_us)
    return count
