"""verdict.json: what an FP8 build really ran in, how fast, and why, layer by layer.

The fields are documented in docs/reference/verdict-format.md; verdict.schema.json beside it is made
from these classes. Rates are fractions in [0, 1].
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT: Literal["fp8scope-verdict"] = "fp8scope-verdict"
VERSION: Literal[1] = 1

Rate = Annotated[float, Field(ge=0)]  # samples and fast memory may pass 1 by a little
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

Realized = Literal[
    "fp8",  # the GEMM multiplied FP8 operands
    "weight_only",  # FP8 in memory, multiplied in 16 or 32 bits
    "bf16",  # BF16, FP16 or FP32 in memory and in the GEMM
    "mixed",  # some launches in FP8, some not
    "other",  # INT8, FP4
    "unknown",  # it ran, and nothing tells in what
    "not_seen",  # no kernel of it is in the report
]
Judged = Literal["as_planned", "not_as_planned", "not_judged"]
Kind = Literal["linear", "expert", "router", "lm_head"]
Timed = Literal["fp8_tensor", "fp8_token", "fp8_block", "bf16"]
"""Precisions that a plan can choose; a smoothed GEMM is a plain one."""
PhaseName = Literal["prefill", "decode", "all"]
"""`all`: a report without phases, of which nothing can be averaged."""
Bound = Literal[
    "compute",  # tensor cores
    "memory",  # DRAM bandwidth
    "launch",  # neither: latencies, too little work for the SMs, or gaps between kernels
    "unknown",
]
Outcome = Literal["passed", "failed", "not_measured"]


class Part(BaseModel):
    """Base of all: frozen, and nothing that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelId(Part):
    """Which model was built: the hashes are those of the plan, else of the checkpoint itself."""

    name: str
    config_hash: str
    weights_hash: str


class Ran(Part):
    """On what and how. `engine` is empty for a report made elsewhere; `profilers` with versions.
    `gpu`: as its driver calls it; `gpu_known_as`: in the table of GPUs.
    """

    engine: str
    engine_version: str
    device: Literal["cuda", "cpu", "unknown"]
    gpu: str
    gpu_known_as: str | None
    compute_capability: tuple[int, int] | None
    devices: int
    mig: bool
    compiled: bool
    cuda_graphs: bool
    profilers: tuple[str, ...]
    reports: tuple[str, ...]
    batch: int | None
    prompt_len: int | None
    gen_len: int | None


class KernelUse(Part):
    """A kernel by its name: launches and time of one pass. `precision`: of the operands that it
    multiplies, "unknown" where nothing tells it.
    """

    name: str
    role: str
    precision: str
    calls: NotNegative
    time_us: NotNegative


class Hardware(Part):
    """What the GPU did while GEMMs ran, weighted by their time; None was not measured.

    `fp8_ops`, `bf16_ops`: multiplies and adds of tensor cores in one pass, beside `flops`, the
    2·m·k·n that must be done. `tflops` = flops / time, `of_peak` its share of the GPU's dense rate
    in the format that it ran in; `mbu` the weights' bytes over time × bandwidth.
    """

    sm_active: Rate | None = None
    tensor_active: Rate | None = None
    dram_throughput: Rate | None = None
    fp8_ops: NotNegative | None = None
    bf16_ops: NotNegative | None = None
    flops: NotNegative | None = None
    tflops: NotNegative | None = None
    of_peak: Rate | None = None
    mbu: Rate | None = None
    bound: Bound = "unknown"


class Phase(Part):
    """A group in one pass: a prefill of the whole batch, or one decode step."""

    time_us: NotNegative
    baseline_time_us: NotNegative | None = None
    kernels: tuple[KernelUse, ...]
    hardware: Hardware = Hardware()


class Group(Part):
    """A fused group, as it was planned and as it ran. `planned` and `stored` are treatments
    (`core.modules.Treatment`, or "mixed"); `expected`: it must run in FP8. `evidence`: what tells
    `realized`. `time_us`: of a step of the load by precision, as `plan --cost` takes it; only of
    GPUs.
    """

    name: str
    kind: Kind
    members: tuple[str, ...]
    planned: str
    stored: str
    expected: bool
    realized: Realized
    evidence: Literal["counters", "kernel names", "operand dtypes", "none"]
    judged: Judged
    phases: dict[PhaseName, Phase]
    time_us: dict[Timed, Positive]
    cause: str | None = None
    remedy: str | None = None


class Cache(Part):
    """The KV cache of a layer, by the name that plans have for it. `ran`: as the engine says it.
    Times are those of attention without its linears.
    """

    name: str
    attention: str
    planned: Literal["fp8", "bf16"]
    ran: Literal["fp8", "bf16", "unknown"]
    judged: Judged
    phases: dict[PhaseName, Phase]
    time_us: dict[Timed, Positive]


class Total(Part):
    """GEMMs in one precision: launches and time of the whole report."""

    calls: NotNegative
    time_us: NotNegative


class Gate(Part):
    """What must hold. `words`: one sentence for a person; `remedy`: what to do where it failed, or
    was not measured.
    """

    name: Literal["precision", "kept_in_bf16", "gemm_precision", "metadata", "sm_active", "speedup"]
    outcome: Outcome
    value: float | None
    limit: float | None
    words: str
    remedy: str | None = None


class Percentiles(Part):
    """Milliseconds."""

    p50: Positive
    p95: Positive
    mean: Positive
    count: int


class Speed(Part):
    """Without a profiler; None is not known.

    `ttft_ms`: until the first token, a whole prefill of the batch. `tpot_ms`: between two tokens of
    a sequence, a decode step. `latency_ms`: of a request. `tokens_per_s`: generated tokens of all
    sequences over the whole time, prefill included. `mbu` of decode: bytes of weights and KV cache
    over TPOT, of the GPU's bandwidth (Databricks).
    """

    ttft_ms: Percentiles | None = None
    tpot_ms: Percentiles | None = None
    latency_ms: Percentiles | None = None
    tokens_per_s: Positive | None = None
    prefill_tokens_per_s: Positive | None = None
    decode_tokens_per_s: Positive | None = None
    mbu: Rate | None = None
    peak_memory_bytes: int | None = None


class Compared(Part):
    """Times as fast as the baseline: measured, and by the roofline; None is not known."""

    measured: Positive | None
    estimated: Positive | None


class Verdict(Part):
    """The whole. `fp8_share`: expected groups that ran in FP8 over those expected and `judged`.
    `gemms`: by the precision of their operands, "weight_only" beside them. `others`: kernels that
    lie in no linear's range. `unseen`: what could not be measured, in sentences.
    """

    format: Literal["fp8scope-verdict"] = FORMAT
    version: Literal[1] = VERSION
    fp8scope: str
    checkpoint: str
    baseline: str | None
    model: ModelId
    ran: Ran
    summary: str
    gates: tuple[Gate, ...]
    fp8_share: Share | None
    expected: int
    judged: int
    in_fp8: int
    hardware: dict[PhaseName, Hardware]
    speed: Speed
    baseline_speed: Speed | None
    speedup: dict[Literal["prefill", "decode", "whole"], Compared]
    gemms: dict[str, Total]
    groups: tuple[Group, ...]
    kv_cache: tuple[Cache, ...]
    others: tuple[KernelUse, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_sums(self) -> Self:
        """The totals are those of the groups, and a CPU's times are nobody's cost."""
        expected = [group for group in self.groups if group.expected]
        judged = [group for group in expected if group.judged != "not_judged"]
        in_fp8 = sum(group.realized == "fp8" for group in judged)
        if (self.expected, self.judged, self.in_fp8) != (len(expected), len(judged), in_fp8):
            raise ValueError("expected, judged and in_fp8 are not the counts of its groups")
        if self.fp8_share != (in_fp8 / len(judged) if judged else None):
            raise ValueError("fp8_share is not in_fp8 over judged")
        names = Counter(part.name for part in self._timed())
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"{repeated[0]} is there twice")
        if self.ran.device == "cpu" and self.times_us():
            raise ValueError("it has times of a step, and ran on a CPU")
        return self

    @property
    def passed(self) -> bool:
        """Whether no gate failed; what was not measured does not fail."""
        return all(gate.outcome != "failed" for gate in self.gates)

    def times_us(self) -> dict[str, dict[str, float]]:
        """µs of a step by group or KV cache, and precision: of those that have any."""
        return {
            part.name: {str(precision): us for precision, us in part.time_us.items()}
            for part in self._timed()
            if part.time_us
        }

    def _timed(self) -> tuple[Group | Cache, ...]:
        return (*self.groups, *self.kv_cache)
