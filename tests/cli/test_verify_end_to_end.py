"""From the demo's profile to a verdict on a CPU, by the command line; and builds that are broken.

What is broken runs in this process, and its report is judged: to start Python twice takes longer
than all the rest. That the native engine's logits are those of the plan is tested in
tests/verify/native.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.artefacts.verdict import Verdict
from fp8scope.artefacts.verdict_file import read_verdict
from fp8scope.build.api import build_checkpoint
from fp8scope.runtime.fp8.codes import dequantize_weight
from fp8scope.verify import child
from fp8scope.verify.order import RUN, TORCH_TRACE, Order
from tests import models
from tests.build.planned import mixed_plan, scanned
from tests.cli.conftest import Fp8scope
from tests.judge.runs import by_name, gates
from tests.runtime.fp8.checkpoints import write
from tests.shared import run
from tests.verify.native import engines

pytestmark = pytest.mark.slow
PROFILE = Path(__file__).parents[2] / "profiles" / "demo.h5"
DOWN = "model.layers.2.mlp.down_proj"
QKV = "model.layers.1.self_attn.qkv"
QUICK = ("--device", "cpu", "--repeats", "1")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo all in FP8, but for its output layer. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("demo")
    words = ("--candidates", "fp8_tensor", "--keep", "*layers*", "--max-kl", "9")
    run("plan", PROFILE, *words, "--kv-cache", "fp8", "-o", folder / "plan.json", "--json")
    run("build", folder / "plan.json", "--model", "demo", "-o", folder / "fp8", "--json")
    return folder / "fp8"


def tagged(checkpoint: Path, folder: Path, *weight_only: str) -> tuple[Path, Path]:
    """The trace and the record that the native engine leaves of a tagged pass."""
    order = Order(
        str(checkpoint), str(folder), "tagged", "torch", "cpu", 2, 32, 2, weight_only=weight_only
    )  # fmt: skip
    child.run(order, lambda line: None)
    return folder / TORCH_TRACE, folder / RUN


def wrong(verdict: Verdict) -> set[str]:
    return {group.name for group in verdict.groups if group.judged == "not_as_planned"}


def test_the_demo(demo: Path, fp8scope: Fp8scope, tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    ran = fp8scope("verify", demo, "-o", path, *QUICK, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads(path.read_text())
    verdict = read_verdict(path)
    assert (verdict.expected, verdict.judged, verdict.in_fp8, verdict.fp8_share) == (16, 16, 16, 1)
    in_fp8 = [group for group in verdict.groups if group.expected]
    assert {(group.realized, group.evidence) for group in in_fp8} == {("fp8", "operand dtypes")}
    assert by_name(verdict)["lm_head"].realized == "bf16"
    assert gates(verdict) == {
        "precision": "passed", "kept_in_bf16": "passed", "sm_active": "not_measured",
    }  # fmt: skip
    assert {cache.ran for cache in verdict.kv_cache} == {"fp8"}
    assert (verdict.ran.device, verdict.ran.gpu, verdict.ran.gpu_known_as) == ("cpu", "", None)
    assert all(each.sm_active is None for each in verdict.hardware.values())
    assert "It ran on a CPU: SMs, tensor cores" in verdict.unseen[0]
    assert verdict.speed.ttft_ms is not None
    # its times are nobody's cost
    cost = fp8scope("plan", PROFILE, "--cost", path, "-o", tmp_path / "plan.json")
    assert cost.code == 2
    assert "CPU" in cost.refusal
    assert not (tmp_path / "plan.json").exists()


def left_in_bf16(folder: Path, name: str) -> None:
    """Multiply a linear's codes out in the files, and tell all metadata but the plan."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    scale = tensors.pop(f"{name}.weight_scale")
    del tensors[f"{name}.input_scale"]
    tensors[f"{name}.weight"] = dequantize_weight(tensors[f"{name}.weight"], scale).to(
        torch.bfloat16
    )
    save_file(tensors, path, {"format": "pt"})
    for file, key, listed in (
        ("config.json", "quantization_config", "ignore"),
        ("hf_quant_config.json", "quantization", "exclude_modules"),
    ):
        said: dict[str, Any] = json.loads((folder / file).read_text())
        said[key][listed].append(name)
        (folder / file).write_text(json.dumps(said))


def test_a_layer_that_was_left_behind(demo: Path, fp8scope: Fp8scope, tmp_path: Path) -> None:
    broken, path = tmp_path / "broken", tmp_path / "verdict.json"
    shutil.copytree(demo, broken)
    left_in_bf16(broken, DOWN)
    trace, record = tagged(broken, tmp_path)
    ran = fp8scope("verify", broken, "-o", path, "--report", trace, "--report", record)
    assert ran.code == 1
    assert "15 of 16 fused groups that are to run in FP8 do" in ran.refusal
    assert f"not {DOWN} (bf16, aten::" in ran.refusal
    verdict = read_verdict(path)
    assert wrong(verdict) == {DOWN}
    group = by_name(verdict)[DOWN]
    assert (group.planned, group.stored, group.realized) == ("fp8_tensor", "bf16", "bf16")
    assert group.cause == (
        "it lies in BF16 in the files, and the plan says FP8 per tensor, static; the metadata "
        f"excludes {DOWN}"
    )
    assert "fp8scope build" in str(group.remedy)
    assert "it lies in BF16 in the files" in " ".join(ran.out.split())


def test_a_layer_that_runs_by_its_weight_alone(
    demo: Path, fp8scope: Fp8scope, tmp_path: Path
) -> None:
    """One of a fused three, told from the report alone: the record would confess."""
    member, path = QKV.replace("qkv", "k_proj"), tmp_path / "verdict.json"
    trace, _ = tagged(demo, tmp_path, member)
    ran = fp8scope("verify", demo, "-o", path, "--report", trace)
    assert ran.code == 1
    assert QKV in ran.refusal
    verdict = read_verdict(path)
    assert wrong(verdict) == {QKV}
    group = by_name(verdict)[QKV]
    assert (group.realized, group.stored) == ("mixed", "fp8_tensor")
    assert member in str(group.cause)


@pytest.mark.parametrize("layout", ["compressed-tensors", "fp8"])
def test_checkpoints_of_others(layout: str, fp8scope: Fp8scope, tmp_path: Path) -> None:
    """Without a plan: what is stored is what was planned."""
    model = models.build("llama", vocab_size=engines.VOCABULARY)
    folder, path = tmp_path / "fp8", tmp_path / "verdict.json"
    write(model, folder, "fp8_tensor", layout=layout)
    trace, record = tagged(folder, tmp_path)
    ran = fp8scope("verify", folder, "-o", path, "--report", trace, "--report", record)
    assert ran.code == 0, ran.err + ran.out
    verdict = read_verdict(path)
    assert (verdict.expected, verdict.in_fp8) == (8, 8)


def test_scales_of_blocks(fp8scope: Fp8scope, tmp_path: Path) -> None:
    """The native engine cannot multiply with them, and says so before it blames a layer."""
    folder, path = engines.checkpoint("llama", "fp8_block"), tmp_path / "verdict.json"
    trace, record = tagged(folder, tmp_path)
    ran = fp8scope("verify", folder, "-o", path, "--report", trace, "--report", record)
    assert ran.code == 1
    said = " ".join(ran.out.split())
    assert "its scales are per block, which the native engine does not multiply with" in said
    assert "→ verify it with --engine vllm" in said
    verdict = read_verdict(path)
    assert {group.cause for group in verdict.groups if group.expected} == {
        "its scales are per block, which the native engine does not multiply with"
    }


def test_a_model_with_experts(fp8scope: Fp8scope, tmp_path: Path) -> None:
    """Planned, built, run: the GEMMs of experts are those of their stacks."""
    plan, factors = mixed_plan(scanned("mixtral", "bfloat16"), ("fp8_tensor",))
    write_plan(plan, factors, tmp_path / "plan.json")
    model, path = str(scanned("mixtral", "bfloat16").folder), tmp_path / "verdict.json"
    built = build_checkpoint(tmp_path / "plan.json", tmp_path / "fp8", model=model)
    trace, record = tagged(built.folder, tmp_path)
    ran = fp8scope("verify", built.folder, "-o", path, "--report", trace, "--report", record)
    assert ran.code == 0, ran.err + ran.out
    verdict = read_verdict(path)
    planned = {group.name: group.precision for group in plan.groups}
    found = {group.name: group.realized for group in verdict.groups}
    assert found == {name: said.partition("_")[0] for name, said in planned.items()}
    experts = [group for group in verdict.groups if group.name.endswith("experts")]
    assert {(group.realized, len(group.members)) for group in experts} == {("fp8", 2)}
    assert all(set(group.phases) == {"prefill", "decode"} for group in experts)
    assert "bf16" in found.values()  # routers, lm_head
