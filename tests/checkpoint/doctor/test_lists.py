"""Metadata that does not describe the tensors: each fault is planted, and named alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import DOWN0, KEPT, Checkpoint, Layout
from tests.checkpoint.doctor.finding import shown, the_error, the_fault

LAYOUTS: list[Layout] = ["modelopt", "compressed-tensors"]
FILES = ("config.json", "hf_quant_config.json")


@pytest.fixture(params=LAYOUTS)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return checkpoints.healthy(request.param)


def test_a_bf16_linear_that_is_not_ignored(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.ignore(["lm_head"])
    fault = the_error(checkpoint.write(tmp_path), "bf16-not-ignored")
    assert fault.where == (KEPT,)


def test_an_lm_head_that_is_not_ignored(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.ignore([KEPT])
    assert the_error(checkpoint.write(tmp_path), "bf16-not-ignored").where == ("lm_head",)


def test_a_router_need_not_be_ignored(tmp_path: Path) -> None:
    checkpoint = checkpoints.moe()
    assert "model.layers.0.mlp.gate" not in checkpoint.quantization["ignore"]
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_an_unusual_bf16_linear_is_a_warning(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.linear("model.layers.0.altup.correct", fp8=False)
    fault = the_fault(checkpoint.write(tmp_path), "bf16-unlisted", ["model.layers.0.altup.correct"])
    assert fault.severity == "warning"


def test_an_fp8_linear_that_is_ignored(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.ignore([KEPT, "lm_head", DOWN0])
    assert the_error(checkpoint.write(tmp_path), "fp8-ignored").where == (DOWN0,)


def test_an_fp8_linear_that_no_target_names(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.quantization["config_groups"]["group_0"]["targets"] = [
        "re:.*self_attn.*", "re:.*gate_proj", "re:.*up_proj",
    ]  # fmt: skip
    assert the_error(checkpoint.write(tmp_path), "fp8-ignored").where == (DOWN0,)


@pytest.mark.parametrize(
    "entries",
    [
        [KEPT, "lm_head"],
        ["model.layers.1.mlp.down*", "lm_head*"],
        ["*layers.1.mlp.down_proj", "lm_head"],
        [KEPT, "lm_head", "model.embed_tokens", "model.layers.0.input_layernorm"],
    ],
)
def test_lists_of_modelopt(tmp_path: Path, entries: list[str]) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.ignore(entries)
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


def test_a_parent_stands_for_what_it_holds(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    for end in ("gate_proj", "up_proj"):
        checkpoint.linear(f"model.layers.1.mlp.{end}", fp8=False)
        checkpoint.drop(f"1.mlp.{end}.weight_scale", f"1.mlp.{end}.input_scale")
    checkpoint.ignore(["model.layers.1.mlp", "lm_head"])
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


def test_the_name_of_a_fused_layer_stands_for_its_shards(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    for end in ("gate_proj", "up_proj"):
        checkpoint.linear(f"model.layers.1.mlp.{end}", fp8=False)
        checkpoint.drop(f"1.mlp.{end}.weight_scale", f"1.mlp.{end}.input_scale")
    checkpoint.ignore(["model.layers.1.mlp.gate_up_proj", KEPT, "lm_head"])
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


def test_globs_mean_nothing_in_compressed_tensors(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.ignore(["*layers.1.mlp.down_proj", "lm_head"])
    assert KEPT in the_error(checkpoint.write(tmp_path), "list-prefix").where


def test_expressions_of_compressed_tensors(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.ignore([r"re:.*layers\.1\.mlp\.down_proj$", "re:lm_head"])
    assert examine(checkpoint.write(tmp_path)).faults == ()


@pytest.mark.parametrize(
    "entry",
    [
        "model.language_model.layers.1.mlp.down_proj",
        "language_model.model.layers.1.mlp.down_proj",
        "layers.1.mlp.down_proj",
    ],
)
def test_another_prefix(checkpoint: Checkpoint, tmp_path: Path, entry: str) -> None:
    checkpoint.ignore([entry, "lm_head"])
    fault = the_error(checkpoint.write(tmp_path), "list-prefix", [entry, KEPT])
    assert "with another prefix" in fault.what
    assert KEPT in fault.remedy


def test_an_entry_that_matches_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.ignore([KEPT, "lm_head", "model.layers.7.mlp.up_proj"])
    fault = the_fault(checkpoint.write(tmp_path), "list-entry-dead", ["model.layers.7.mlp.up_proj"])
    assert fault.severity == "warning"


def test_a_dead_entry_says_where_it_would_match(checkpoint: Checkpoint, tmp_path: Path) -> None:
    entry = "model.language_model.layers.1.mlp.down_proj"
    checkpoint.ignore([KEPT, "lm_head", entry])
    fault = the_fault(checkpoint.write(tmp_path), "list-entry-dead", [entry])
    assert f"with another prefix it would be {KEPT}" in fault.what


def test_another_scheme_than_the_tensors(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    weight = torch.randn(64, 128) * 0.05
    scale = weight.abs().max() / 448
    checkpoint.tensors |= {
        f"{DOWN0}.weight": (weight / scale).to(torch.float8_e4m3fn),
        f"{DOWN0}.weight_scale": scale,
    }
    fault = the_error(checkpoint.write(tmp_path), "scheme-differs")
    assert fault.where == (DOWN0,)
    assert "stored per tensor, and config.json says per channel" in fault.what


@pytest.mark.parametrize("kept", ["q_proj", "k_proj", "v_proj"])
def test_a_fused_layer_of_two_schemes(checkpoint: Checkpoint, tmp_path: Path, kept: str) -> None:
    name = f"model.layers.0.self_attn.{kept}"
    checkpoint.drop(f"{name}.weight_scale", f"{name}.input_scale")
    checkpoint.linear(name, fp8=False)
    checkpoint.ignore([KEPT, "lm_head", name])
    fault = the_error(checkpoint.write(tmp_path), "fused-split", [name])
    assert len(fault.where) == 3


def test_experts_that_are_partly_quantized(tmp_path: Path) -> None:
    checkpoint = checkpoints.moe()
    names = [f"model.layers.0.mlp.experts.3.{n}_proj" for n in ("gate", "up", "down")]
    for name in names:
        checkpoint.drop(f"{name}.weight_scale", f"{name}.input_scale")
        checkpoint.linear(name, fp8=False)
    checkpoint.ignore([KEPT, "lm_head", *names])
    fault = the_error(checkpoint.write(tmp_path), "experts-split", names)
    assert "model.layers.0.mlp.experts.3.down_proj" in fault.what


def test_a_quantized_router(tmp_path: Path) -> None:
    checkpoint = checkpoints.moe()
    checkpoint.linear("model.layers.0.mlp.gate", weight=torch.randn(16, 64))
    the_error(checkpoint.write(tmp_path), "router-quantized", ["model.layers.0.mlp.gate"])


def test_a_quantized_norm(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each("norm.weight", lambda w: w.to(torch.float8_e4m3fn))
    the_error(checkpoint.write(tmp_path), "norm-quantized", ["model.norm.weight"])


def test_a_quantized_embedding(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each("embed_tokens.weight", lambda w: w.to(torch.float8_e4m3fn))
    the_error(checkpoint.write(tmp_path), "embedding-quantized", ["model.embed_tokens.weight"])


def test_sides_that_are_no_multiples_of_16(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.linear(DOWN0, weight=torch.randn(60, 128))
    fault = the_fault(checkpoint.write(tmp_path), "sides-unaligned", [DOWN0])
    assert fault.severity == "warning"


def test_two_files_that_disagree(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"]["exclude_modules"] = ["lm_head"]
    assert the_error(checkpoint.write(tmp_path), "metadata-disagree").where == (KEPT,)


def test_two_files_that_disagree_on_the_cache(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"]["kv_cache_quant_algo"] = None
    assert "KV cache" in the_error(checkpoint.write(tmp_path), "metadata-disagree").what


@pytest.mark.parametrize("left", FILES)
def test_one_of_two_files(tmp_path: Path, left: str) -> None:
    checkpoint = checkpoints.healthy()
    if left == "config.json":
        checkpoint.metadata = None
    else:
        del checkpoint.config["quantization_config"]
    fault = the_fault(checkpoint.write(tmp_path), "metadata-one-file")
    assert fault.severity == "warning"
    assert left in fault.what
    assert fault.where == tuple(set(FILES) - {left})


def test_no_metadata(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.metadata = None
    del checkpoint.config["quantization_config"]
    assert "13 linears" in the_error(checkpoint.write(tmp_path), "metadata-missing").what


def test_metadata_of_weights_that_are_in_bf16(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.drop("_scale")
    checkpoint.each(".weight", lambda w: w.to(torch.bfloat16))
    assert len(the_error(checkpoint.write(tmp_path), "fp8-absent").where) == 15


def test_an_unknown_method(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.quantization["quant_method"] = "fp9"
    the_error(checkpoint.write(tmp_path), "quant-method-unknown", ["config.json"])


def test_a_method_that_is_not_read_here(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.quantization["quant_method"] = "quark"
    fault = the_fault(checkpoint.write(tmp_path), "quant-method-unknown")
    assert fault.severity == "warning"


def test_an_unknown_algorithm(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.quantization["quant_algo"] = "FP8_PER_ROW"
    assert "FP8_PER_ROW" in the_error(checkpoint.write(tmp_path), "quant-algo-unknown").what


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("modelopt", {"ignore": "lm_head"}),
        ("modelopt", {"ignore": [1]}),
        ("modelopt", {"quant_algo": "MIXED_PRECISION"}),
        ("compressed-tensors", {"config_groups": None}),
        ("compressed-tensors", {"config_groups": {"group_0": {"targets": "Linear"}}}),
        ("compressed-tensors", {"ignore": ["re:*.down_proj"]}),
        ("compressed-tensors", {"quant_method": "fp8", "activation_scheme": "none"}),
    ],
)
def test_malformed_metadata(tmp_path: Path, layout: Layout, change: dict[str, Any]) -> None:
    checkpoint = checkpoints.healthy(layout)
    checkpoint.quantization.update(change)
    the_error(checkpoint.write(tmp_path), "metadata-malformed", ["config.json"])


def test_a_mix_that_names_its_layers(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors |= checkpoints.per_channel(DOWN0, torch.randn(64, 128))
    checkpoint.each(f"{DOWN0}.weight_scale", lambda scale: scale.reshape(-1))
    checkpoint.drop(f"{DOWN0}.input_scale")
    algorithms = {name: "FP8" for name in checkpoints.linears() if name not in {KEPT, "lm_head"}}
    algorithms[DOWN0] = "FP8_PER_CHANNEL_PER_TOKEN"
    said: dict[str, Any] = {
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {name: {"quant_algo": each} for name, each in algorithms.items()},
    }
    checkpoint.quantization.update(said, ignore=[])
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"].update(said)
    found = examine(checkpoint.write(tmp_path / "good"))
    assert found.faults == (), shown(found)
    said["quantized_layers"].pop(DOWN0)
    assert the_error(checkpoint.write(tmp_path / "bad"), "fp8-ignored").where == (DOWN0,)


def test_experts_that_have_letters_go_by_the_usual_names_too(tmp_path: Path) -> None:
    """As a build lists them, for SGLang asks for those."""
    checkpoint = checkpoints.healthy("compressed-tensors")
    parent = "model.layers.0.block_sparse_moe.experts.0"
    for letter in ("w1", "w2", "w3"):
        checkpoint.tensors |= checkpoints.per_channel(f"{parent}.{letter}", torch.randn(64, 64))
    targets = checkpoint.quantization["config_groups"]["group_0"]["targets"]
    targets += [f"{parent}.{part}_proj" for part in ("gate", "up", "down")]
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)
