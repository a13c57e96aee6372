"""Blocks, linears, groups, KV layers and checkpoint names of small random models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.core.structure import Structure
from fp8scope.runtime.experts import named_routers
from fp8scope.runtime.linears import is_transposed, linear_weights, named_linears, weight_matrix
from fp8scope.runtime.structure import discover
from tests import models


def _save(model: PreTrainedModel, folder: Path) -> dict[str, tuple[int, ...]]:
    model.save_pretrained(folder)
    return read_inventory(folder).shapes()


def _checkpoint_names(structure: Structure) -> dict[str, str | None]:
    return {linear.name: linear.checkpoint_weight for linear in structure.linears}


@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_linear_is_in_exactly_one_group(name: str) -> None:
    structure = discover(models.build(name))
    members = [member for group in structure.groups for member in group.members]
    assert sorted(members) == sorted(linear.name for linear in structure.linears)
    assert len({group.name for group in structure.groups}) == len(structure.groups)
    assert len(structure.blocks) == models.LAYERS


@pytest.mark.parametrize("name", models.CONFIGS)
def test_shapes_are_those_of_the_function(name: str) -> None:
    model = models.build(name)
    modules, routers = named_linears(model), named_routers(model)
    for linear in discover(model).linears:
        weight = linear_weights(model)[linear.name]
        assert weight.shape[-2:] == (linear.out_features, linear.in_features)
        if linear.experts:
            assert len(weight) == linear.experts
            continue
        module = modules[linear.name]
        if linear.name not in routers:
            inputs = torch.zeros(1, linear.in_features)
            assert module(inputs).shape == (1, linear.out_features)
        assert (getattr(module, "bias", None) is not None) == linear.bias


@pytest.mark.parametrize("name", models.CONFIGS)
def test_json_round_trip(name: str) -> None:
    structure = discover(models.build(name))
    assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) == structure


@pytest.mark.parametrize("name", models.KNOWN)
def test_kv_layers_have_the_shape_of_the_cache(name: str) -> None:
    model, ids = models.build(name), models.token_ids(rows=1, length=3)
    cache = model(input_ids=ids, use_cache=True).past_key_values
    structure = discover(model)
    assert len(structure.kv_layers) == models.LAYERS
    for layer in structure.kv_layers:
        keys, values = cache.layers[layer.layer].keys, cache.layers[layer.layer].values
        if layer.latent_dim:
            assert keys.shape[-1] == layer.latent_dim
            keys = torch.cat((keys, values), dim=-1)
        assert keys.shape == (1, layer.kv_heads, 3, layer.head_dim)
        assert layer.attention in dict(model.named_modules())


def test_groups_of_llama() -> None:
    structure = discover(models.build("llama"))
    assert structure.family == "llama"
    block = "model.layers.0"
    assert [group.name for group in structure.groups[:4]] == [
        f"{block}.self_attn.qkv",
        f"{block}.self_attn.o_proj",
        f"{block}.mlp.gate_up",
        f"{block}.mlp.down_proj",
    ]
    assert structure.groups[0].members == tuple(f"{block}.self_attn.{p}_proj" for p in "qkv")
    assert structure.groups[-1].members == ("lm_head",)


@pytest.mark.parametrize("name", models.LATENT)
def test_groups_of_deepseek(name: str) -> None:
    structure = discover(models.build(name))
    assert structure.family == "deepseek"
    fused = {group.name: group.members for group in structure.groups if len(group.members) > 1}
    want = {}
    for block, mlp in zip(structure.blocks, ("mlp", "mlp.shared_experts"), strict=True):
        if name != "deepseek_v2_lite":
            members = ("q_a_proj", "kv_a_proj_with_mqa")
            want[f"{block}.self_attn.qkv_a"] = tuple(f"{block}.self_attn.{m}" for m in members)
        gate_up = tuple(f"{block}.{mlp}.{part}_proj" for part in ("gate", "up"))
        want[f"{block}.{mlp}.gate_up"] = gate_up
    experts = f"{structure.blocks[1]}.mlp.experts"
    want[experts] = (f"{experts}.gate_up_proj", f"{experts}.down_proj")
    assert fused == want


def test_deepseek_names_are_those_of_the_files(tmp_path: Path) -> None:
    """transformers renames none of the published tensors outside the routed experts."""
    model = models.build("deepseek_v3")
    shapes = _save(model, tmp_path)
    assert "model.layers.1.mlp.experts.3.gate_proj.weight" in shapes  # as published
    structure = discover(model, shapes)
    names = _checkpoint_names(structure)
    for linear in structure.linears:
        if linear.experts:
            assert linear.checkpoint_shards
        else:
            assert names[linear.name] == f"{linear.name}.weight"


def test_deepseek_with_a_replaced_linear_is_not_known() -> None:
    model = models.build("deepseek_v3")
    model.get_submodule("model.layers.1.self_attn").q_b_proj = nn.Sequential(nn.Linear(20, 72))
    assert discover(model).family is None


def test_an_unknown_architecture_claims_nothing() -> None:
    structure = discover(models.build(models.UNKNOWN))
    assert structure.family is None
    assert structure.blocks == ("model.layers.0", "model.layers.1")
    assert all(group.members == (group.name,) for group in structure.groups)
    assert structure.folds == ()
    assert structure.kv_layers == ()


def test_a_plain_module_without_blocks() -> None:
    structure = discover(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert structure.blocks == ()
    assert [linear.name for linear in structure.linears] == ["0", "2"]


def test_experts_inside_a_block_are_not_taken_for_blocks() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))

    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(3))
    assert discover(model).blocks == ("layers.0", "layers.1", "layers.2")


def test_a_block_with_a_replaced_linear_is_not_known() -> None:
    model = models.build("llama")
    model.get_submodule("model.layers.1.mlp").down_proj = nn.Sequential(nn.Linear(48, 32))
    structure = discover(model)
    assert structure.family is None
    assert "model.layers.1.mlp.down_proj.0" in _checkpoint_names(structure)


def test_gpt2_with_cross_attention_is_not_known() -> None:
    model = models.build("gpt2", add_cross_attention=True)
    assert discover(model).family is None


def test_shared_weights_are_not_folded() -> None:
    model = models.build("llama")
    first, second = (model.get_submodule(f"model.layers.{i}.mlp.down_proj") for i in (0, 1))
    second.weight = first.weight
    structure = discover(model)
    tied = {linear.name: linear.tied_to for linear in structure.linears if linear.tied_to}
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)]
    assert tied == {names[0]: f"{names[1]}.weight", names[1]: f"{names[0]}.weight"}
    assert not any(set(names) & set(fold.consumers) for fold in structure.folds)
    assert len(structure.folds) == 6


def test_slices_of_one_buffer_are_not_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    buffer = torch.randn(2, 4, 4)
    for module, part in zip(model, buffer, strict=True):
        module.weight = nn.Parameter(part)
    assert [linear.tied_to for linear in discover(model).linears] == [None, None]


def test_gemma3_with_a_vision_tower_finds_the_text_blocks(tmp_path: Path) -> None:
    model = models.build_gemma3_multimodal()
    structure = discover(model, _save(model, tmp_path))
    prefix = "model.language_model.layers"
    assert structure.family == "gemma"
    assert structure.blocks == (f"{prefix}.0", f"{prefix}.1")
    assert len(structure.folds) == 8
    names = _checkpoint_names(structure)
    assert names[f"{prefix}.0.mlp.up_proj"] == "language_model.model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("name", models.CONFIGS)
def test_checkpoint_names_of_a_saved_model(name: str, tmp_path: Path) -> None:
    """The tensor named for a linear holds that very linear's weight."""
    model = models.build(name)
    structure = discover(model, _save(model, tmp_path))
    stored = load_file(tmp_path / "model.safetensors")
    for linear in structure.linears:
        if linear.experts:
            weights = linear_weights(model)[linear.name]
            for expert, weight in enumerate(weights):
                shards = [stored[name.format(expert)] for name in linear.checkpoint_shards]
                assert torch.equal(torch.cat(shards), weight), linear.name
            continue
        assert linear.checkpoint_weight is not None, linear.name
        weight = model.get_parameter(f"{linear.name}.weight")
        assert torch.equal(stored[linear.checkpoint_weight], weight), linear.name


def test_experts_of_a_layer_are_one_group_beside_their_router(tmp_path: Path) -> None:
    model = models.build("qwen3_moe")
    structure = discover(model, _save(model, tmp_path))
    mlp = "model.layers.0.mlp"
    stacks = (f"{mlp}.experts.gate_up_proj", f"{mlp}.experts.down_proj")
    groups = {group.name: group.members for group in structure.groups}
    assert groups[f"{mlp}.experts"] == stacks
    assert groups[f"{mlp}.gate"] == (f"{mlp}.gate",)
    assert "model.layers.1.mlp.gate_up" in groups  # a block without experts
    shards = {linear.name: linear.checkpoint_shards for linear in structure.linears}
    assert shards[stacks[0]] == tuple(
        f"{mlp}.experts.{{}}.{part}_proj.weight" for part in ("gate", "up")
    )
    assert shards[f"{mlp}.gate"] == ()


def test_shards_that_miss_an_expert_or_have_another_shape_are_not_taken() -> None:
    model = models.build("mixtral")
    down = "model.layers.0.mlp.experts.down_proj"
    names = [f"model.layers.0.block_sparse_moe.experts.{i}.w2.weight" for i in range(4)]

    def shards(shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
        linears = discover(model, shapes).linears
        return next(linear for linear in linears if linear.name == down).checkpoint_shards

    assert shards(dict.fromkeys(names, (32, 48))) == (names[0].replace(".0.w2", ".{}.w2"),)
    assert shards(dict.fromkeys(names[1:], (32, 48))) == ()
    assert shards(dict.fromkeys(names, (48, 32))) == ()
    assert shards({**dict.fromkeys(names, (32, 48)), names[2]: (31, 48)}) == ()
    whole = discover(model, {down: (4, 32, 48)}).linears
    assert {linear.checkpoint_weight for linear in whole} == {down, None}


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", "transformer."), ("opt", "model.")])
def test_checkpoint_without_the_base_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    """As the published GPT-2 and OPT files are."""
    model = models.build(name)
    _save(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file(
        {key.removeprefix(prefix): tensor for key, tensor in stored.items()},
        tmp_path / "model.safetensors",
    )
    structure = discover(model, read_inventory(tmp_path).shapes())
    for linear in structure.linears:
        expected = linear.tied_to or f"{linear.name}.weight"
        assert linear.checkpoint_weight == expected.removeprefix(prefix)
    assert structure.linears[-1].tied_to is not None  # lm_head


def test_base_model_with_a_prefixed_checkpoint(tmp_path: Path) -> None:
    model = models.build("gpt2")
    structure = discover(model.get_submodule("transformer"), _save(model, tmp_path))
    assert _checkpoint_names(structure)["h.0.mlp.c_fc"] == "transformer.h.0.mlp.c_fc.weight"


def test_gpt_neox_head_has_another_name_in_the_files(tmp_path: Path) -> None:
    model = models.build("gpt_neox")
    shapes = _save(model, tmp_path)
    shapes["embed_out.weight"] = shapes.pop("lm_head.weight", (models.VOCAB, models.HIDDEN))
    assert _checkpoint_names(discover(model, shapes))["lm_head"] == "embed_out.weight"


def test_a_tensor_of_another_shape_is_not_taken() -> None:
    model = models.build("llama")
    name = "model.layers.0.mlp.up_proj"
    fitting = discover(model, {f"{name}.weight": (48, 32)})
    transposed = discover(model, {f"{name}.weight": (32, 48)})
    assert _checkpoint_names(fitting)[name] == f"{name}.weight"
    assert _checkpoint_names(transposed)[name] is None
    assert set(_checkpoint_names(discover(model)).values()) == {None}


def test_a_model_without_weights_on_the_meta_device() -> None:
    config = models.CONFIGS["gpt2"]()
    assert isinstance(config, GPT2Config)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    assert discover(model).folds == discover(models.build("gpt2")).folds
    assert [linear.name for linear in discover(model).linears if linear.tied_to] == ["lm_head"]


def test_conv1d_weight_as_rows_of_outputs() -> None:
    module = Conv1D(6, 4)  # type: ignore[no-untyped-call]
    inputs = torch.randn(3, 4)
    assert is_transposed(module)
    assert weight_matrix(module).shape == (6, 4)
    got = nn.functional.linear(inputs, weight_matrix(module), module.bias)
    torch.testing.assert_close(got, module(inputs))
    with torch.no_grad():
        weight_matrix(module)[5].zero_()
    assert torch.equal(module.weight[:, 5], torch.zeros(4))


def test_weight_matrix_refuses_what_is_not_linear() -> None:
    with pytest.raises(TypeError, match="LayerNorm is not a linear layer"):
        weight_matrix(nn.LayerNorm(4))
