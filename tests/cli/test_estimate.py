"""estimate on the command line: the page of one GPU, the table of several, the data, refusals."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Fp8scope, Ran
from tests.docs.pages import ROOT
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
    assert "Prefill: FP8 gives at most 1.96×, 2× minus what stays in BF16" in page
    assert "INT8 weights give 1.00×" in page
    assert "FP8's decode step is bound by memory. Its matmuls alone are bound by compute" in page
    assert "from batch 338 on (BF16's from 322); with the KV cache a step never is" in page
    assert "batch 562 in place of 281 at most" in page
    assert "40,960 in place of 81,920 bytes per token on each GPU" in page
    assert "MBU of a measured decode step (TPOT) in FP8: 6.97 ms / TPOT" in page
    assert "Times are bounds from data sheets: no engine is faster" in page


def test_without_fp8_units_the_line_under_the_name_says_so(fp8scope: Fp8scope) -> None:
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


def test_where_nothing_fits_nothing_is_said_of_batches(fp8scope: Fp8scope, llama: Path) -> None:
    page = _words(fp8scope("estimate", llama, "--gpu", "l4"))
    assert "a step never is" in page
    assert "a step 1.14× as fast. MBU" in page
    assert "batch 0" not in page
    assert "and 0 fit" not in page
    rows = ("BF16* 75.6 s compute", "FP8* 38.5 s compute", "(* does not fit)")
    assert all(row in page for row in rows)
    fits = _words(fp8scope("estimate", llama, "--gpu", "h100", "--tp", 4))
    assert "*" not in fits


def test_memory_that_is_not_the_gpus_alone_is_said(fp8scope: Fp8scope, llama: Path) -> None:
    def page(names: str) -> str:
        return _words(fp8scope("estimate", llama, "--gpu", names))

    assert "of 115 GB (90% of 128 GB, shared with the CPU)" in page("gb10")
    assert "(90% of 96 GB, shared with the OS)" in page("gh200-96gb")
    assert "shared with" not in page("h200")
    assert "Memory shared with the CPU: gb10. Too" not in page("h200,gb10,gb200")
    assert "CPU: gb10. Memory shared with the OS: gb200." in page("h200,gb10,gb200")


@pytest.mark.parametrize("width", [80, 97])
def test_no_line_ends_between_a_number_and_its_unit(
    fp8scope: Fp8scope, llama: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (["gb10"], ["h100,l4,gb10", "--tp", 2]):
        lines = fp8scope("estimate", llama, "--gpu", *words).out.splitlines()
        assert max(map(len, lines)) <= width
        pairs = [f"{a.split()[-1]} {b.split()[0]}" for a, b in pairwise(lines) if a.split() and b]
        broken = re.compile(r"[\d.,]+ ([GMk]B|TFLOP/s|ms|s|µs|tokens/s)\b")
        assert [pair for pair in pairs if broken.match(pair)] == []


def test_several_fit_80_columns(
    fp8scope: Fp8scope, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell whole, and every header."""
    monkeypatch.setenv("COLUMNS", "80")
    names = "h100,h200,b200,gb10,gh200-96gb,a100-pcie-80gb"
    page = fp8scope("estimate", llama, "--gpu", names, "--tp", 2, "--batch", 16).out
    rows = [line.split() for line in page.splitlines() if "→" in line][1:]
    assert {len(row) for row in rows} == {8}
    assert rows[0] == [
        "h100-sxm", "yes", "no→yes", "2→92", "145→73.9", "22.5→12.3", "509→950", "1.87",
    ]  # fmt: skip
    assert "…" not in page
    words = " ".join(page.split())
    assert "Weights on each GPU: 70.6 GB in BF16, 36.3 GB in FP8." in words
    assert "×: tokens/s in FP8 over those in BF16" in words


@pytest.mark.parametrize(
    ("words", "header"),
    [
        (["demo"], "step, µs"),
        (["demo", "--context", 4096, "--batch", 4096], "step, ms"),
        (["Llama", "--context", 131072], "first token, s"),
    ],
)
def test_other_sizes_fit_80_columns_too(
    fp8scope: Fp8scope,
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    header: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    subject, *others = words
    of = llama if subject == "Llama" else subject
    page = fp8scope("estimate", of, *others, "--gpu", "h100,gb10,a100-pcie-80gb,l4").out
    rows = [line.split() for line in page.splitlines() if "→" in line][1:]
    assert [len(row) for row in rows] == [8] * 4
    assert "…" not in page
    assert re.search(rf"\b{header.rpartition(', ')[2]}\s", page.partition("h100-sxm  ")[0])
    assert all(re.fullmatch(r"[\d.,]+[kM]?→[\d.,]+[kM]?", row[3]) for row in rows)


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


def test_the_page_of_the_data_names_every_key(fp8scope: Fp8scope) -> None:
    page = (ROOT / "docs/explanation/estimate.md").read_text(encoding="utf-8")
    section = page.partition("## The data\n")[2].partition("\n## ")[0]
    of_all, of_bound = section.split("| key of a bound |")
    ran = fp8scope("estimate", "demo", "--gpu", "h100,a100", "--json")
    data: dict[str, Any] = json.loads(ran.out)
    gpus = data["gpus"]
    assert _keys(of_all) == {*data} | {f"gpus[].{key}" for gpu in gpus for key in gpu}
    bounds = [*gpus[0]["bounds"].values(), gpus[1]["fp8_other_cache"]]
    assert [_keys(of_bound)] * len(bounds) == [set(bound) for bound in bounds]
    words = set(re.findall(r"`([^`]+)`", section))
    named = {*data["load"], *gpus[0]["tflops"], *gpus[0]["bounds"], data["source"]}
    assert named <= words
    assert {bound["prefill_bound"] for bound in bounds} <= {"compute", "memory"}


def _keys(table: str) -> set[str]:
    """What is named in the first column."""
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`([^`]+)`", "".join(first)))


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
