"""What should be there, by config.json and by its neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import Checkpoint
from tests.checkpoint.doctor.finding import shown, the_error


def without(checkpoint: Checkpoint, *names: str) -> Checkpoint:
    parts = ("weight", "weight_scale", "input_scale", "k_scale", "v_scale")
    checkpoint.drop(*(f"{name}.{part}" for name in names for part in parts))
    return checkpoint


def deep(layers: int) -> Checkpoint:
    """The healthy one, of more layers."""
    checkpoint = checkpoints.healthy()
    for name, tensor in list(checkpoint.tensors.items()):
        if ".layers.0." in name:
            for layer in range(2, layers):
                checkpoint.tensors[name.replace(".layers.0.", f".layers.{layer}.")] = tensor
    checkpoint.config["num_hidden_layers"] = layers
    return checkpoint


@pytest.mark.parametrize("part", ["k_proj", "v_proj"])
def test_half_of_the_keys_and_values(tmp_path: Path, part: str) -> None:
    checkpoint = without(checkpoints.healthy(), f"model.layers.1.self_attn.{part}")
    checkpoint.drop("layers.1.self_attn.k_proj.k_scale", "layers.1.self_attn.v_proj.v_scale")
    checkpoint.drop("k_scale", "v_scale")
    fault = the_error(checkpoint.write(tmp_path), "linear-missing")
    assert fault.where == (f"model.layers.1.self_attn.{part}",)


def test_up_without_gate_is_an_architecture(tmp_path: Path) -> None:
    """Nemotron's, which has no gate anywhere."""
    checkpoint = without(
        checkpoints.healthy(), *(f"model.layers.{n}.mlp.gate_proj" for n in (0, 1))
    )
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_gate_without_up_is_none(tmp_path: Path) -> None:
    checkpoint = without(checkpoints.healthy(), *(f"model.layers.{n}.mlp.up_proj" for n in (0, 1)))
    assert len(the_error(checkpoint.write(tmp_path), "linear-missing").where) == 2


def test_a_layer_that_lacks_what_the_others_have(tmp_path: Path) -> None:
    checkpoint = without(deep(4), "model.layers.2.self_attn.o_proj", "model.layers.3.mlp.down_proj")
    fault = the_error(checkpoint.write(tmp_path), "linear-missing")
    assert set(fault.where) == {"model.layers.2.self_attn.o_proj", "model.layers.3.mlp.down_proj"}


def test_layers_that_share_keys_and_values(tmp_path: Path) -> None:
    names = [f"model.layers.3.self_attn.{part}_proj" for part in "kv"]
    checkpoint = without(deep(4), *names)
    assert set(the_error(checkpoint.write(tmp_path / "a"), "linear-missing").where) == set(names)
    checkpoint.config["num_kv_shared_layers"] = 1
    assert examine(checkpoint.write(tmp_path / "b")).faults == ()


def test_fewer_layers_than_the_config_says(tmp_path: Path) -> None:
    checkpoint = deep(4)
    checkpoint.config["num_hidden_layers"] = 6
    fault = the_error(checkpoint.write(tmp_path), "layers-missing")
    assert fault.where == ("model.layers.4", "model.layers.5")
    assert "num_hidden_layers in config.json is 6, and 2 layers" in fault.what


def test_more_layers_than_the_config_says_predict_tokens(tmp_path: Path) -> None:
    checkpoint = deep(4)
    checkpoint.config["num_hidden_layers"] = 3
    checkpoint.drop("layers.3.self_attn.k_proj.k_scale", "layers.3.self_attn.v_proj.v_scale")
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


def test_an_encoder_and_a_decoder_are_not_counted(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.config |= {"num_hidden_layers": 32, "is_encoder_decoder": True}
    assert examine(checkpoint.write(tmp_path)).faults == ()


@pytest.mark.parametrize("key", ["num_local_experts", "n_routed_experts", "num_experts"])
def test_fewer_experts_than_the_config_says(tmp_path: Path, key: str) -> None:
    checkpoint = checkpoints.moe()
    checkpoint.config[key] = 4
    assert examine(checkpoint.write(tmp_path / "good")).faults == ()
    checkpoint.config[key] = 6
    fault = the_error(checkpoint.write(tmp_path / "bad"), "experts-missing")
    assert fault.where == ("model.layers.0.mlp.experts.4", "model.layers.0.mlp.experts.5")
    assert f"{key} in config.json is 6" in fault.what


def test_an_expert_that_lacks_a_matrix(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.3.down_proj"
    checkpoint = without(checkpoints.moe(), name)
    assert the_error(checkpoint.write(tmp_path), "linear-missing").where == (name,)


def test_what_lies_in_a_missing_shard_is_not_also_absent(tmp_path: Path) -> None:
    folder = deep(4).write(tmp_path, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert the_error(folder, "shard-missing")
