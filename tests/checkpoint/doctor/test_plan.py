"""plan.json beside the weights: what was built is held against what was planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.artefacts.plan import Cache, Factors, Plan, Scale
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.core.modules import Model, Module, Treatment
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import DOWN0, KEPT, Checkpoint
from tests.checkpoint.doctor.finding import shown, the_error
from tests.export import plans, shapes

O0 = "model.layers.0.self_attn.o_proj"
O1 = "model.layers.1.self_attn.o_proj"


def module(name: str, treatment: Treatment = "fp8_tensor") -> Module:
    rows, columns = checkpoints.linears().get(name, (64, 64))
    kind: Any = "lm_head" if name == "lm_head" else "linear"
    group = name
    for shards, whole in (("qkv", "qkv"), (("gate", "up"), "gate_up")):
        if name.endswith(tuple(f".{shard}_proj" for shard in shards)):
            group = f"{name.rpartition('.')[0]}.{whole}_proj"
    wanted: Treatment = "bf16" if name in {KEPT, "lm_head"} else treatment
    return Module(name, name, group, kind, rows, columns, wanted)


def plan_of(*modules: Module, **changes: Any) -> Plan:
    """That of the healthy checkpoint, with these modules more or otherwise."""
    known = {name: module(name) for name in checkpoints.linears()}
    known |= {each.name: each for each in modules}
    model = Model("small", "LlamaForCausalLM", "llama", tuple(known.values()))
    plan = plans.plan_of(model)
    groups = tuple(
        group.model_copy(update={"scales": (_scale(group.members),)})
        if group.precision == "fp8_tensor"
        else group
        for group in plan.groups
    )
    caches = tuple(
        Cache(
            layer=layer,
            attention=f"model.layers.{layer}.self_attn",
            name=f"model.layers.{layer}.self_attn.kv_cache",
            precision="fp8",
            k_scale=0.02 + 0.01 * layer,
            v_scale=0.02 + 0.01 * layer,
        )
        for layer in range(2)
    )
    return plan.model_copy(update={"groups": groups, "kv_cache": caches, **changes})


def _scale(members: tuple[str, ...]) -> Scale:
    value = {"o_proj": 0.03, "down_proj": 0.04}.get(members[0].rpartition(".")[2], 0.02)
    return Scale(members=members, input_amax=448 * value, input_scale=value)


def write(folder: Path, plan: Plan, checkpoint: Checkpoint | None = None) -> Path:
    (checkpoint or checkpoints.healthy()).write(folder)
    plans.write(plan, folder / "plan.json")
    return folder


def test_what_was_planned_was_built(tmp_path: Path) -> None:
    found = examine(write(tmp_path, plan_of()))
    assert found.faults == (), shown(found)


def test_a_linear_in_another_precision(tmp_path: Path) -> None:
    folder = write(tmp_path, plan_of(module(DOWN0, "fp8_token"), module(O0, "bf16")))
    fault = the_error(folder, "plan-not-realized")
    assert set(fault.where) == {DOWN0, O0}
    assert f"{DOWN0} should be FP8 per token and is FP8 per tensor, static" in fault.what


def test_a_linear_without_its_scale(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.drop(f"{DOWN0}.weight_scale")
    found = examine(write(tmp_path, plan_of(), checkpoint))
    assert (found.bare, found.linears["other"]) == (1, 1)
    assert {fault.code for fault in found.errors} == {"weight-scale-missing", "plan-not-realized"}
    assert f"{DOWN0} should be FP8 per tensor, static and is FP8 without a scale" in shown(found)


def test_another_architecture(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.config["architectures"] = ["MistralForCausalLM"]
    fault = the_error(write(tmp_path, plan_of(), checkpoint), "plan-other-model")
    assert "LlamaForCausalLM, and the model is MistralForCausalLM" in fault.what


def test_a_linear_that_the_files_lack(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.down_proj"
    the_error(write(tmp_path, plan_of(module(name))), "plan-linears-missing", [name])


@pytest.mark.parametrize("fp8", [True, False])
def test_a_linear_that_the_plan_lacks(tmp_path: Path, fp8: bool) -> None:
    checkpoint = checkpoints.healthy()
    name = "model.layers.2.mlp.down_proj"
    checkpoint.linear(name, fp8=fp8)
    if not fp8:
        checkpoint.ignore([KEPT, "lm_head", name])
    folder = write(tmp_path, plan_of(), checkpoint)
    assert the_error(folder, "plan-linears-extra").where == (name,)


def test_another_input_scale(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    name = f"{DOWN0}.input_scale"
    checkpoint.tensors[name] *= 1.0005
    assert examine(write(tmp_path / "close", plan_of(), checkpoint)).faults == ()
    checkpoint.tensors[name] *= 1.01
    fault = the_error(write(tmp_path / "apart", plan_of(), checkpoint), "plan-input-scales")
    assert fault.where == (name,)
    assert "planned 0.04" in fault.what


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_a_cache_in_another_precision(tmp_path: Path, precision: str) -> None:
    checkpoint, plan = checkpoints.healthy(), plan_of()
    if precision == "fp8":
        checkpoint.drop(".k_scale", ".v_scale")
        del checkpoint.quantization["kv_cache_scheme"]
        assert checkpoint.metadata is not None
        checkpoint.metadata["quantization"]["kv_cache_quant_algo"] = None
    else:
        caches = [each.model_copy(update={"precision": "bf16"}) for each in plan.kv_cache]
        plan = plan.model_copy(update={"kv_cache": tuple(caches)})
    fault = the_error(write(tmp_path, plan, checkpoint), "plan-kv-cache")
    assert len(fault.where) == 2
    assert f"planned in {precision.upper()}" in fault.what


def test_a_cache_that_is_no_longer_declared(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    del checkpoint.quantization["kv_cache_scheme"]
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"]["kv_cache_quant_algo"] = None
    fault = the_error(write(tmp_path, plan_of(), checkpoint), "plan-kv-cache")
    assert fault.where == tuple(f"model.layers.{layer}.self_attn" for layer in range(2))
    assert "planned in FP8, and config.json does not say so" in fault.what


@pytest.mark.parametrize("which", ["k", "v"])
def test_another_scale_of_the_cache(tmp_path: Path, which: str) -> None:
    checkpoint = checkpoints.healthy()
    name = f"model.layers.1.self_attn.{which}_proj.{which}_scale"
    checkpoint.tensors[name] = torch.tensor(0.05)
    fault = the_error(write(tmp_path, plan_of(), checkpoint), "plan-kv-scales")
    assert fault.where == (name,)
    assert f"0.05 in {name}, planned 0.03" in fault.what


def test_a_static_plan_of_weights_alone(tmp_path: Path) -> None:
    """Without `input_activations`, engines leave inputs in BF16."""
    checkpoint = checkpoints.healthy()
    checkpoint.metadata = None
    float8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    group: dict[str, Any] = {"targets": ["Linear"], "weights": float8, "input_activations": float8}
    checkpoint.config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": [KEPT, "lm_head"],
        "kv_cache_scheme": float8,
    }
    assert examine(write(tmp_path / "static", plan_of(), checkpoint)).healthy
    group["input_activations"] = None
    fault = the_error(write(tmp_path / "alone", plan_of(), checkpoint), "plan-not-realized")
    assert len(fault.where) == 13
    assert "config.json gives their inputs no static scales" in fault.what


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "fp8scope-plan", "version": 1}', ""])
def test_a_damaged_plan(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path, plan_of())
    (folder / "plan.json").write_text(damage)
    the_error(folder, "plan-unreadable", ["plan.json"])


def test_a_plan_of_another_version(tmp_path: Path) -> None:
    folder = write(tmp_path, plan_of())
    data = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(data | {"version": 99}))
    assert "99" in the_error(folder, "plan-unreadable").what


def test_somebody_elses_plan(tmp_path: Path) -> None:
    folder = checkpoints.healthy().write(tmp_path)
    (folder / "plan.json").write_text('{"steps": []}')
    assert examine(folder).faults == ()


@pytest.mark.parametrize("data", [None, b"", b"PK\x03\x04 no zip"])
def test_damaged_factors(tmp_path: Path, data: bytes | None) -> None:
    folder = write(tmp_path, plan_of(factors=Factors(file="plan.npz", sha256="0" * 64)))
    if data is not None:
        (folder / "plan.npz").write_bytes(data)
    the_error(folder, "plan-factors", ["plan.npz"])


def test_experts_by_the_names_of_the_files(tmp_path: Path) -> None:
    model = shapes.planned(shapes.mixtral(hidden=64, wide=128), "fp8_tensor")
    checkpoint = checkpoints.healthy()
    checkpoint.tensors.clear()
    checkpoint.config["architectures"] = ["MixtralForCausalLM"]
    for each in model.modules:
        weight = torch.randn(each.out_features, each.in_features)
        checkpoint.linear(each.name, weight=weight, fp8=each.wanted != "bf16")
    checkpoint.ignore(["lm_head"])
    folder = write(tmp_path / "good", plans.plan_of(model), checkpoint)
    found = examine(folder)
    assert found.healthy, shown(found)
    name = "model.layers.0.block_sparse_moe.experts.3.w2"
    checkpoint.drop(f"{name}.weight", f"{name}.weight_scale", f"{name}.input_scale")
    folder = write(tmp_path / "bad", plans.plan_of(model), checkpoint)
    assert the_error(folder, "linear-missing").where == (name,)  # and not once more as planned
