"""What a profiler saw, whichever it was: kernels, the ranges that their launches lie in, samples.

Readers make a `Trace` of nsys's SQLite, ncu's CSV or torch.profiler's JSON; nothing above them
knows the tools. Rates are fractions in [0, 1], times µs on the clock of the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DOMAIN = "fp8scope"
"""NVTX domain of the ranges that we set."""
PREFILL, DECODE = "prefill", "decode"
"""Names of the outer ranges; those inside are named like the modules that run in them."""

Tool = Literal["nsys", "ncu", "torch"]
Counter = Literal[
    "sm_active",  # sm__cycles_active: share of cycles in which an SM has a warp
    "sm_throughput",  # the busiest pipe of the SMs, of its peak
    "tensor_active",  # cycles in which tensor pipes are active
    "warps_active",  # warps that are resident, of the most that can be
    "dram_throughput",  # DRAM bandwidth, of its peak
    "dram_read_bytes",
    "dram_write_bytes",
    "fp8_ops",  # multiplies and adds of tensor cores, by the operands' format
    "bf16_ops",
    "fp16_ops",
    "other_tensor_ops",
]
"""Rates in [0, 1], bytes, or operations; a reader leaves out what its report does not hold."""


@dataclass(frozen=True)
class Kernel:
    """One launch of a kernel; in a trace of a CPU, one call of an operator.

    `name` as the report has it, demangled where it can be. `ranges`: the fp8scope ranges (or
    modules, as other engines tag them) that enclose the launch, outermost first. `start_us` is None
    where kernels were replayed one by one. `operands`: dtypes of the operator's inputs, as torch
    spells them (`float8_e4m3fn`). `blocks`: of the grid.
    """

    name: str
    time_us: float
    ranges: tuple[str, ...] = ()
    start_us: float | None = None
    device: int = 0
    blocks: int | None = None
    operands: tuple[str, ...] = ()
    counters: Mapping[Counter, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """One time through a range; `parents` are those around it, outermost first."""

    name: str
    start_us: float
    end_us: float
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """A metric of a whole device, sampled over time: `values[i]` at `times_us[i]`."""

    counter: Counter
    device: int
    times_us: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class SeenDevice:
    """A device that the report tells of; None is not told. `mig`: a slice of a GPU."""

    index: int
    name: str
    compute_capability: tuple[int, int] | None = None
    sms: int | None = None
    memory_bytes: int | None = None
    mig: bool = False


@dataclass(frozen=True)
class Trace:
    """A report as it was read. `tool_version` is empty where the report does not say.

    `on_gpu`: the kernels are a GPU's; else they are operators on a CPU. `serialized`: each kernel
    ran alone (ncu), so that their times do not add up to a pass. `notes`: what the report cannot
    tell, in sentences.
    """

    tool: Tool
    path: str
    kernels: tuple[Kernel, ...]
    ranges: tuple[Range, ...] = ()
    samples: tuple[Sampled, ...] = ()
    devices: tuple[SeenDevice, ...] = ()
    tool_version: str = ""
    on_gpu: bool = True
    serialized: bool = False
    notes: tuple[str, ...] = ()
