"""estimate on the command line: the page of one GPU, the table of several, the data, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Fp8scope, Ran
from tests.estimate import models


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("m") / "Llama-3-70B", models.LLAMA_70B)


def _words(ran: Ran) -> str:
    assert (ran.code, ran.err) == (0, "")
    return " ".join(ran.out.split())


def test_one_gpu_is_an_answer(fp8scope: Fp8scope, llama: Path) -> None:
    page = _words(fp8scope("estimate", llama, "--gpu", "h100", "--tp", 4))
    assert page.startswith(
        "Llama-3-70B (70.6B parameters) on 4× NVIDIA H100 SXM5 80 GB "
        "FP8 Tensor Cores (compute capability 9.0): 1,979 TFLOP/s in FP8"
    )
    assert "FP8 18.2 GB 6.04 GB 644 MB 24.8 GB yes 281" in page
    assert "Prefill: FP8 gives at most 1.96×, twice less what stays in BF16" in page
    assert "INT8 weights give 1.00×" in page
    assert "FP8's decode step is bound by memory. Its matmuls alone turn to arithmetic at" in page
    assert "with the KV cache a step never does" in page
    assert "40,960 in place of 81,920 bytes per token on each GPU" in page
    assert "MBU of a measured decode step (TPOT) in FP8: 6.97 ms / TPOT" in page
    assert "no engine is faster" in page


def test_without_fp8_units_the_first_line_says_so(fp8scope: Fp8scope) -> None:
    page = fp8scope("estimate", "demo", "--gpu", "a100").out.splitlines()
    assert page[0] == "demo (0.9M parameters) on NVIDIA A100 SXM4 80 GB"
    assert page[1].startswith("  No FP8 Tensor Cores (compute capability 8.0; FP8 needs 8.9)")
    assert "weight-only" in page[1]


def test_too_small_says_what_would_fit(fp8scope: Fp8scope, llama: Path) -> None:
    page = _words(fp8scope("estimate", llama, "--gpu", "h100", "--tp", 2))
    assert (
        "Too small for BF16: this load takes 83.5 GB on each GPU, which gives 72 GB. --tp 4 would "
        "fit; batch 2 fits as it is." in page
    )
    one = _words(fp8scope("estimate", llama, "--gpu", "rtx-4090"))
    assert "the weights alone take 141 GB on each GPU, which gives 21.6 GB. --tp 8 would" in one


def test_several_are_compared(fp8scope: Fp8scope, llama: Path) -> None:
    ran = fp8scope("estimate", llama, "--gpu", "h100,h200, a100,h100-sxm", "--tp", 2)
    page = _words(ran)
    assert "on 2× each of 3 GPUs" in page  # each once
    rows = [line.split() for line in ran.out.splitlines() if line.startswith(("h", "a100"))]
    assert [row[:2] for row in rows] == [
        ["h100-sxm", "yes"], ["h200-sxm", "yes"], ["a100-sxm-80gb", "no"],
    ]  # fmt: skip
    assert "No FP8 Tensor Cores: a100-sxm-80gb; FP8 is weight-only there." in page
    assert "a100-sxm-80gb: too small for BF16" in page


def test_the_data_are_those_of_the_page(fp8scope: Fp8scope, llama: Path) -> None:
    words = ("estimate", llama, "--gpu", "gb10,h100", "--batch", 1, "--context", 512, "--json")
    ran = fp8scope(*words)
    assert (ran.code, ran.err) == (0, "")
    data: dict[str, Any] = json.loads(ran.out)
    assert data["load"] == {"batch": 1, "context": 512, "generate": 256}
    gb10, h100 = data["gpus"]
    assert (gb10["gpu"], h100["gpu"]) == ("gb10", "h100-sxm")
    fp8 = gb10["bounds"]["fp8"]
    assert fp8["sequence_tokens_per_s"] == pytest.approx(3.86, abs=0.01)
    assert fp8["decode_bound"] == "memory"
    assert fp8["decode_turns_at_batch"] is None
    assert fp8["decode_speedup"] == pytest.approx(
        gb10["bounds"]["bf16"]["decode_us"] / fp8["decode_us"]
    )
    page = _words(fp8scope("estimate", llama, "--gpu", "gb10", "--batch", 1, "--context", 512))
    assert "3.86" in page
    assert gb10["bounds"]["bf16"]["fits"] is False
    assert set(gb10["bounds"]) == {"bf16", "fp8", "int8_weight"}
    assert gb10["fp8_other_cache"]["kv_cache"] == "fp8"


def test_the_kv_cache_as_asked(fp8scope: Fp8scope) -> None:
    words = ("estimate", "demo", "--kv-cache", "fp8", "--json")
    bounds = json.loads(fp8scope(*words).out)["gpus"][0]["bounds"]
    caches = {name: each["kv_cache"] for name, each in bounds.items()}
    assert caches == {"bf16": "bf16", "fp8": "fp8", "int8_weight": "fp8"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--gpu", "h3000"], "there is no GPU h3000 in the table → did you mean"),
        (["demo", "--gpu", " ,"], "--gpu names no GPU → give one"),
        (["demo", "--tp", 3], "--tp 3 does not divide the 8 attention heads of demo → one of 1, 2"),
        (["demo", "--tp", 0], "'--tp': 0 is not in the range x>=1"),
        (["demo", "--batch", 0], "'--batch': 0 is not in the range x>=1"),
        (["demo", "--model", "demo"], "is no plan, and has its own shapes → leave out --model"),
        (["nowhere"], "there is no nowhere → give a folder"),
    ],
)
def test_refusals_are_one_line(fp8scope: Fp8scope, words: list[object], said: str) -> None:
    ran = fp8scope("estimate", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.refusal
