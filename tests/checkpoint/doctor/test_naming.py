"""Names by another prefix than the model's, and sizes by another config than its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import HIDDEN, VOCABULARY, WIDE, Checkpoint
from tests.checkpoint.doctor.finding import shown, the_error, the_fault
from tests.checkpoint.doctor.test_plan import plan_of, write

SIZES = {
    "hidden_size": HIDDEN, "intermediate_size": WIDE, "vocab_size": VOCABULARY,
    "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip


def renamed(prefix: str) -> Checkpoint:
    """`model.` in names and lists is this."""
    checkpoint = checkpoints.healthy()
    checkpoint.tensors = {
        prefix + name.removeprefix("model.") if name.startswith("model.") else name: tensor
        for name, tensor in checkpoint.tensors.items()
    }
    checkpoint.ignore([prefix + checkpoints.KEPT.removeprefix("model."), "lm_head"])
    return checkpoint


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_another_prefix_than_the_plans(tmp_path: Path, prefix: str) -> None:
    fault = the_error(write(tmp_path, plan_of(), renamed(prefix)), "plan-prefix")
    assert len(fault.where) == 14
    assert "only the prefix of the names differs" in fault.what


def test_a_layer_more_is_no_other_prefix(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.linear("mtp.layers.0.mlp.down_proj")
    the_error(write(tmp_path, plan_of(), checkpoint), "plan-linears-extra")


@pytest.mark.parametrize("prefix", ["", "model.language_model."])
def test_another_prefix_than_the_architectures(tmp_path: Path, prefix: str) -> None:
    folder = renamed(prefix).write(tmp_path)
    fault = the_fault(folder, "tensor-prefix", [f"{prefix}layers.0.input_layernorm.weight"])
    assert fault.severity == "warning"
    assert "LlamaForCausalLM has its layers under model.layers" in fault.what


def test_a_prefix_of_a_model_that_is_not_known(tmp_path: Path) -> None:
    checkpoint = renamed("model.language_model.")
    checkpoint.config["architectures"] = ["SomeForConditionalGeneration"]
    assert examine(checkpoint.write(tmp_path)).faults == ()


@pytest.mark.parametrize("more", [{}, {"head_dim": 16}])
def test_sizes_that_are_the_models(tmp_path: Path, more: dict[str, Any]) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.config |= SIZES | more
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


@pytest.mark.parametrize(
    ("key", "value", "words", "where"),
    [
        ("hidden_size", 128, "hidden_size is 128 in config.json and 64 in", "lm_head"),
        (
            "intermediate_size",
            64,
            "intermediate_size is 64 in config.json and 128 in",
            "mlp.up_proj",
        ),
        ("vocab_size", 97, "vocab_size is 97 in config.json and 96 in", "model.embed_tokens"),
        ("num_attention_heads", 8, "num_attention_heads * head_dim is 128", "self_attn.q_proj"),
        ("num_key_value_heads", 2, "num_key_value_heads * head_dim is 32", "self_attn.v_proj"),
    ],
)
def test_a_size_of_another_model(
    tmp_path: Path, key: str, value: int, words: str, where: str
) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.config |= SIZES | {"head_dim": 16, key: value}
    fault = the_error(checkpoint.write(tmp_path), "config-shape")
    assert words in fault.what
    assert any(name.endswith(where) for name in fault.where)


def test_sizes_of_a_model_that_computes_them_otherwise(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.config |= SIZES | {"hidden_size": 128, "architectures": ["SomeForCausalLM"]}
    assert examine(checkpoint.write(tmp_path)).faults == ()
