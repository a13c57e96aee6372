"""The demo's plan changed by hand: saved, read by everything that reads plans, and built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fp8scope.artefacts.plan_file import read_factors, read_plan
from fp8scope.errors import GateFailed
from fp8scope.export.checking import check, export_plan
from fp8scope.plan.draft import Draft
from fp8scope.profile.reader import open_profile
from fp8scope.profile.record import Profile
from fp8scope.report.snapshot import opened
from fp8scope.tui.living import Living
from tests.plan.test_plan import close

RECORDED = Path(__file__).parents[2] / "profiles" / "demo.h5"
DOWN, UP = (f"model.layers.0.mlp.{part}" for part in ("down_proj", "gate_up"))
QKV = "model.layers.2.self_attn.qkv"


@pytest.fixture(scope="module")
def demo() -> Profile:
    return open_profile(RECORDED)


def test_numbers_are_those_of_plan_json(
    demo: Profile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Both ways round: the default, and what `plan` chooses for 0.003 nats, set group by group."""
    from fp8scope.cli.app import main

    said = []
    for limit in ([], ["--max-kl", "0.003", "--kv-cache", "bf16"]):
        with pytest.MonkeyPatch.context() as patch:
            words = ["fp8scope", "plan", RECORDED, *limit, "--json", "--force"]
            patch.setattr("sys.argv", [*map(str, words), "-o", str(tmp_path / "plan.json")])
            main()
        said.append(json.loads(capsys.readouterr().out))
    own = Draft(demo)
    assert own.predicted.model_dump(mode="json") == said[0]["predicted"]
    for one in said[1]["groups"]:
        if one["decided"]:
            own.set(one["name"], one["precision"])
    mine = own.predicted.model_dump(mode="json")
    assert close(mine, said[1]["predicted"]) == said[1]["predicted"]
    assert [p.model_dump(mode="json") for p in own.frontier()] == said[0]["frontier"]


def test_the_planted_product_and_its_fold(demo: Profile) -> None:
    own = Draft(demo)
    assert own.precision(DOWN) == "fp8_smooth"
    plain = own.set(DOWN, "fp8_tensor")
    assert own.predicted.nats.kl > 0.06
    assert "layers.0.mlp.gate_up (without factors in its rows)" in plain
    own.set(DOWN, "fp8_token")
    assert own.predicted.nats.kl < 0.006
    smooth = own.set(DOWN, "fp8_smooth")
    assert "layers.0.mlp.gate_up (with factors of α 0.75 in its rows)" in smooth
    for _ in range(3):
        own.steps.undo()
    assert not own.changed


@pytest.mark.slow
def test_a_plan_changed_by_hand_is_exported_checked_and_built(
    demo: Profile, tmp_path: Path
) -> None:
    from fp8scope.build.api import build_checkpoint
    from fp8scope.checkpoint.doctor.examine import examine

    own = Living.of(opened(RECORDED, demo))
    for name, precision in ((DOWN, "bf16"), (QKV, "bf16"), (UP, "fp8_smooth")):
        own.draft.set(name, precision)
    own.draft.set_cache(True)
    path = own.save(tmp_path / "plan.json")
    plan = read_plan(path)
    assert plan.predicted == own.draft.predicted
    assert set(read_factors(plan, path)) == {fold.key for fold in plan.folds} != set()
    assert {f"{DOWN}", *(QKV.replace("qkv", f"{x}_proj") for x in "qkv")} < set(plan.ignore)
    said = own.export("hf-quant-config", tmp_path / "hf_quant_config.json")
    assert "fp8scope build has folded" in said
    kept = json.loads((tmp_path / "hf_quant_config.json").read_text())
    assert kept == export_plan(plan, "hf-quant-config").config
    for consumer in ("vllm", "sglang", "trtllm"):
        checked = check(path, consumer)
        assert checked.proof.holds, checked.proof.faults
    try:
        build_checkpoint(path, tmp_path / "built", model="demo")
    except GateFailed as failed:
        pytest.fail(str(failed))
    assert [
        fault for fault in examine(tmp_path / "built").faults if fault.severity == "error"
    ] == []
    assert check(tmp_path / "built", "vllm").proof.holds
