"""doctor on the command line: the page, the data, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fp8scope.checkpoint.doctor import values
from fp8scope.cli import doctor
from tests.checkpoint.doctor import checkpoints
from tests.cli.conftest import Fp8scope, InterruptAt


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Two errors and a warning: NaN scales, an FP8 layer in the list, no tokenizer."""
    checkpoint = checkpoints.healthy()
    for name in checkpoints.linears():
        if f"{name}.input_scale" in checkpoint.tensors:
            checkpoint.tensors[f"{name}.input_scale"] = torch.tensor(float("nan"))
    checkpoint.ignore([checkpoints.KEPT, "lm_head", checkpoints.DOWN0])
    checkpoint.files.clear()
    return checkpoint.write(tmp_path / "broken")


def test_a_healthy_checkpoint(fp8scope: Fp8scope, tmp_path: Path) -> None:
    folder = checkpoints.healthy().write(tmp_path / "c")
    ran = fp8scope("doctor", folder)
    assert (ran.code, ran.err) == (0, "")
    assert "13 in FP8 per tensor, static, 2 in BF16" in " ".join(ran.out.split())
    assert "KV cache: FP8 with static scales, 2 scales of keys and 2 of values" in ran.out
    assert "Healthy: nothing wrong was found." in ran.out
    told = f"What an engine does with it: fp8scope check {folder} --for vllm"
    assert "".join(told.split()) in "".join(ran.out.split())


def test_warnings_alone_exit_with_0(fp8scope: Fp8scope, tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.files.clear()
    ran = fp8scope("doctor", checkpoint.write(tmp_path / "c"))
    assert ran.code == 0
    assert "Healthy, with 1 warning." in ran.out
    assert "[tokenizer-missing]" in ran.out


def test_errors_exit_with_1_and_say_what_to_do(fp8scope: Fp8scope, broken: Path) -> None:
    ran = fp8scope("doctor", broken)
    assert ran.code == 1
    assert "Broken: 2 errors and 1 warning → see above" in ran.refusal
    page = ran.out
    assert page.index("Errors") < page.index("[scale-nan]") < page.index("Warnings")
    assert page.index("Warnings") < page.index("[tokenizer-missing]")
    assert "  1. " in page
    assert "→ correct the metadata" in page
    assert "and 10 more" in page  # of 13 scales
    assert "All names of what is concerned: --all" in page
    assert "model.layers.1.self_attn.v_proj.input_scale" not in page


def test_a_page_has_no_blanks_at_its_ends(fp8scope: Fp8scope, broken: Path) -> None:
    page = fp8scope("doctor", broken, "--all").out
    assert [line for line in page.splitlines() if line != line.rstrip()] == []


def test_nothing_is_left_out_of_a_short_page(fp8scope: Fp8scope, tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.drop(f"{checkpoints.DOWN0}.weight_scale")
    ran = fp8scope("doctor", checkpoint.write(tmp_path / "c"))
    assert "12 in FP8 per tensor, static, 2 in BF16, 1 in FP8 without a scale" in ran.out
    assert "another quantization" not in ran.out
    assert "--all" not in ran.out


def test_all_names_every_tensor(fp8scope: Fp8scope, broken: Path) -> None:
    ran = fp8scope("doctor", broken, "--all")
    assert ran.code == 1
    assert len([line for line in ran.out.splitlines() if line.strip().endswith("_scale")]) == 13
    assert "--all" not in ran.out


def test_json(fp8scope: Fp8scope, broken: Path) -> None:
    ran = fp8scope("doctor", broken, "--json")
    assert ran.code == 1
    said = json.loads(ran.out)
    assert not said["healthy"]
    assert said["linears"] == {"fp8_tensor": 13, "bf16": 2}
    assert said["kv_cache"] == {"declared": "fp8", "k_scales": 2, "v_scales": 2}
    codes = {fault["code"]: fault for fault in said["faults"]}
    assert set(codes) == {"fp8-ignored", "scale-nan", "tokenizer-missing"}
    assert len(codes["scale-nan"]["where"]) == 13
    assert codes["fp8-ignored"]["remedy"]


def test_no_checkpoint(fp8scope: Fp8scope, tmp_path: Path) -> None:
    assert "no such folder" in fp8scope("doctor", tmp_path / "absent").refusal
    ran = fp8scope("doctor", tmp_path)
    assert ran.code == 2
    assert "holds no checkpoint" in ran.refusal


def test_ctrl_c(
    fp8scope: Fp8scope, interrupt_at: InterruptAt, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupt_at(doctor, "console"):
        ran = fp8scope("doctor", broken)
    assert ran.code == 130
    assert "interrupted" in ran.refusal


def test_ctrl_c_while_it_reads(fp8scope: Fp8scope, interrupt_at: InterruptAt, broken: Path) -> None:
    with interrupt_at(values, "count_scales", call=7):
        ran = fp8scope("doctor", broken)
    assert (ran.code, ran.out) == (130, "")
    assert "interrupted" in ran.refusal


def test_a_bar_where_somebody_looks(
    fp8scope: Fp8scope, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    ran = fp8scope("doctor", broken, "--json")
    assert json.loads(ran.out)["tensors"] > 40
