"""`plan` from the command line: its files, what it prints, and every refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest

from fp8scope.artefacts import plan_file
from fp8scope.artefacts.plan_file import factors_path, read_factors, read_plan
from fp8scope.artefacts.verdict_file import write_verdict
from fp8scope.plan import make
from fp8scope.profile import layout
from fp8scope.profile.writer import write_profile
from tests.artefacts import verdicts
from tests.cli.conftest import Fp8scope, InterruptAt, Ran
from tests.plan import invented
from tests.plan.test_plan import small


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    write_profile(small(), tmp_path / "profile.h5")
    return tmp_path / "profile.h5"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


class Plan:
    """`plan(*options)` plans the small profile into plan.json."""

    def __init__(self, run: Fp8scope, profile: Path, out: Path) -> None:
        self._run, self._profile, self._out = run, profile, out

    def __call__(self, *options: object) -> Ran:
        return self._run("plan", self._profile, "-o", self._out, *options)


@pytest.fixture
def plan(fp8scope: Fp8scope, profile: Path, out: Path) -> Plan:
    return Plan(fp8scope, profile, out)


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1e3:.1f} kB"


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"profile.h5"}


def test_a_plan_with_its_factors(plan: Plan, out: Path) -> None:
    ran = plan("--max-kl", 0.02)
    assert ran.code == 0
    assert ran.err == f"wrote {out} ({size(out)}) and plan.npz\n"
    assert left(out.parent) == {"plan.json", "plan.npz"}
    said = " ".join(ran.out.split())
    assert "Plan for invented; names without their first “model.”" in said
    assert (
        "1 of 8 groups stays in BF16 (6 with one static scale per tensor, 1 with smoothing)" in said
    )
    assert "Asked: at most 0.020 nats per token. Times: roofline of h100-sxm, batch 32" in said
    assert "1. layers.1.self_attn.o: BF16: FP8 (" in said
    assert "2. layers.0.mlp.down: fp8_smooth: smoothing at α 0.5" in said
    assert "What other budgets would buy" in said
    assert "this plan" in said
    written = read_plan(out)
    assert read_factors(written, out).keys() == {fold.key for fold in written.folds}


def test_json_is_the_file(plan: Plan, out: Path) -> None:
    ran = plan("--json", "--preset", "fast")
    assert ran.code == 0
    assert json.loads(ran.out) == json.loads(out.read_text())
    assert json.loads(ran.out)["objective"]["preset"] == "fast"


def test_no_factors_where_nothing_is_smoothed(plan: Plan, out: Path) -> None:
    ran = plan("--candidates", "fp8_token, fp8_tensor", "--max-kl", 1)
    assert ran.err == f"wrote {out} ({size(out)})\n"
    assert left(out.parent) == {"plan.json"}
    assert read_plan(out).objective.candidates == ("fp8_tensor", "fp8_token")


def test_all_that_can_be_asked_is_written_down(plan: Plan, out: Path) -> None:
    ran = plan(
        "--effective-bits", 11, "--gpu", "h200-sxm", "--batch", 8, "--context", 512, "--generate",
        64, "--keep", "lm_head", "--keep", "layers.0.mlp.down", "--exclude", "*.qkv",
        "--exclude", "re:.*1.self_attn.o", "--kv-cache", "fp8",
    )  # fmt: skip
    assert ran.code == 0
    found = read_plan(out)
    assert (found.objective.limit, found.objective.value) == ("effective_bits", 11)
    assert found.objective.kept == ("lm_head", "layers.0.mlp.down")
    assert (found.cost.gpu, found.cost.batch, found.cost.context) == ("h200-sxm", 8, 512)
    precision = {group.name: group.precision for group in found.groups}
    assert "bf16" not in (precision["lm_head"], precision[invented.group(0, "down")])
    excluded = {invented.group(0, "qkv"), invented.group(1, "qkv"), invented.group(1, "o")}
    assert {precision[name] for name in excluded} == {"bf16"}
    assert {cache.precision for cache in found.kv_cache} == {"fp8"}
    assert found.predicted.effective_bits <= 11


def test_a_member_stands_for_its_group_and_says_so(plan: Plan, out: Path) -> None:
    ran = plan("--exclude", "*.0.self_attn.k")
    assert ran.code == 0
    assert "an engine runs it as one with model.layers.0.self_attn.q" in " ".join(ran.out.split())
    assert invented.member(0, "v") in read_plan(out).ignore


MODEL = {key: invented.MODEL[key] for key in ("config_hash", "weights_hash")}
DOWN_US = {invented.group(0, "down"): {"bf16": 5.0, "fp8_tensor": 9.0}}


def verdict(path: Path, times: Any = None, **changes: Any) -> Path:
    model = MODEL | {"name": "invented"} | changes.pop("model", {})
    write_verdict(
        verdicts.verdict(DOWN_US if times is None else times, model=model, **changes), path
    )
    return path


def test_measured_times(plan: Plan, out: Path, tmp_path: Path) -> None:
    """FP8 is slower where it was measured, so that it is left alone."""
    ran = plan("--cost", verdict(tmp_path / "verdict.json"), "--max-kl", 10)
    assert ran.code == 0
    found = read_plan(out)
    assert (found.cost.source, found.cost.gpu) == ("measured", "NVIDIA H200")
    assert (found.cost.batch, found.cost.context, found.cost.generate) == (8, 2048, 128)
    assert invented.member(0, "down") in found.ignore
    evidence = next(g for g in found.groups if g.name == invented.group(0, "down")).evidence
    assert (evidence.bf16_time_us, evidence.fp8_time_us) == (5.0, 9.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"weights_hash": "e" * 64}}, "another fine-tune: the weights differ"),
        ({"model": dict.fromkeys(MODEL, "e" * 64)}, "another model: config.json and the weights"),
        ({"times": {"x": {"bf16": 1.0}}}, "holds no time of any group of this model"),
        ({"times": {}}, "holds no times → verify on a GPU with a profiler"),
        ({"times": {}, "ran": verdicts.ran(device="cpu", gpu="")}, "was measured on a CPU, which"),
    ],
)
def test_a_verdict_that_does_not_belong(
    changes: dict[str, Any], said: str, plan: Plan, tmp_path: Path, out: Path
) -> None:
    ran = plan("--cost", verdict(tmp_path / "verdict.json", **changes))
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.refusal
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-kl", 0.1, "--effective-bits", 9], "a plan has one objective"),
        (["--max-kl", "nan"], "--max-kl"),
        (["--max-kl", "inf"], "--max-kl"),
        (["--max-kl", -1], "--max-kl"),
        (["--effective-bits", 7], "7 bits per weight cannot be had"),
        (["--max-bf16-share", 1.5], "--max-bf16-share"),
        (["--preset", "bold"], "--preset"),
        (["--gpu", "abacus"], "abacus"),
        (["--batch", 0], "--batch"),
        (["--candidates", "fp8_tensor,fp4"], "fp4 is none of"),
        (["--candidates", ","], "an empty list is none of"),
        (["--keep", "*.x"], "*.x matches nothing → names are like"),
        (["--exclude", "re:("], "re:( is no regular expression"),
        (["--keep", "*.o", "--exclude", "*.0.*"], "both kept in FP8 and excluded from it → choose"),
        (["--kv-cache", "int8"], "--kv-cache"),
        (["--cost", "none.json"], "none.json: cannot be read"),
        (["-o", "x.npz"], "that name is for the factors"),
        (["-o", "none/plan.json"], "there is no folder"),
        (["-o", "."], "is a folder"),
        (["--resume"], "--measure MODEL"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(options: list[object], said: str, plan: Plan, out: Path) -> None:
    ran = plan(*options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.refusal
    assert left(out.parent) == set()


def _unscored(path: Path) -> None:
    write_profile(replace(small(), sensitivity=None), path)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def _version(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[layout.VERSION_ATTR] = 99


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_unscored, "holds no sensitivity, which a plan is made from → scan again without"),
        (_truncated, "truncated or corrupt"),
        (_version, "version 99"),
        (lambda path: path.write_text("{}"), "not an fp8scope profile"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_profile_that_cannot_be_planned_from(
    spoil: Any, said: str, plan: Plan, profile: Path, out: Path
) -> None:
    spoil(profile)
    ran = plan()
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.refusal
    assert left(out.parent) == set()


def test_nothing_is_overwritten_unasked(plan: Plan, out: Path) -> None:
    assert plan("--max-kl", 0.02).code == 0
    before = out.read_bytes(), factors_path(out).read_bytes()
    ran = plan("--max-kl", 0)
    assert (ran.code, ran.out) == (2, "")
    assert "plan.json exists already → give another -o, or --force" in ran.refusal
    assert (out.read_bytes(), factors_path(out).read_bytes()) == before
    assert plan("--max-kl", 0, "--force").code == 0
    assert left(out.parent) == {"plan.json"}


def test_a_file_of_somebody_else_beside_it_is_not_taken_for_factors(plan: Plan, out: Path) -> None:
    factors_path(out).write_bytes(b"my weights")
    ran = plan("--max-kl", 0)
    assert ran.code == 2
    assert "plan.npz exists already" in ran.refusal
    assert factors_path(out).read_bytes() == b"my weights"
    assert left(out.parent) == {"plan.npz"}


def test_ctrl_c_leaves_nothing(plan: Plan, out: Path, interrupt_at: InterruptAt) -> None:
    for owner, name in ((make, "certainty"), (plan_file, "plan_text")):
        with interrupt_at(owner, name):
            ran = plan("--candidates", "fp8_tensor")
        assert (ran.code, ran.out) == (130, "")
        assert left(out.parent) == set()


def test_what_fails_while_it_writes_leaves_no_plan(
    plan: Plan, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    ran = plan("--max-kl", 0.02)
    assert (ran.code, ran.out) == (2, "")
    assert "No space left on device → make room there" in ran.refusal
    assert left(out.parent) == set()
