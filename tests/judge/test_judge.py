"""What each group ran in, told from constructed reports; one fault each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8scope.artefacts.verdict import Verdict
from fp8scope.core.modules import Module
from fp8scope.core.roofline import GemmShape
from fp8scope.judge.expected import Expected, ExpectedGroup
from fp8scope.judge.metadata import Denied
from fp8scope.judge.verdict import Run, judge
from fp8scope.traces.trace import Kernel
from tests.judge import runs
from tests.judge.runs import BF16, DOWN, FP8, MARLIN, QKV, TRITON, by_name, expected, full, gates

EXPECTED = expected()
NAMES = [group.name for group in EXPECTED.groups if group.expected]
COUNTED = {FP8: {"sm_active": 0.95, "fp8_ops": 1e12, "bf16_ops": 0.0}}


def ran(*kernels: tuple[str, str], of: Expected = EXPECTED) -> Verdict:
    """With these kernels in place of those that are right."""
    return judge(of, Run((full(of, dict(kernels)),), runs.record(100, 10)))


def test_all_in_fp8() -> None:
    verdict = ran()
    assert (verdict.expected, verdict.judged, verdict.in_fp8, verdict.fp8_share) == (8, 8, 8, 1.0)
    assert gates(verdict) == {
        "precision": "passed", "kept_in_bf16": "passed", "sm_active": "not_measured",
    }  # fmt: skip
    assert verdict.passed
    for group in verdict.groups:
        assert group.judged == "as_planned", group.name
        assert group.evidence == "kernel names"
        assert (group.cause, group.remedy) == (None, None)
    assert by_name(verdict)["lm_head"].realized == "bf16"
    assert verdict.gates[0].words == "All 8 fused groups that are to run in FP8 do."
    assert verdict.summary.startswith("All 8 fused groups")


@pytest.mark.parametrize("kernel", [BF16, "cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64"])
def test_one_layer_in_bf16(kernel: str) -> None:
    verdict = ran((DOWN, kernel))
    group = by_name(verdict)[DOWN]
    assert (group.realized, group.judged) == ("weight_only", "not_as_planned")
    assert group.cause == f"{kernel} multiplies bf16, and the files hold FP8"
    assert (verdict.in_fp8, verdict.judged) == (7, 8)
    assert verdict.gates[0].outcome == "failed"
    assert verdict.gates[0].value == 7 / 8
    assert DOWN in verdict.gates[0].words
    assert kernel[:40] in verdict.gates[0].words
    assert not verdict.passed


def test_a_bf16_fallback_with_busy_sms_still_fails() -> None:
    """The notes' trap: SM active passes at 90%, and nothing runs in FP8."""
    busy = {BF16: {"sm_active": 0.9, "bf16_ops": 1e12, "fp8_ops": 0.0}}
    kernels = {group.name: BF16 for group in EXPECTED.groups}
    verdict = judge(EXPECTED, Run((full(EXPECTED, kernels, counters=busy),), runs.record()))
    assert gates(verdict)["sm_active"] == "passed"
    assert gates(verdict)["precision"] == "failed"
    assert verdict.fp8_share == 0
    assert not verdict.passed
    assert {group.evidence for group in verdict.groups} == {"counters"}


def test_a_report_that_may_be_of_the_bf16_model() -> None:
    """All groups in plain BF16: first that is asked, but of reports that nobody here made."""
    plain = full(EXPECTED, {group.name: BF16 for group in EXPECTED.groups})
    verdict = judge(EXPECTED, Run((plain,), elsewhere=True))
    group = by_name(verdict)[DOWN]
    assert group.realized == "weight_only"
    assert str(group.cause).startswith("the report may be of another build, the BF16 model's: no")
    assert verdict.gates[0].remedy == (
        "see that it is of this checkpoint; if it is, look in the engine's log for why it fell back"
    )
    for others in (
        judge(EXPECTED, Run((plain,), runs.record())),
        judge(EXPECTED, Run((full(EXPECTED, {DOWN: BF16}),), elsewhere=True)),
        judge(EXPECTED, Run((full(EXPECTED, dict.fromkeys(NAMES, MARLIN)),), elsewhere=True)),
    ):
        assert "another build" not in str(by_name(others)[DOWN].cause)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("fp8_tensor", "ran in FP8 per tensor, planned per token"),
        ("mixed", "ran in FP8, and lies in several precisions"),
    ],
)
def test_in_fp8_and_not_in_that_which_was_planned(stored: str, said: str) -> None:
    down = replace(runs.group(DOWN, {DOWN: 4096}, 14336, "fp8_token"), stored=stored)
    verdict = ran(of=expected(down))
    assert verdict.gates[0].words == (
        f"7 of 8 fused groups that are to run in FP8 do as planned; not {DOWN} ({said})."
    )
    assert by_name(verdict)[DOWN].realized == "fp8"


def test_marlin_is_weight_only() -> None:
    group = by_name(ran((DOWN, MARLIN)))[DOWN]
    assert (group.realized, group.evidence) == ("weight_only", "kernel names")
    assert "is a weight-only kernel" in str(group.cause)
    vllm = runs.record(engine="vllm")
    verdict = judge(EXPECTED, Run((full(EXPECTED, {DOWN: MARLIN}),), vllm))
    assert "VLLM_TEST_FORCE_FP8_MARLIN" in str(by_name(verdict)[DOWN].remedy)


def test_a_gpu_without_fp8() -> None:
    a100 = runs.H200.model_copy(
        update={"name": "NVIDIA A100-SXM4-80GB", "compute_capability": (8, 0), "memory_bytes": None}
    )
    verdict = judge(EXPECTED, Run((full(EXPECTED, {DOWN: MARLIN}),), runs.record(device=a100)))
    assert by_name(verdict)[DOWN].cause == (
        "NVIDIA A100-SXM4-80GB has no FP8 tensor cores (compute capability 8.0)"
    )


def test_a_triton_kernel_is_unknown_until_counters_tell() -> None:
    verdict = ran((DOWN, TRITON))
    group = by_name(verdict)[DOWN]
    assert (group.realized, group.judged, group.evidence) == ("unknown", "not_judged", "none")
    assert "--profiler ncu" in str(group.remedy)
    assert (verdict.judged, verdict.in_fp8, verdict.fp8_share) == (7, 7, 1.0)
    assert gates(verdict)["precision"] == "not_measured"
    assert verdict.passed
    for metric, realized in (("fp8_ops", "fp8"), ("bf16_ops", "weight_only")):
        rows = {"prefill": [(DOWN, TRITON, 900.0)]}
        ncu = runs.trace(rows, tool="ncu", timed=False, counters={TRITON: {metric: 1e12}})  # type: ignore[dict-item]
        both = judge(EXPECTED, Run((full(EXPECTED, {DOWN: TRITON}), ncu), runs.record()))
        found = by_name(both)[DOWN]
        assert (found.realized, found.evidence) == (realized, "counters")
        assert found.phases["prefill"].kernels[0].precision == metric.removesuffix("_ops")
        # times are those of the timeline
        assert found.phases["prefill"].time_us == group.phases["prefill"].time_us


def test_tools_spell_one_kernel_differently() -> None:
    """What nothing tells is taken from a kernel alike; what a name tells is not."""
    long, short = "void my_matmul<float, 128>(int)", "my_matmul"
    rows = {"prefill": [(DOWN, short, 900.0)]}
    ncu = runs.trace(rows, tool="ncu", timed=False, counters={short: {"fp8_ops": 1e12}})
    both = judge(EXPECTED, Run((full(EXPECTED, {DOWN: long}), ncu), runs.record()))
    assert (by_name(both)[DOWN].realized, by_name(both)[DOWN].evidence) == ("fp8", "counters")
    told = "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cutlass::bfloat16_t>>"
    rows = {"prefill": [(DOWN, "cutlass::device_kernel", 900.0)]}
    counted = {"cutlass::device_kernel": {"fp8_ops": 1e12}}
    ncu = runs.trace(rows, tool="ncu", timed=False, counters=counted)  # type: ignore[arg-type]
    both = judge(EXPECTED, Run((full(EXPECTED, {DOWN: told}), ncu), runs.record()))
    assert by_name(both)[DOWN].realized == "mixed"


def test_templates_of_two_phases_share_a_name_and_not_a_precision() -> None:
    """ncu's limit let it see prefill alone; decode runs another instance of the template."""
    prefill, decode = "void my_matmul<float, 128>(int)", "void my_matmul<float, 16>(int)"
    rows = {
        "prefill": runs.rows(EXPECTED, "prefill", {DOWN: prefill}),
        "decode": runs.rows(EXPECTED, "decode", {DOWN: decode}),
    }
    seen = {"prefill": [(DOWN, "my_matmul", 900.0)]}
    ncu = runs.trace(seen, tool="ncu", timed=False, counters={"my_matmul": {"fp8_ops": 1e12}})
    group = by_name(judge(EXPECTED, Run((runs.trace(rows), ncu), runs.record())))[DOWN]
    assert (group.realized, group.judged) == ("unknown", "not_judged")
    assert decode in str(group.cause)


def test_of_what_was_not_seen_a_failed_gate_says_nothing() -> None:
    only = runs.trace({"prefill": [(DOWN, BF16, 9.0)]})
    words = judge(EXPECTED, Run((only,), None)).gates[0].words
    assert words == (
        "0 of 8 fused groups that are to run in FP8 do, in prefill alone; not "
        f"{DOWN} (weight-only, {BF16}); of 7 nothing is known."
    )


def test_a_decode_that_nothing_tells_keeps_prefill_from_speaking_for_it() -> None:
    """A kernel by a name of its own in decode, which may be anything."""
    rows = {
        "prefill": runs.rows(EXPECTED, "prefill"),
        "decode": runs.rows(EXPECTED, "decode", {DOWN: "my_skinny_kernel"}),
    }
    group = by_name(judge(EXPECTED, Run((runs.trace(rows),), runs.record())))[DOWN]
    assert (group.realized, group.judged) == ("unknown", "not_judged")
    assert "my_skinny_kernel" in str(group.cause)


def test_a_fallback_beside_a_kernel_of_which_nothing_is_known_is_one() -> None:
    rows = {
        "prefill": runs.rows(EXPECTED, "prefill", {DOWN: BF16}),
        "decode": runs.rows(EXPECTED, "decode", {DOWN: TRITON}),
    }
    verdict = judge(EXPECTED, Run((runs.trace(rows),), runs.record()))
    group = by_name(verdict)[DOWN]
    assert (group.realized, group.judged) == ("weight_only", "not_as_planned")
    assert group.cause == f"{BF16} multiplies bf16, and the files hold FP8"
    assert gates(verdict)["precision"] == "failed"


def test_counters_of_a_kernel_tell_of_its_own_group_alone() -> None:
    other = by_name(ran((DOWN, TRITON)))
    rows = {"prefill": [("model.layers.0.mlp.down_proj", TRITON, 9.0)]}
    ncu = runs.trace(rows, tool="ncu", timed=False, counters={TRITON: {"fp8_ops": 1e12}})
    both = judge(EXPECTED, Run((full(EXPECTED, {DOWN: TRITON}), ncu), runs.record()))
    assert by_name(both)[DOWN].realized == other[DOWN].realized == "unknown"


def test_prefill_in_fp8_and_decode_in_bf16_is_mixed() -> None:
    rows = {
        "prefill": runs.rows(EXPECTED, "prefill"),
        "decode": runs.rows(EXPECTED, "decode", {DOWN: BF16}),
    }
    verdict = judge(EXPECTED, Run((runs.trace(rows),), runs.record()))
    group = by_name(verdict)[DOWN]
    assert (group.realized, group.judged) == ("mixed", "not_as_planned")
    assert group.cause == f"in decode it runs {BF16}, and in FP8 elsewhere"


def test_one_member_of_a_fused_group_differs() -> None:
    value = f"{QKV.removesuffix('qkv')}v_proj"
    group = by_name(ran((value, BF16)))[QKV]
    assert group.realized == "mixed"
    assert group.cause == f"{value} runs {BF16}, and others of the group FP8"


def test_a_member_that_was_not_seen_leaves_the_group_unknown() -> None:
    value = f"{QKV.removesuffix('qkv')}v_proj"
    verdict = ran((value, ""))
    assert by_name(verdict)[QKV].judged == "not_judged"
    assert value in str(by_name(verdict)[QKV].cause)
    assert gates(verdict)["precision"] == "not_measured"


def test_an_engine_that_fuses_tags_the_fused_module() -> None:
    """vLLM's `qkv_proj` is the group, of which no member has a range of its own."""
    fused = [
        (m if not m.endswith(("q_proj", "k_proj", "v_proj")) else f"{m[:-6]}qkv_proj", k, us)
        for m, k, us in runs.rows(EXPECTED, "prefill")
        if not m.endswith(("k_proj", "v_proj"))
    ]
    verdict = judge(EXPECTED, Run((runs.trace({"prefill": fused}),), None))
    assert by_name(verdict)[QKV].realized == "fp8"
    assert verdict.in_fp8 == 8


def test_a_group_that_is_not_there() -> None:
    verdict = ran((DOWN, ""))
    group = by_name(verdict)[DOWN]
    # its quantizing kernel is gone with it
    without = tuple(k for k in full(EXPECTED, {DOWN: ""}).kernels if DOWN not in k.ranges)
    assert len(without) == len(full(EXPECTED, {DOWN: ""}).kernels)
    assert (group.realized, group.judged, group.phases) == ("not_seen", "not_judged", {})
    assert group.cause == "no kernel of it is in the report"
    assert gates(verdict)["precision"] == "not_measured"
    assert any(DOWN in sentence for sentence in verdict.unseen)


def test_launches_from_a_cuda_graph_lie_in_no_module() -> None:
    rows = {
        "prefill": runs.rows(EXPECTED, "prefill", {DOWN: ""}),
        "decode": [("", FP8, 20.0)] * 15,
    }
    verdict = judge(EXPECTED, Run((runs.trace(rows),), runs.record()))
    group = by_name(verdict)[DOWN]
    assert group.realized == "not_seen"
    assert "of decode lie in no module's range: a CUDA graph" in str(group.cause)
    assert "--cuda-graph-trace=node" in str(group.remedy)
    assert "No module's kernels lie in a range called decode." in verdict.unseen
    assert verdict.others[0].name == FP8
    # all the rest was seen in prefill, and decode may have been anything
    whole = {"prefill": runs.rows(EXPECTED, "prefill"), "decode": [("", BF16, 20.0)] * 15}
    gate = judge(EXPECTED, Run((runs.trace(whole),), runs.record())).gates[0]
    assert gate.outcome == "not_measured"
    assert gate.words == (
        "All 8 fused groups that are to run in FP8 do, in prefill alone. 30 GEMM launches lie in "
        "no module's range, and may be any layer's."
    )
    assert "without CUDA graphs" in str(gate.remedy)
    # a rotary embedding's matmul is nobody's
    whole["decode"] = [("", BF16, 20.0)]
    once = runs.trace(whole, passes={"decode": 1})
    gate = judge(EXPECTED, Run((once,), runs.record())).gates[0]
    assert gate.outcome == "passed"
    assert gate.words == "All 8 fused groups that are to run in FP8 do, in prefill alone."


def test_a_group_that_was_seen_in_one_phase_alone() -> None:
    """ncu's limit was reached in the middle of a decode step."""
    rows = {
        "prefill": runs.rows(EXPECTED, "prefill"),
        "decode": runs.rows(EXPECTED, "decode", {DOWN: ""}),
    }
    gate = judge(EXPECTED, Run((runs.trace(rows, tool="ncu", timed=False),))).gates[0]
    assert gate.words == (
        "All 8 fused groups that are to run in FP8 do, 1 of them seen in one phase alone."
    )


def test_experts_are_judged_by_their_stacks() -> None:
    name = "model.layers.2.mlp.experts"
    stacks = {f"{name}.gate_up_proj": 2 * 1536, f"{name}.down_proj": 4096}
    experts = ExpectedGroup(
        name, "expert", tuple(stacks), "fp8_tensor", "fp8_tensor",
        (GemmShape(4096, 3072, 64), GemmShape(1536, 4096, 64)),
        tuple(Module(s, s, name, "expert", out, 4096, "fp8_tensor") for s, out in stacks.items()),
    )  # fmt: skip
    of = expected(experts)
    assert by_name(ran(of=of))[name].realized == "fp8"
    broken = by_name(ran((f"{name}.down_proj", BF16), of=of))[name]
    assert (broken.realized, broken.judged) == ("mixed", "not_as_planned")


PLANNED = [
    ({"stored": "bf16"}, "lies in BF16 in the files, and the plan says FP8 per tensor, static"),
    ({"stored": "fp8_token"}, "lies in FP8 per token in the files, and the plan says"),
    (
        {"stored": "bf16", "listed": (DOWN,)},
        f"and the plan says FP8 per tensor, static; the metadata excludes {DOWN}",
    ),
]


@pytest.mark.parametrize(("changes", "said"), PLANNED)
def test_a_build_that_is_not_the_plan(changes: dict[str, object], said: str) -> None:
    of = expected(runs.group(DOWN, {DOWN: 4096}, 14336, **changes))  # type: ignore[arg-type]
    kernel = FP8 if changes["stored"] == "fp8_token" else BF16
    verdict = ran((DOWN, kernel), of=of)
    group = by_name(verdict)[DOWN]
    assert group.realized == ("fp8" if kernel == FP8 else "bf16")
    assert group.judged == "not_as_planned"
    assert said in str(group.cause)
    assert "fp8scope build" in str(group.remedy)
    assert gates(verdict)["precision"] == "failed"


def test_what_the_files_say_of_a_fallback() -> None:
    """Shapes, block scales, and lists that match too much; each before the kernel's name."""
    odd = runs.group(DOWN, {DOWN: 4100}, 14336)
    cases = {
        odd: f"{DOWN} is 4100 x 14336, and FP8 GEMMs take multiples of 16",
        runs.group(DOWN, {DOWN: 4096}, 14336, "fp8_block"): "its scales are per block",
        # an odd side is not why: no FP8 GEMM was there to refuse it
        runs.group(DOWN, {DOWN: 4100}, 14336, "fp8_block"): "its scales are per block",
        runs.group(DOWN, {DOWN: 4096}, 14336, listed=(DOWN,)): f"the metadata says that {DOWN} is",
    }
    for group, said in cases.items():
        assert said in str(by_name(ran((DOWN, BF16), of=expected(group)))[DOWN].cause)


def test_what_stays_in_bf16_must() -> None:
    kept = runs.group(DOWN, {DOWN: 4096}, 14336, "bf16")
    of = expected(kept)
    assert gates(ran(of=of))["kept_in_bf16"] == "passed"
    verdict = ran((DOWN, FP8), of=of)
    assert gates(verdict) == {
        "precision": "passed", "kept_in_bf16": "failed", "sm_active": "not_measured",
    }  # fmt: skip
    assert "the engine quantized it" in str(by_name(verdict)[DOWN].cause)
    stored = replace(kept, stored="fp8_tensor")
    assert "build it again" in str(by_name(ran((DOWN, FP8), of=expected(stored)))[DOWN].remedy)


def test_metadata_fails_what_ran_as_planned() -> None:
    verdict = ran(of=replace(EXPECTED, denied=(Denied(DOWN, "config.json", True),)))
    assert gates(verdict) == {
        "precision": "passed", "kept_in_bf16": "passed", "metadata": "failed",
        "sm_active": "not_measured",
    }  # fmt: skip
    assert not verdict.passed
    assert f"config.json lists {DOWN} as not quantized" in verdict.summary


def test_no_ranges_of_modules() -> None:
    """Another engine's report: the whole can be judged, no layer."""
    launches = [("", k, us) for _, k, us in runs.rows(EXPECTED, "prefill")]
    verdict = judge(EXPECTED, Run((runs.trace({"any": launches}),), runs.record(engine="trtllm")))
    assert {group.judged for group in verdict.groups} == {"not_judged"}
    assert verdict.fp8_share is None
    assert gates(verdict) == {"gemm_precision": "passed", "sm_active": "not_measured"}
    gate = verdict.gates[0]
    assert gate.value == 14 / 15  # q, k, v, o, gate, up, down of two layers; lm_head
    assert "which layer a launch belongs to, the report does not say" in gate.words
    assert verdict.gemms["fp8"].calls == 14
    bf16 = [("", BF16 if k == FP8 else k, us) for _, k, us in launches]
    verdict = judge(EXPECTED, Run((runs.trace({"any": bf16}),)))
    assert gates(verdict)["gemm_precision"] == "failed"
    marlin = [*launches, ("", MARLIN, 5.0)]
    verdict = judge(EXPECTED, Run((runs.trace({"any": marlin}),)))
    assert gates(verdict)["gemm_precision"] == "failed"
    assert "1 GEMM launches are weight-only" in verdict.gates[0].words
    triton = [("", TRITON if k == FP8 else k, us) for _, k, us in launches]
    verdict = judge(EXPECTED, Run((runs.trace({"any": triton}),)))
    assert gates(verdict)["gemm_precision"] == "not_measured"


def test_a_launch_or_two_that_fell_back_are_neither_passed_nor_failed() -> None:
    """Without ranges a BF16 launch may be attention's, or a layer's that fell back."""
    many = expected(*(each for n in range(2, 32) for each in runs.layer(n)))
    launches = [("", k, us) for _, k, us in runs.rows(many, "prefill")]
    gate = judge(many, Run((runs.trace({"any": launches}),))).gates[0]
    assert (gate.outcome, gate.value) == ("passed", 224 / 225)
    at = launches.index(("", FP8, 1000.0))
    launches[at] = ("", BF16, 2000.0)
    gate = judge(many, Run((runs.trace({"any": launches}),))).gates[0]
    assert (gate.outcome, gate.value) == ("not_measured", 223 / 225)


def test_int8_in_place_of_fp8_is_no_fp8() -> None:
    int8 = "cutlass_80_tensorop_s8_i16832gemm"
    launches = [("", int8 if k == FP8 else k, us) for _, k, us in runs.rows(EXPECTED, "prefill")]
    gate = judge(EXPECTED, Run((runs.trace({"any": launches}),))).gates[0]
    assert (gate.outcome, gate.value) == ("failed", 0)


def test_nothing_was_to_run_in_fp8() -> None:
    plain = [replace(g, planned="bf16", stored="bf16") for g in EXPECTED.groups]
    of = replace(EXPECTED, groups=tuple(plain))
    launches = [("", k, us) for _, k, us in runs.rows(of, "prefill")]
    gate = judge(of, Run((runs.trace({"any": launches}),))).gates[0]
    assert gate.outcome == "not_measured"
    assert gate.words.startswith("Nothing is to run in FP8")


def test_a_cpu_tells_formats_and_nothing_of_a_gpu() -> None:
    fp8, plain = ("float8_e4m3fn",) * 2, ("bfloat16",) * 2
    kernels = tuple(
        Kernel("aten::_scaled_mm" if each.expected else "aten::mm", 50.0, (phase, member),
               operands=fp8 if each.expected else plain)
        for phase in ("prefill", "decode") for each in EXPECTED.groups for member in each.members
    )  # fmt: skip
    report = runs.trace({}, tool="torch", kernels=kernels, on_gpu=False, devices=())
    verdict = judge(EXPECTED, Run((replace(report, devices=()),), runs.record(90, 9, runs.CPU)))
    assert (verdict.in_fp8, verdict.ran.device, verdict.ran.gpu) == (8, "cpu", "")
    assert {group.evidence for group in verdict.groups} == {"operand dtypes"}
    assert verdict.times_us() == {}
    assert gates(verdict)["sm_active"] == "not_measured"
    assert verdict.unseen[0].startswith("It ran on a CPU: SMs, tensor cores")
    said = "All 8 fused groups that are to run in FP8 do, by the operands that a CPU was given"
    assert verdict.summary == f"{said}."
    assert all(each.of_peak is None for each in verdict.hardware.values())


def test_nothing_watched() -> None:
    verdict = judge(EXPECTED, Run((), runs.record(100, 10)))
    assert gates(verdict)["precision"] == "not_measured"
    assert verdict.passed
    assert "No profiler watched: what the GPU multiplied is not known." in verdict.unseen
    assert verdict.speed.ttft_ms is not None
