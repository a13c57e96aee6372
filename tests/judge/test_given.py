"""Reports that are refused before anything is judged, and those that add up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8scope.errors import BadInput
from fp8scope.judge.verdict import Run, judge
from fp8scope.traces.trace import Counter
from tests.judge import runs
from tests.judge.runs import BF16, DOWN, FP8, MARLIN, TRITON, by_name, expected, full

EXPECTED = expected()
PLAIN = {group.name: BF16 for group in EXPECTED.groups}


@pytest.mark.parametrize(
    ("kernel", "counted", "words"),
    [
        (FP8, {}, f"multiplies FP8 in {DOWN}"),
        (MARLIN, {}, f"runs weight-only kernels in {DOWN}"),
        (TRITON, {TRITON: {"fp8_ops": 1e9}}, f"multiplies FP8 in {DOWN}"),
    ],
)
def test_a_baseline_that_is_quantized(
    kernel: str, counted: dict[str, dict[Counter, float]], words: str
) -> None:
    before = full(EXPECTED, PLAIN | {DOWN: kernel}, counters=counted)
    with pytest.raises(BadInput, match=f"run.nsys {words}: it is not of the BF16 model"):
        judge(EXPECTED, Run((full(EXPECTED),)), Run((before,)))
    # under another load it is as wrong
    loads = [runs.record(), runs.record(load={"batch": 1, "prompt_len": 8, "gen_len": 2})]
    with pytest.raises(BadInput, match=words):
        judge(EXPECTED, Run((full(EXPECTED),), loads[0]), Run((before,), loads[1]))


def test_a_baseline_without_ranges_and_one_that_says_what_it_holds() -> None:
    untagged = runs.trace({"any": [("", FP8, 5.0)]})
    with pytest.raises(BadInput, match="multiplies FP8 in nvjet_qqtst"):
        judge(EXPECTED, Run((full(EXPECTED),)), Run((untagged,)))
    held = runs.record(held={DOWN: "fp8_tensor"})
    with pytest.raises(BadInput, match=f"holds {DOWN} in fp8_tensor"):
        judge(EXPECTED, Run((full(EXPECTED),), runs.record()), Run((), held))


def test_two_timelines() -> None:
    one, other = full(EXPECTED), replace(full(EXPECTED), path="second.sqlite")
    said = "run.nsys and second.sqlite are two reports by nsys, and times are taken from one"
    with pytest.raises(BadInput, match=said):
        judge(EXPECTED, Run((one, other)))
    parts = [runs.trace({phase: runs.rows(EXPECTED, phase)}) for phase in ("prefill", "decode")]
    verdict = judge(EXPECTED, Run(tuple(parts)))
    assert by_name(verdict)[DOWN].phases.keys() == {"prefill", "decode"}
    torch = full(EXPECTED, tool="torch")
    assert judge(EXPECTED, Run((one, torch))).passed


def test_counters_in_parts() -> None:
    """Of different metrics they add up; of the same, one would go unread."""
    rows = {"prefill": runs.rows(EXPECTED, "prefill")}
    counted: list[dict[Counter, float]] = [{"sm_active": 0.9}, {"fp8_ops": 1e9}]
    active, ops = (
        runs.trace(rows, tool="ncu", timed=False, counters={FP8: each}) for each in counted
    )
    verdict = judge(EXPECTED, Run((active, ops)))
    assert verdict.hardware["prefill"].sm_active == pytest.approx(0.9)
    assert verdict.hardware["prefill"].fp8_ops is not None
    with pytest.raises(BadInput, match="by ncu, and sm_active is taken from one"):
        judge(EXPECTED, Run((active, replace(active, path="again.csv"))))
