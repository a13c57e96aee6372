"""Times, hardware, bounds, gates and speed of constructed reports; and what no order may change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import Workload
from fp8scope.demo.files import DEMO_MODEL
from fp8scope.estimate.api import Estimate, estimate, read_served
from fp8scope.judge.bound import Signs, bound
from fp8scope.judge.verdict import Limits, Run, judge
from fp8scope.traces.record import Load
from fp8scope.traces.trace import Range, Sampled, SeenDevice, Trace
from tests.judge import runs
from tests.judge.runs import BF16, DOWN, FP8, QUANT, by_name, expected, full, gates

EXPECTED = expected()
PLAIN = {group.name: BF16 for group in EXPECTED.groups}
"""Kernels of the baseline."""
DOWN_US = 1050.0
"""Of its launches in prefill: FP8 in 1000 µs, and what quantizes before it."""
BUSY = {
    FP8: {"sm_active": 0.9, "tensor_active": 0.7, "dram_throughput": 0.3, "fp8_ops": 2e12},
    BF16: {"sm_active": 0.9, "tensor_active": 0.7, "dram_throughput": 0.3, "bf16_ops": 2e12},
}


def test_times_are_of_one_pass_and_count_what_quantizes() -> None:
    report = full(EXPECTED, passes={"prefill": 3, "decode": 4})
    phases = by_name(judge(EXPECTED, Run((report,), runs.record())))[DOWN].phases
    assert phases["prefill"].time_us == pytest.approx(DOWN_US)
    assert phases["decode"].time_us == pytest.approx(21)
    assert [(use.name, use.role, use.calls) for use in phases["prefill"].kernels] == [
        (FP8, "gemm", 1), (QUANT, "quantize", 1),
    ]  # fmt: skip


def test_a_baseline_that_ran_in_another_way_is_said() -> None:
    fast = runs.record(20, 5, compiled=True, cuda_graphs=True)
    slow = runs.record(40, 9, compiled=True)
    ran, before = Run((full(EXPECTED),), fast), Run((full(EXPECTED, PLAIN),), slow)
    alike = Run((full(EXPECTED, PLAIN),), fast)
    assert judge(EXPECTED, ran, before).notes == (
        "The FP8 build ran compiled with CUDA graphs, the baseline compiled: the speed-up is not "
        "that of FP8 alone.",
    )
    assert judge(EXPECTED, ran, alike).notes == ()
    assert judge(EXPECTED, ran).notes == ()


def test_without_times_of_ranges_passes_are_told_by_launches() -> None:
    report = full(EXPECTED, passes={"prefill": 1, "decode": 4}, tool="ncu", timed=False)
    verdict = judge(EXPECTED, Run((report,), runs.record()))
    assert by_name(verdict)[DOWN].phases["decode"].time_us == pytest.approx(21)
    assert verdict.times_us() == {}
    assert "ncu ran each kernel alone: times are those of kernels, not of a pass." in verdict.unseen


def test_kernels_that_ran_one_by_one_are_nobodys_cost() -> None:
    """Neither of linears nor of caches, nor of a phase or a baseline that ncu alone saw."""
    attention = "model.layers.0.self_attn"
    rows = {
        phase: [*runs.rows(EXPECTED, phase), (attention, runs.ATTENTION, 5.0)]
        for phase in ("prefill", "decode")
    }
    ncu = runs.trace(rows, tool="ncu", timed=False)
    whole, prefill = runs.trace(rows), runs.trace({"prefill": rows["prefill"]})
    record = runs.record()
    assert judge(EXPECTED, Run((ncu,), record)).times_us() == {}
    assert judge(EXPECTED, Run((prefill, ncu), record)).times_us() == {}
    plain = {
        phase: [*runs.rows(EXPECTED, phase, PLAIN), (attention, runs.ATTENTION, 5.0)]
        for phase in rows
    }
    alone = runs.trace(plain, tool="ncu", timed=False)
    before = judge(EXPECTED, Run((whole,), record), Run((alone,), record)).times_us()
    assert set(before[DOWN]) == {"fp8_tensor"}
    assert before[f"{attention}.kv_cache"] == {"bf16": 5.0}


def test_a_step_is_a_decode_and_a_part_of_a_prefill() -> None:
    """As `core.roofline.Workload` has it: 1 / generate of all prompts in each step."""
    before = full(EXPECTED, {group.name: BF16 for group in EXPECTED.groups})
    verdict = judge(EXPECTED, Run((full(EXPECTED),), runs.record()), Run((before,), runs.record()))
    times = verdict.times_us()
    assert times[DOWN]["fp8_tensor"] == pytest.approx(21 + DOWN_US / runs.GENERATE)
    assert times[DOWN]["bf16"] == pytest.approx(41 + 2050 / runs.GENERATE)
    assert set(times["lm_head"]) == {"bf16"}
    assert by_name(verdict)[DOWN].phases["prefill"].baseline_time_us == pytest.approx(2050)


def test_two_gpus_of_one_process_or_of_two() -> None:
    """Times are means over devices, whether their ranges are one or overlap."""
    one = full(EXPECTED, devices=(0, 1))
    late = tuple(replace(each, start_us=each.start_us + 0.5) for each in one.ranges)
    for report in (one, replace(one, ranges=(*one.ranges, *late))):
        verdict = judge(EXPECTED, Run((report,), runs.record()))
        phases = by_name(verdict)[DOWN].phases
        assert phases["prefill"].time_us == pytest.approx(DOWN_US)
        assert phases["decode"].time_us == pytest.approx(21)
        assert verdict.ran.devices == 2
        assert any("Kernels ran on 2 GPUs: times are means" in note for note in verdict.notes)
        # each has half of the work
        assert phases["prefill"].hardware.flops == 2 * runs.TOKENS * 14336 * 4096 / 2


def test_achieved_over_peak() -> None:
    """2·m·k·n over the time of the GEMM alone, over 1979 TFLOP/s."""
    of = by_name(judge(EXPECTED, Run((full(EXPECTED, counters=BUSY),), runs.record())))[DOWN]
    hardware = of.phases["prefill"].hardware
    flops = 2 * runs.TOKENS * 14336 * 4096
    assert hardware.flops == flops
    assert hardware.tflops == pytest.approx(flops / 1000 / 1e6)
    assert hardware.of_peak == pytest.approx(flops / 1000e-6 / 1979e12)
    assert hardware.fp8_ops == 2e12
    assert hardware.bound == "compute"


def test_a_slice_of_a_gpu_has_no_peak() -> None:
    sliced = runs.H200.model_copy(update={"mig": True})
    verdict = judge(EXPECTED, Run((full(EXPECTED),), runs.record(device=sliced)))
    hardware = by_name(verdict)[DOWN].phases["prefill"].hardware
    assert (hardware.of_peak, hardware.mbu) == (None, None)
    assert hardware.tflops is not None
    assert verdict.ran.gpu_known_as is None
    assert any("(MIG)" in sentence for sentence in verdict.unseen)


@pytest.mark.parametrize(("active", "outcome"), [(0.74, "failed"), (0.75, "passed")])
def test_the_gate_of_sms(active: float, outcome: str) -> None:
    counters = {name: each | {"sm_active": active} for name, each in BUSY.items()}
    verdict = judge(EXPECTED, Run((full(EXPECTED, counters=counters),), runs.record()))
    assert gates(verdict)["sm_active"] == outcome
    assert verdict.hardware["prefill"].sm_active == pytest.approx(active)
    gate = verdict.gates[-1]
    assert (gate.remedy is None) == (outcome == "passed")


def test_the_gate_of_sms_says_of_how_many_groups_it_speaks() -> None:
    """ncu's limit: two kernels are not the model."""
    seen = {"prefill": [(DOWN, FP8, 1000.0)]}
    ncu = runs.trace(seen, tool="ncu", timed=False, counters=BUSY)  # type: ignore[arg-type]
    gate = judge(EXPECTED, Run((ncu,), runs.record())).gates[-1]
    assert gate.words == (
        "SMs have work in 90% of the cycles in the GEMMs of prefill of 1 of 9 fused groups; at "
        "least 75% is asked."
    )
    whole = judge(EXPECTED, Run((full(EXPECTED, counters=BUSY),), runs.record())).gates[-1]
    assert "in the GEMMs of prefill; at least" in whole.words


def test_rates_are_weighted_by_time() -> None:
    """lm_head alone runs in BF16: 15.6 ms of which its SMs are idle, 39 ms of the others."""
    counters = {**BUSY, BF16: {"sm_active": 0.0}}
    verdict = judge(EXPECTED, Run((full(EXPECTED, counters=counters),), runs.record()))
    kernels = full(EXPECTED).kernels
    times = {
        name: sum(k.time_us for k in kernels if k.name == name and k.ranges[0] == "prefill")
        for name in (FP8, BF16)
    }
    wanted = 0.9 * times[FP8] / (times[FP8] + times[BF16])
    assert verdict.hardware["prefill"].sm_active == pytest.approx(wanted)


def sampled(report: Trace, value: float, outside: float, every_us: float) -> Trace:
    """SM activity of a device: `value` within GEMMs."""
    end = max(each.end_us for each in report.ranges)
    times = tuple(each * every_us for each in range(int(end / every_us)))
    gemms = [
        (k.start_us, k.start_us + k.time_us)
        for k in report.kernels
        if k.start_us is not None and k.name in {FP8, BF16}
    ]
    inside = [any(a <= t - every_us and t <= b for a, b in gemms) for t in times]
    values = tuple(value if each else outside for each in inside)
    return replace(report, samples=(Sampled("sm_active", 0, times, values),))


def test_samples_within_gemms_stand_for_counters() -> None:
    report = sampled(full(EXPECTED), 0.9, 0.1, every_us=100)
    verdict = judge(EXPECTED, Run((report,), runs.record()))
    assert verdict.hardware["prefill"].sm_active == pytest.approx(0.9)
    assert gates(verdict)["sm_active"] == "passed"
    assert "in the GEMMs of prefill" in verdict.gates[-1].words
    # a decode GEMM of 20 µs is shorter than two samples: all of the phase, or nothing
    assert by_name(verdict)[DOWN].phases["prefill"].hardware.sm_active == pytest.approx(0.9)


def test_coarse_samples_can_pass_and_not_fail() -> None:
    """Between them are gaps and other kernels: the GEMMs alone may be busier."""
    for value, outcome in ((0.6, "not_measured"), (0.9, "passed")):
        report = sampled(full(EXPECTED), value, value, every_us=12_000)
        verdict = judge(EXPECTED, Run((report,), runs.record()))
        assert gates(verdict)["sm_active"] == outcome
        assert "gaps and other kernels included" in verdict.gates[-1].words


def test_gpus_that_only_stood_by_have_no_say() -> None:
    """nsys samples and lists all GPUs of the machine; the run was on the last."""
    report = full(EXPECTED, devices=(3,))
    report = sampled(report, 0.9, 0.1, every_us=100)
    (busy,) = report.samples
    idle = replace(busy, device=0, values=tuple(0.0 for _ in busy.values))
    others = tuple(SeenDevice(i, "NVIDIA A100-SXM4-80GB", (8, 0), mig=True) for i in range(3))
    own = replace(report.devices[0], index=3)
    report = replace(report, samples=(idle, replace(busy, device=3)), devices=(*others, own))
    verdict = judge(EXPECTED, Run((report,)))
    assert verdict.hardware["prefill"].sm_active == pytest.approx(0.9)
    assert gates(verdict)["sm_active"] == "passed"
    assert (verdict.ran.gpu, verdict.ran.gpu_known_as) == ("NVIDIA H200", "h200-sxm")
    assert (verdict.ran.mig, verdict.ran.compute_capability) == (False, (9, 0))


def test_what_was_counted_fails_though_other_rates_are_of_the_whole_phase() -> None:
    """Coarse samples of DRAM beside SM activity that ncu counted, of a GPU without DRAM's."""
    report = sampled(full(EXPECTED), 0.3, 0.3, every_us=12_000)
    report = replace(report, samples=(replace(report.samples[0], counter="dram_throughput"),))
    counted = {name: {"sm_active": 0.6} for name in (FP8, BF16)}
    ncu = full(EXPECTED, tool="ncu", timed=False, counters=counted)
    verdict = judge(EXPECTED, Run((report, ncu), runs.record()))
    assert gates(verdict)["sm_active"] == "failed"
    assert "in the GEMMs of prefill" in verdict.gates[-1].words


def test_samples_of_a_whole_phase_are_those_of_no_group() -> None:
    report = sampled(full(EXPECTED), 0.9, 0.9, every_us=12_000)
    verdict = judge(EXPECTED, Run((report,), runs.record()))
    assert verdict.hardware["prefill"].sm_active == pytest.approx(0.9)
    assert by_name(verdict)[DOWN].phases["prefill"].hardware.sm_active is None


def test_decode_is_bound_by_memory_or_by_launches() -> None:
    memory = {FP8: {"sm_active": 0.9, "tensor_active": 0.1, "dram_throughput": 0.85}}
    report = full(EXPECTED, counters={**memory, BF16: memory[FP8]})
    verdict = judge(EXPECTED, Run((report,), runs.record()))
    assert verdict.hardware["decode"].bound == "memory"
    decode = sum(k.time_us / 2 for k in report.kernels if k.ranges[0] == "decode")
    slow = judge(EXPECTED, Run((report,), runs.record(100, 3 * decode / 1e3)))
    assert slow.hardware["decode"].bound == "launch"
    assert "decode is launch-bound" in slow.summary
    full_time = judge(EXPECTED, Run((report,), runs.record(100, 1.2 * decode / 1e3)))
    assert full_time.hardware["decode"].bound == "memory"


@pytest.mark.parametrize(
    ("signs", "found"),
    [
        (Signs(0.8, 0.3, 2.0), "compute"),
        (Signs(0.8, 0.3, None), "compute"),
        (Signs(0.1, 0.8, 0.1), "memory"),
        (Signs(0.3, 0.2, 2.0), "launch"),
        (Signs(0.8, 0.3, 2.0, filled=0.4), "launch"),
        (Signs(0.8, 0.3, 2.0, filled=1.4), "compute"),
        (Signs(None, 0.3), "unknown"),
        (Signs(0.3, None), "unknown"),
        (Signs(None, None, filled=0.1), "launch"),
    ],
)
def test_bounds(signs: Signs, found: str) -> None:
    assert bound(signs) == found


@pytest.fixture(scope="module")
def estimated() -> Estimate:
    load = Workload(runs.BATCH, runs.PROMPT, runs.GENERATE)
    return estimate(read_served(str(DEMO_MODEL)), gpu("h200-sxm"), workload=load)


def test_speed_beside_the_baseline_and_the_roofline(estimated: Estimate) -> None:
    run, before = Run((full(EXPECTED),), runs.record(20, 5)), Run((), runs.record(30, 6))
    verdict = judge(EXPECTED, run, before, estimate=estimated, limits=Limits(speedup=1.3))
    assert verdict.speedup["prefill"].measured == pytest.approx(1.5)
    assert verdict.speedup["decode"].measured == pytest.approx(1.2)
    assert verdict.speedup["whole"].measured == pytest.approx(
        (30 + 6 * runs.GENERATE) / (20 + 5 * runs.GENERATE)
    )
    for phase in ("prefill", "decode"):
        bounds = {name: getattr(each, f"{phase}_us") for name, each in estimated.bounds.items()}
        wanted = bounds["bf16"] / bounds["fp8"]
        assert verdict.speedup[phase].estimated == pytest.approx(wanted)
    assert gates(verdict)["speedup"] == "failed"
    read = estimated.bounds["fp8"].decode_reads
    assert verdict.speed.mbu == pytest.approx(read / 5e-3 / 4800e9)
    assert verdict.baseline_speed is not None
    assert "prefill 1.50 times as fast as BF16 (at most" in verdict.summary


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"load": Load(batch=1, prompt_len=64, gen_len=8)}, "under another load (1 × 64 tokens, 8"),
        ({"device": runs.H200.model_copy(update={"name": "NVIDIA H100 PCIe"})}, "on 1× NVIDIA H1"),
    ],
)
def test_a_baseline_that_was_run_otherwise_is_not_compared(
    other: dict[str, object], said: str
) -> None:
    run = Run((full(EXPECTED),), runs.record(20, 5))
    before = Run((full(EXPECTED, PLAIN),), runs.record(30, 6, **other))  # type: ignore[arg-type]
    verdict = judge(EXPECTED, run, before, limits=Limits(speedup=1.3))
    assert all(each.measured is None for each in verdict.speedup.values())
    assert by_name(verdict)[DOWN].phases["prefill"].baseline_time_us is None
    assert gates(verdict)["speedup"] == "not_measured"
    assert any(f"The baseline ran {said}" in sentence for sentence in verdict.unseen)


def test_a_speed_that_nobody_measured_fails_nothing() -> None:
    verdict = judge(
        EXPECTED, Run((full(EXPECTED),), runs.record(20, 5)), limits=Limits(speedup=1.3)
    )
    assert gates(verdict)["speedup"] == "not_measured"
    assert verdict.passed
    assert "No baseline was timed: how much faster FP8 is was not measured." in verdict.unseen


def test_a_cpu_is_no_judge_of_speed() -> None:
    fast = Run((), runs.record(20, 5, runs.CPU)), Run((), runs.record(30, 6, runs.CPU))
    verdict = judge(EXPECTED, *fast, limits=Limits(speedup=1.1))
    assert gates(verdict)["speedup"] == "not_measured"
    assert "a CPU's times say nothing of a GPU" in verdict.gates[-1].words
    assert "times as fast" not in verdict.summary


def test_the_cache_is_what_the_engine_says() -> None:
    of = expected(caches="fp8")
    attention = "model.layers.0.self_attn"
    rows = {
        "prefill": [*runs.rows(of, "prefill"), (attention, runs.ATTENTION, 500.0)],
        "decode": [*runs.rows(of, "decode"), (attention, runs.ATTENTION, 5.0)],
    }
    for held, said in (("fp8", "as_planned"), ("bf16", "not_as_planned"), (None, "not_judged")):
        verdict = judge(of, Run((runs.trace(rows),), runs.record(kv_cache=held)))
        cache = verdict.kv_cache[0]
        assert (cache.ran, cache.judged) == (held or "unknown", said)
        assert cache.phases["decode"].time_us == pytest.approx(5)
        precision = {"fp8": "fp8_tensor", "bf16": "bf16"}
        assert dict(cache.time_us) == ({precision[held]: 5.0} if held else {})
    assert verdict.in_fp8 == 8  # attention says nothing of the linears beside it


ORDERS = st.permutations(range(len(full(EXPECTED).kernels)))


@settings(max_examples=10, deadline=None)
@given(order=ORDERS)
def test_the_order_of_kernels_does_not_matter(order: list[int]) -> None:
    report = full(EXPECTED, counters=BUSY)
    shuffled = replace(report, kernels=tuple(report.kernels[at] for at in order))
    one, other = (judge(EXPECTED, Run((each,), runs.record())) for each in (report, shuffled))
    assert other.times_us() == one.times_us()
    assert [g.realized for g in other.groups] == [g.realized for g in one.groups]
    assert other.gates == one.gates


@settings(max_examples=10, deadline=None)
@given(at=st.integers(0, len(full(EXPECTED).kernels) - 1), share=st.floats(0.1, 0.9))
def test_a_kernel_in_two_parts_takes_the_same_time(at: int, share: float) -> None:
    report = full(EXPECTED)
    kernel = report.kernels[at]
    parts = [replace(kernel, time_us=kernel.time_us * s) for s in (share, 1 - share)]
    split = replace(report, kernels=(*report.kernels[:at], *parts, *report.kernels[at + 1 :]))
    one, other = (judge(EXPECTED, Run((each,), runs.record())) for each in (report, split))
    for before, after in zip(one.groups, other.groups, strict=True):
        for name, phase in before.phases.items():
            assert after.phases[name].time_us == pytest.approx(phase.time_us)
        assert after.realized == before.realized


NAMES = [group.name for group in EXPECTED.groups]
KERNELS = st.sampled_from([FP8, BF16, runs.MARLIN, runs.TRITON, ""])


@settings(max_examples=25, deadline=None)
@given(kernels=st.dictionaries(st.sampled_from(NAMES), KERNELS))
def test_shares_are_shares_and_gates_follow(kernels: dict[str, str]) -> None:
    verdict = judge(EXPECTED, Run((full(EXPECTED, kernels),), runs.record()))
    assert verdict.fp8_share is None or 0 <= verdict.fp8_share <= 1
    wrong = {name for name, kernel in kernels.items() if kernel in {BF16, runs.MARLIN}}
    bad = {g.name for g in verdict.groups if g.expected and g.judged == "not_as_planned"}
    assert bad == wrong - {"lm_head"}
    assert (gates(verdict)["precision"] == "failed") == bool(bad)
    for group in verdict.groups:
        assert (group.cause is not None) == (group.judged != "as_planned"), group.name
        assert (group.remedy is None) == (group.cause is None)


def test_ranges_that_follow_each_other_are_passes_of_their_own() -> None:
    report = full(EXPECTED)
    twice = replace(
        report,
        kernels=report.kernels * 2,
        ranges=(
            *report.ranges,
            *(Range(r.name, r.start_us + 1e9, r.end_us + 1e9) for r in report.ranges),
        ),
    )
    one, two = (judge(EXPECTED, Run((each,), runs.record())) for each in (report, twice))
    for name, times in one.times_us().items():
        assert two.times_us()[name] == pytest.approx(times)
