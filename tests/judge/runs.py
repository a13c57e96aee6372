"""Constructed reports and records of a small model of two layers, as profilers would give them.

Nothing here was recorded: names of kernels are ones that libraries really use, times and counters
are invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fp8scope.artefacts.verdict import Group, ModelId, Percentiles, Speed, Verdict
from fp8scope.core.modules import Kind, Module, Treatment
from fp8scope.core.roofline import GemmShape
from fp8scope.judge.expected import Expected, ExpectedCache, ExpectedGroup
from fp8scope.traces.record import Device, Load, RunRecord
from fp8scope.traces.trace import Counter, Kernel, Range, SeenDevice, Tool, Trace

FP8 = "nvjet_qqtst_128x256_128x6_2x1_2cta_v_bz_TNT"
BF16 = "nvjet_sm90_tst_192x192_64x3_2x1_v_bz_coopB_NTN"
QUANT = "void vllm::scaled_fp8_quant_kernel<c10::BFloat16>(c10::Float8_e4m3fn*, c10::BFloat16*)"
MARLIN = "void marlin::Marlin<__nv_bfloat16, 1125899906843648l, 256, 1, 16, 4, 4, false, true, -1>"
TRITON = "triton_tem_fused_mm_12"
ATTENTION = "flash_fwd_splitkv_kernel"
NORM = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>>"

HIDDEN, WIDE = 4096, 14336
BATCH, PROMPT, GENERATE = 8, 2048, 128
TOKENS = BATCH * PROMPT
H200 = Device(
    kind="cuda", name="NVIDIA H200", compute_capability=(9, 0), memory_bytes=150_000_000_000,
    sms=132,
)  # fmt: skip
CPU = Device(kind="cpu", name="a processor")

Row = tuple[str, str, float]
"""Module, kernel, µs of one launch."""


def group(
    name: str,
    members: Mapping[str, int],
    rows: int = HIDDEN,
    planned: Treatment = "fp8_tensor",
    **changes: Any,
) -> ExpectedGroup:
    """Members with their out_features; `rows` are the inputs'."""
    kind: Kind = "lm_head" if name == "lm_head" else "linear"
    stored: Treatment = changes.pop("stored", planned)
    whole = ExpectedGroup(
        name,
        kind,
        tuple(members),
        planned,
        stored,
        (GemmShape(rows, sum(members.values()), sampled=kind == "lm_head"),),
        tuple(Module(m, m, name, kind, out, rows, stored) for m, out in members.items()),
        (),
    )
    return replace(whole, **changes)


def layer(number: int) -> list[ExpectedGroup]:
    """Llama's, with grouped-query attention."""
    attention, mlp = f"model.layers.{number}.self_attn", f"model.layers.{number}.mlp"
    sizes = {"q_proj": HIDDEN, "k_proj": 1024, "v_proj": 1024}
    return [
        group(f"{attention}.qkv", {f"{attention}.{m}": out for m, out in sizes.items()}),
        group(f"{attention}.o_proj", {f"{attention}.o_proj": HIDDEN}),
        group(f"{mlp}.gate_up", {f"{mlp}.gate_proj": WIDE, f"{mlp}.up_proj": WIDE}),
        group(f"{mlp}.down_proj", {f"{mlp}.down_proj": HIDDEN}, WIDE),
    ]


DOWN = "model.layers.1.mlp.down_proj"
QKV = "model.layers.0.self_attn.qkv"
HEAD = group("lm_head", {"lm_head": 32000}, planned="bf16")


def expected(*changed: ExpectedGroup, caches: str = "bf16") -> Expected:
    """Two layers and the output layer; groups of these names in place of those."""
    others = {each.name: each for each in changed}
    plain = [*layer(0), *layer(1), HEAD]
    groups = [others.pop(each.name, each) for each in plain]
    attentions = [f"model.layers.{number}.self_attn" for number in range(2)]
    return Expected(
        "llama-fp8",
        ModelId(name="llama", config_hash="c" * 64, weights_hash="d" * 64),
        True,
        (*groups, *others.values()),
        tuple(
            ExpectedCache(f"{name}.kv_cache", name, "fp8" if caches == "fp8" else "bf16")
            for name in attentions
        ),
    )


def fp8_time(shape: GemmShape, tokens: int, share: float = 0.7) -> float:
    """µs of a GEMM at this share of an H200's FP8 peak."""
    return 2 * tokens * shape.in_features * shape.out_features / 1979e6 / share


def rows(
    of: Expected, phase: str, kernels: Mapping[str, str] | None = None, fp8: str = FP8
) -> list[Row]:
    """A launch per module: FP8 where that is expected, after a kernel that quantizes; in the
    kernel that `kernels` has for a group or a member.
    """
    chosen = kernels or {}
    found: list[Row] = []
    for each in of.groups:
        for member in each.members:
            kernel = chosen.get(member, chosen.get(each.name, fp8 if each.expected else BF16))
            if kernel == "":
                continue
            us = 1000.0 if phase == "prefill" else 20.0
            us *= each.gemms[0].out_features / len(each.members) / HIDDEN
            if each.expected:
                found.append((member, QUANT, us / 20))
            found.append((member, kernel, us if kernel == fp8 else 2 * us))
    return found


def trace(
    of: Mapping[str, Sequence[Row]],
    *,
    tool: Tool = "nsys",
    passes: Mapping[str, int] | None = None,
    counters: Mapping[str, Mapping[Counter, float]] | None = None,
    timed: bool = True,
    devices: Iterable[int] = (0,),
    **changes: Any,
) -> Trace:
    """Rows by phase, one prefill and two decode steps unless `passes` says otherwise; `counters` by
    the kernel's name. Not `timed`: kernels one by one, no times of ranges.
    """
    times = passes or {"prefill": 1, "decode": 2}
    kernels, ranges = [], []
    clock = 0.0
    for phase, launches in of.items():
        for _ in range(times.get(phase, 1)):
            start = clock
            for module, name, us in launches:
                outer = (phase,) if phase in {"prefill", "decode"} else ()
                inner = (module,) if module else ()
                kernels += [
                    Kernel(
                        name,
                        us,
                        outer + inner,
                        clock if timed else None,
                        device,
                        counters=(counters or {}).get(name, {}),
                    )
                    for device in devices
                ]
                clock += us + 1
            ranges.append(Range(phase, start, clock))
    seen = SeenDevice(0, H200.name, (9, 0), 132, H200.memory_bytes)
    whole = Trace(
        tool, f"run.{tool}", tuple(kernels), tuple(ranges) if timed else (), (), (seen,), "1",
        serialized=not timed,
    )  # fmt: skip
    return replace(whole, **changes)


def full(of: Expected, kernels: Mapping[str, str] | None = None, **changes: Any) -> Trace:
    """Prefill and decode of the whole model."""
    return trace({phase: rows(of, phase, kernels) for phase in ("prefill", "decode")}, **changes)


def record(
    ttft: float | None = None, tpot: float | None = None, device: Device = H200, **changes: Any
) -> RunRecord:
    """Of the native engine; times in ms."""
    speed = Speed(
        ttft_ms=ms(ttft) if ttft else None,
        tpot_ms=ms(tpot) if tpot else None,
        tokens_per_s=1e3 * BATCH * GENERATE / (ttft + tpot * GENERATE) if ttft and tpot else None,
    )
    whole = {
        "engine": "native",
        "engine_version": "torch 2.11",
        "checkpoint": "llama-fp8",
        "device": device,
        "load": Load(batch=BATCH, prompt_len=PROMPT, gen_len=GENERATE),
        "speed": speed,
        "kv_cache": "bf16",
    }
    return RunRecord.model_validate(whole | changes)


def ms(value: float) -> Percentiles:
    return Percentiles(p50=value, p95=value, mean=value, count=5)


def by_name(verdict: Verdict) -> dict[str, Group]:
    return {each.name: each for each in verdict.groups}


def gates(verdict: Verdict) -> dict[str, str]:
    return {gate.name: gate.outcome for gate in verdict.gates}
