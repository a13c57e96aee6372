"""verdict.json: what an FP8 build really ran in, how fast, and why, layer by layer.

The fields are documented in docs/reference/verdict-format.md; verdict.schema.json beside it is made
from these classes. Rates are fractions in [0, 1].
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT: Literal["fp8scope-verdict"] = "fp8scope-verdict"
VERSION: Literal[1] = 1

Rate = Annotated[float, Field(ge=0)]  # samples and fast memory may pass 1 by a little
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

Realized = Literal[
    "fp8",  # the GEMM multiplied FP8 operands
    "weight_only",  # FP8 in memory, multiplied in 16 bits
    "bf16",  # BF16 or FP16 in memory and in the GEMM
    "mixed",  # some launches in FP8, some not
    "other",  # INT8, FP4, FP32
    "unknown",  # it ran, and nothing tells in what
    "not_seen",  # no kernel of it is in the report
]
Judged = Literal["as_planned", "not_as_planned", "not_judged"]
Bound = Literal["compute", "memory", "launch", "unknown"]
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
    """On what and how. `engine` is empty for a report made elsewhere; `profilers` with versions."""

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
    """A kernel by its name: launches and time of one pass. `precision` of its operands."""

    name: str
    role: str
    precision: str
    calls: NotNegative
    time_us: NotNegative


class Hardware(Part):
    """What the GPU did while kernels ran, weighted by their time; None was not measured.

    `tflops` = 2·m·k·n / time, `of_peak` its share of the GPU's dense rate in the format that it ran
    in; `mbu` the bytes that must be read over time × bandwidth.
    """

    sm_active: Rate | None = None
    tensor_active: Rate | None = None
    dram_throughput: Rate | None = None
    fp8_ops: NotNegative | None = None
    bf16_ops: NotNegative | None = None
    tflops: NotNegative | None = None
    of_peak: Rate | None = None
    mbu: Rate | None = None
    bound: Bound = "unknown"


class Phase(Part):
    """A group in one pass: a prefill of the whole batch, or one decode step."""

    time_us: NotNegative
    baseline_time_us: NotNegative | None
    kernels: tuple[KernelUse, ...]
    hardware: Hardware


class Group(Part):
    """A fused group, as it was planned and as it ran. `planned` and `stored` are treatments
    (`core.modules.Treatment`); `evidence`: what tells `realized`. `time_us`: of a step of the load
    by precision, as `plan --cost` takes it; only of GPUs.
    """

    name: str
    members: tuple[str, ...]
    planned: str
    stored: str
    expected: bool
    realized: Realized
    evidence: Literal["counters", "kernel names", "operand dtypes", "none"]
    judged: Judged
    phases: dict[Literal["prefill", "decode", "all"], Phase]
    time_us: dict[str, Positive]
    cause: str | None = None
    remedy: str | None = None


class Gate(Part):
    """What must hold. `words`: one sentence for a person."""

    name: str
    outcome: Outcome
    value: float | None
    limit: float | None
    words: str


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
    """The whole. `fp8_share`: expected groups that ran in FP8 over those expected and judged.
    `unseen`: what could not be measured, in sentences.
    """

    format: Literal["fp8scope-verdict"] = FORMAT
    version: Literal[1] = VERSION
    fp8scope: str
    checkpoint: str
    baseline: str | None
    model: ModelId
    gpu: str
    ran: Ran
    summary: str
    gates: tuple[Gate, ...]
    fp8_share: Rate | None
    expected: int
    in_fp8: int
    hardware: dict[Literal["prefill", "decode", "all"], Hardware]
    speed: Speed
    baseline_speed: Speed | None
    speedup: dict[Literal["prefill", "decode", "whole"], Compared]
    groups: tuple[Group, ...]
    others: tuple[KernelUse, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()
