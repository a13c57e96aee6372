"""The second pass from the command line: its options, how it stops and goes on, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fp8scope.core.choices import Kind, Part
from fp8scope.core.schemes import CANDIDATES, DEFAULT_CANDIDATES
from fp8scope.observe import scan as observe
from fp8scope.observe.applied import Applied
from fp8scope.observe.gradients import Gradients
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from fp8scope.profile.sensitivity import Sensitivity
from tests.cli.conftest import Fp8scope, InterruptAt
from tests.observe import scans

MEMORY = "fp8scope.observe.sensitivity.available_bytes"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


def scored(output: Path) -> tuple[Profile, Sensitivity]:
    profile = read_profile(output)
    assert profile.sensitivity is not None, profile.notes
    return profile, profile.sensitivity


def test_a_scan_scores_unless_told_otherwise(scan: Fp8scope, output: Path) -> None:
    assert scan().code == 0
    profile, found = scored(output)
    assert profile.settings["sensitivity"] == "fisher"
    assert profile.settings["candidates"] == ",".join(DEFAULT_CANDIDATES)
    assert profile.settings["alphas"] == "0.25,0.5,0.75"
    assert {row.terms[0].candidate for row in found.rows if row.kind is Kind.GROUP} == set(
        DEFAULT_CANDIDATES
    )
    assert len(found.samples) == 6
    assert not np.isfinite(found.kl_measured).all()
    assert scan("--force", "--sensitivity", "none").code == 0
    profile = read_profile(output)
    assert profile.sensitivity is None
    assert profile.settings["sensitivity"] == "none"
    assert "candidates" not in profile.settings


def test_kl_measures_all_on_so_many_sequences(scan: Fp8scope, output: Path) -> None:
    words = ["--sensitivity", "kl", "--sensitivity-samples", 2, "--candidates", "fp8_tensor"]
    assert scan(*words).code == 0
    _, found = scored(output)
    assert found.kl_measured.shape[1] == 2
    assert np.isfinite(found.kl_measured).all()


def test_candidates_alphas_and_parts(scan: Fp8scope, output: Path) -> None:
    words = ["--sensitivity-samples", 2, "--candidates", "all", "--alphas", "0.7, 0.3,0.7"]
    assert scan(*words, "--parts").code == 0
    profile, found = scored(output)
    terms = [row.terms[0] for row in found.rows if row.kind is Kind.GROUP]
    assert {term.candidate for term in terms} == set(CANDIDATES)
    assert {term.alpha for term in terms} == {None, 0.3, 0.7}
    assert {term.part for term in terms} == set(Part)
    assert np.isfinite(found.kl_token).all()
    assert profile.settings["alphas"] == "0.3,0.7"
    assert profile.settings["sensitivity_parts"] is True
    assert scan("--force", "--candidates", " fp8_token,fp8_token").code == 0
    profile, found = scored(output)
    assert profile.settings["candidates"] == "fp8_token"
    assert {term.candidate for row in found.rows for term in row.terms} >= {"fp8_token"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sensitivity", "all"), "--sensitivity"),
        (("--sensitivity-samples", "1"), "--sensitivity-samples"),
        (("--candidates", "fp9_tensor"), "fp9_tensor is none of fp8_tensor, fp8_token"),
        (("--candidates", "fp8_tensor,x"), "x is none of"),
        (("--candidates", ","), "an empty list is none of"),
        (("--alphas", "half"), "half is no list of numbers"),
        (("--alphas", "0.5,"), "0.5, is no list of numbers"),
        (("--alphas", ""), "is no list of numbers"),
        (("--alphas", "0.5,1.5"), "an α lies between 0 and 1"),
        (("--alphas", "-0.1"), "an α lies between 0 and 1"),
        (("--alphas", "nan"), "an α lies between 0 and 1"),
    ],
)
def test_what_cannot_be_scored_is_exit_2(
    words: tuple[str, ...], said: str, scan: Fp8scope, output: Path
) -> None:
    ran = scan(*words)
    assert ran.code == 2
    assert said in ran.refusal
    assert "loading" not in ran.err
    assert not output.exists()


# ---- stopping and going on


@pytest.mark.parametrize(
    ("where", "name", "call", "said"),
    [
        (Gradients, "run", 1, "6 of 6 batches and 1 of the second pass"),
        (Gradients, "run", 4, "6 of 6 batches and 4 of the second pass"),
        (Applied, "terms", 1, "6 of 6 batches and 6 of the second pass"),
        (observe, "SensitivityPass", 1, "6 of 6 batches and 1 of the second pass"),
    ],
)
def test_ctrl_c_in_the_second_pass_keeps_and_resume_finishes(
    where: object,
    name: str,
    call: int,
    said: str,
    scan: Fp8scope,
    output: Path,
    interrupt_at: InterruptAt,
) -> None:
    whole = output.with_name("whole.h5")
    assert scan("-o", whole).code == 0
    with interrupt_at(where, name, call=call):
        ran = scan()
    assert ran.code == 130
    assert f"stopped after {said} → go on with: fp8scope scan" in ran.refusal
    assert not output.exists()
    assert Partials(output).exist()
    resumed = scan("--resume")
    assert resumed.code == 0, resumed.err
    scans.assert_identical(read_profile(output), read_profile(whole))
    assert not Partials(output).exist()


def test_resume_under_another_second_pass_is_refused(
    scan: Fp8scope, output: Path, interrupt_at: InterruptAt
) -> None:
    with interrupt_at(Gradients, "run", call=2):
        assert scan().code == 130
    for words, said in (
        (("--sensitivity", "kl"), "sensitivity differs (fisher there, kl asked)"),
        (("--sensitivity", "none"), "sensitivity differs (fisher there, none asked)"),
        (("--sensitivity-samples", 5), "sensitivity_samples differs (64 there, 5 asked)"),
        (("--candidates", "fp8_token"), "candidates differs (fp8_tensor,"),
        (("--alphas", "0.5"), "alphas differs (0.25,0.5,0.75 there, 0.5 asked)"),
        (("--parts",), "sensitivity_parts differs (False there, True asked)"),
    ):
        ran = scan("--resume", *words)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.refusal
        assert Partials(output).exist()
    assert scan("--resume", "--sensitivity", "fisher").code == 0  # as it was by default
    assert scan("--resume", "--parts").code == 2
    assert "sensitivity_parts differs" in scan("--resume", "--parts").refusal


# ---- where it cannot be had


def test_without_memory_it_is_left_out_or_refused(
    scan: Fp8scope, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEMORY, lambda _: 4000)
    ran = scan("--sensitivity", "fisher")
    assert ran.code == 3
    assert "sensitivity needs about" in ran.refusal
    assert "--sensitivity none" in ran.refusal
    assert not [path for path in output.parent.iterdir() if output.name in path.name]
    ran = scan()
    assert ran.code == 0
    assert "note: no sensitivity: sensitivity needs about" in ran.err
    assert read_profile(output).sensitivity is None


# ---- what is shown


def test_scan_and_analyze_as_json(fp8scope: Fp8scope, scan: Fp8scope, output: Path) -> None:
    ran = scan("--json")
    assert ran.code == 0
    assert json.loads(ran.out)["settings"]["sensitivity"] == "fisher"
    ran = fp8scope("analyze", output, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert {group["group"] for group in found["groups"]} >= {"model.layers.0.self_attn.qkv"}
    assert set(found["harmful"]) == {g["group"] for g in found["groups"] if g["harmful"]}
    assert {"fp8_tensor", "fp8_tensor + kv_cache", "fp8_smooth"} <= set(found["models"])
    assert all(score["measured"]["kl"] > 0 for score in found["models"].values())
    for group in found["groups"]:
        assert group["candidates"]["fp8_tensor"]["kl"] > 0


@pytest.mark.parametrize("columns", [80, 120])
def test_the_findings_on_a_page(
    columns: int,
    fp8scope: Fp8scope,
    scan: Fp8scope,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert scan().code == 0
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = fp8scope("analyze", output)
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= columns
    words = " ".join(ran.out.split())
    assert "Where FP8 hurts; names without their first “model.” All linears of the blocks" in words
    assert "blocks, nats per token (measured): " in words
    assert " of 8 fused groups" in words


def test_merged_parts_say_whose_scales_their_scores_are(
    fp8scope: Fp8scope, scan: Fp8scope, model: Path, output: Path
) -> None:
    first, second = output.with_name("a.h5"), output.with_name("b.h5")
    text = output.with_name("other.txt")
    text.write_text((model / "text.txt").read_text().replace("truth", "lie"))
    words = ["--seq-len", 32, "--samples", 6, "--batch-tokens", 32]
    assert scan("-o", first).code == 0
    assert fp8scope("scan", model, "--calib", text, *words, "-o", second).code == 0
    assert fp8scope("merge", first, second, "-o", output).code == 0
    merged, found = scored(output)
    assert len(found.samples) == 12
    assert any("under the static scales of its own text" in note for note in merged.notes)
    assert fp8scope("analyze", output).code == 0
