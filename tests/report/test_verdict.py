"""A verdict on the terminal: the gates first, why, and what could not be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from fp8scope.artefacts.verdict import Verdict
from fp8scope.judge.verdict import Limits, Run, judge
from fp8scope.report.verdict import verdict_json, verdict_page, verdict_sentence
from fp8scope.report.verdict_rows import faults, layers_sheets, same_faults, setting, speed_sheet
from tests.judge import runs
from tests.judge.runs import BF16, DOWN, FP8, MARLIN, expected, full

OF = expected()
OTHER_DOWN = DOWN.replace(".1.", ".0.")
COUNTED = {name: {"sm_active": 0.9, "dram_throughput": 0.3} for name in (FP8, BF16)}


def verdict(**kernels: str) -> Verdict:
    """With these kernels in both down projections, beside a baseline in BF16."""
    broken = {name: kernel for kernel in kernels.values() for name in (DOWN, OTHER_DOWN)}
    before = full(OF, {group.name: BF16 for group in OF.groups})
    return judge(
        OF,
        Run((full(OF, broken, counters=COUNTED),), runs.record(20, 5)),
        Run((before,), runs.record(30, 6)),
        limits=Limits(speedup=1.1),
    )


def shown(of: Verdict, width: int = 80, *, whole: bool = False) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(verdict_page(of, whole=whole))
    return captured.get()


def test_gates_come_first() -> None:
    lines = [line.split() for line in shown(verdict(), 120).splitlines()]
    assert lines[0] == ["llama-fp8:", "llama"]
    assert lines[1][:4] == ["passed", "FP8", "All", "8"]
    assert [line[:2] for line in lines[1:5]] == [
        ["passed", "FP8"], ["passed", "BF16"], ["passed", "SMs"], ["passed", "speed"],
    ]  # fmt: skip
    assert not any("not as planned" in " ".join(line) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits(width: int) -> None:
    assert max(map(len, shown(verdict(down=MARLIN), width).splitlines())) <= width


def test_what_is_wrong_is_named_with_kernel_cause_and_remedy() -> None:
    """Two layers with one fault are one entry; each is named with --all."""
    of = verdict(down=MARLIN)
    said = " ".join(shown(of, 200).split())
    assert "FAILED FP8 6 of 8 fused groups that are to run in FP8 do" in said
    assert f"1. {OTHER_DOWN}, and 1 like it: planned fp8_tensor, ran weight-only" in said
    assert "marlin::Marlin" in said
    assert "is a weight-only kernel" in said
    assert "→ look in the engine's log" in said
    found = faults(of)
    assert [(fault.name, fault.ran) for fault in found] == [
        (OTHER_DOWN, "weight-only"), (DOWN, "weight-only"),
    ]  # fmt: skip
    assert [count for _, count in same_faults(found)] == [2]
    assert f"2. {DOWN}: planned" in " ".join(shown(of, 200, whole=True).split())
    assert verdict_sentence(of).startswith("6 of 8 fused groups")
    assert verdict_sentence(verdict()) == verdict().summary


def test_the_table_adds_up() -> None:
    """By kind, µs of all layers; each layer by itself with --all, and the sums are the same."""
    of = verdict()
    for brief, whole in zip(
        layers_sheets(of, whole=False), layers_sheets(of, whole=True), strict=True
    ):
        at = brief.header.index("µs")
        by_kind = {str(row[0]): float(str(row[at]).replace(",", "")) for row in brief.rows}
        assert list(by_kind) == [
            "self_attn.qkv", "self_attn.o_proj", "mlp.gate_up", "mlp.down_proj", "lm_head",
        ]  # fmt: skip
        column = whole.header.index("µs")
        single = [
            float(str(row[column]).replace(",", ""))
            for row in whole.rows
            if "down_proj" in str(row[0])
        ]
        assert len(single) == 2
        assert sum(single) == pytest.approx(by_kind["mlp.down_proj"], rel=0.01)
        ratios = {str(row[0]): row[brief.header.index("× BF16")] for row in brief.rows}
        assert ratios["mlp.down_proj"] == "1.95"


def test_speed_beside_the_baseline() -> None:
    sheet = speed_sheet(verdict())
    assert sheet.rows[0] == ("first token, ms", "20", "20", "30", "1.50")
    assert sheet.header == ("", "p50", "p95", "BF16's", "×")


def test_a_cpu_is_compared_with_nothing() -> None:
    """Neither by layers nor in whole: a CPU's times say nothing of a GPU."""
    before = Run((full(OF, {group.name: BF16 for group in OF.groups}),), runs.record(30, 6))
    cpu = Run((full(OF),), runs.record(20, 5, runs.CPU))
    of = judge(OF, cpu, Run(before.traces, runs.record(30, 6, runs.CPU)))
    assert any(phase.baseline_time_us for group in of.groups for phase in group.phases.values())
    assert speed_sheet(of).header == ("", "p50", "p95", "BF16's")
    for whole in (False, True):
        assert all("× BF16" not in sheet.header for sheet in layers_sheets(of, whole=whole))
    gpu = judge(OF, Run((full(OF),), runs.record(20, 5)), before)
    assert all("× BF16" in sheet.header for sheet in layers_sheets(gpu, whole=False))


def test_an_engine_that_was_not_told_and_fp8_of_other_scales() -> None:
    down = replace(runs.group(DOWN, {DOWN: 4096}, 14336, "fp8_token"), stored="fp8_tensor")
    of = judge(expected(down), Run((full(OF),), None))
    assert setting(of)[0] == "Engine not told (no run.json), on NVIDIA H200"
    assert [(each.planned, each.ran) for each in faults(of)] == [("fp8_token", "fp8_tensor")]


def test_what_was_not_seen_is_said() -> None:
    of = judge(OF, Run((full(OF),), None))
    said = " ".join(shown(of).split())
    assert "not measured SMs How busy the SMs are in the GEMMs of prefill was not measured." in said
    assert "Not measured: SM activity, tensor core activity, DRAM throughput, FP8" in said
    assert "No run without a profiler was timed" in said


def test_names_of_others_are_text() -> None:
    """A kernel, a model or a note may be called anything."""
    evil = "[red]gemm\x1b[31m[/red]"
    report = full(OF, {DOWN: evil})
    of = judge(OF, Run((replace(report, notes=("[bold]a\x07",)),), runs.record()))
    said = shown(of, 200)
    assert "[red]gemm·[31m[/red]" in said
    assert "[bold]a·" in said
    assert "\x1b" not in said


def test_json_is_the_verdict_itself() -> None:
    of = verdict(down=MARLIN)
    assert Verdict.model_validate(verdict_json(of)) == of
